"""The command: what it prints, how it ends, what it refuses, and how fast it starts."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import wave
from array import array
from math import pi, sin
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

import mtep.cli
from mtep.cli import app, complete_parameter, jsonable, steady_streams, text_table

HEAVY = (
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "matplotlib",
    "librosa",
    "papermill",
    "nbformat",
)


def typed(line, code=0):
    "What a command leaves, after a check of its exit code."
    ended = CliRunner().invoke(app, shlex.split(line, posix=os.name != "nt") if isinstance(line, str) else line)
    assert ended.exit_code == code, ended.output
    return ended


def refused(line):
    "The one line with which a command refuses."
    ended = typed(line, code=2)
    lines = [text for text in ended.stderr.splitlines() if text.strip()]
    assert len(lines) == 1 and lines[0].startswith("mtep: "), ended.stderr
    assert "Traceback" not in ended.output and not ended.stdout
    return lines[0]


def write_tone(path, pitch=220.0, seconds=0.6, rate=16_000):
    "A voiced-looking tone with harmonics that swells and fades."
    count = int(seconds * rate)
    values = (
        sum(sin(2 * pi * pitch * k * t / rate) / k for k in range(1, 9)) * 6000 * sin(pi * t / count)
        for t in range(count)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(array("h", (int(value) for value in values)).tobytes())
    return path


NOTEBOOK = """\
seed: int = 0  # a number
fail: bool = False  # end in an error
synthetic: bool = False  # say so
out_dir: str = ""  # report folder; empty writes nothing"""
WORK = """\
if fail:
    raise RuntimeError("half-way")
result = RunResult("tiny", [Metric("uar", 0.25 + seed / 100, "toy", "speakers5", "coin", 0.2, 0.3)], synthetic=synthetic)
result.save(out_dir)
result"""
REGISTRY = """\
groups: {all: [tiny]}
experiments:
  tiny:
    notebook: 50_tiny.ipynb
    title: A coin
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A checkout with one experiment that takes a moment."
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# tiny\n\n> A coin."),
        new.new_code_cell(NOTEBOOK, metadata={"tags": ["parameters"]}),
        new.new_code_cell("from mtep.core import Metric, RunResult"),
        new.new_code_cell(WORK),
    ]
    notebook = new.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    home = tmp_path / "checkout"
    (home / "nbs").mkdir(parents=True)
    (home / "reports").mkdir()
    nbformat.write(notebook, home / "nbs" / "50_tiny.ipynb")
    (home / "settings.ini").write_text("[DEFAULT]\nlib_name = mtep\n", encoding="utf-8")
    (home / "reports" / "experiments.yaml").write_text(REGISTRY, encoding="utf-8")
    monkeypatch.chdir(home)
    monkeypatch.setenv("MTEP_DATA", str(tmp_path / "data"))
    return home


# ------------------------------------------------------------------------------------------------ starting


def best_of(code, times=5):
    "The shortest time that a fresh process takes for some code, as it measures it itself, in seconds."
    probe = f"import time; start = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    runs = [
        subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True) for _ in range(times)
    ]
    return min(float(run.stdout.splitlines()[-1]) for run in runs)


def test_import_is_fast():
    assert best_of("import mtep") < 0.15


def test_help_is_fast_and_loads_no_science():
    code = "import sys; from mtep.cli import main; main()"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5
    probe = (
        "import sys\nfrom mtep.cli import main\nsys.argv = ['mtep', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert not {*HEAVY} & {*run.stdout.splitlines()[-1].split()}


COMMANDS = ["", "run", "bench", "reports", "features", "predict", "train", "doctor", "site", "data"]
COMMANDS += [f"data {name}" for name in ("list", "info", "get", "verify")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command):
    text = typed(f"{command} --help").stdout
    assert "Examples:" in text and "  mtep " in text
    assert "\x1b" not in text
    assert typed(f"{command} -h").stdout == text


def test_version():
    assert typed("--version").stdout == f"mtep {mtep.__version__}\n"


def test_installed_command_runs():
    "The console script, in a process of its own, with a console that knows few characters."
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    code = "from mtep.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "info", "synthetic-kk"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and "SYNTHETIC" in done.stdout
    missing = subprocess.run(
        [sys.executable, "-c", code, "data", "info", "Қазақша"], env=env, capture_output=True, text=True
    )
    assert missing.returncode == 2 and missing.stderr.startswith("mtep: corpus") and missing.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ plain text


def test_streams_survive_what_they_cannot_show():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    steady_streams(stream)
    stream.write("uar 0.45 – Қазақша")
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"uar 0.45 \x96 ?")


def test_table_of_nothing_and_of_odd_values():
    assert text_table([]) == ""
    assert text_table([{"a": None}]) == "a\n"
    assert text_table([{"a": float("nan"), "b": "two\nlines"}]).splitlines()[-1].endswith("two lines")
    assert text_table([{"name": "x", "yes": True}]).splitlines()[-1] == "x     yes"


def test_json_is_strict():
    text = json.dumps(jsonable({"a": float("inf"), "b": Path("x"), "c": {1, 2}}), allow_nan=False)
    assert json.loads(text)["a"] is None


def test_json_of_numpy_and_pandas():
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    assert jsonable({"n": numpy.int64(3), "x": numpy.float32(0.5), "no": pandas.NA}) == {"n": 3, "x": 0.5, "no": None}


# ------------------------------------------------------------------------------------------------ endings


def test_unknown_names_get_a_hint(checkout):
    assert "did you mean 'tiny'?" in refused("run tinny")
    assert "did you mean 'ravdess'?" in refused("data info ravdes")
    assert "did you mean 'seed'?" in refused("run tiny -p sede=1")
    assert "feature set 'egemap' is not known" in refused("features ravdess -o t.csv --set egemap")
    assert "engine 'cloud' is not known" in refused("run tiny --engine cloud")
    assert "Did you mean 'run'?" in typed("rnu", code=2).stderr


@pytest.mark.parametrize(
    "line, words",
    [
        ("run", "was given no experiment"),
        ("run tiny -p seed", "has no value; write it as seed=value"),
        ("run tiny -p seed=many", "is not a whole number"),
        ("run tiny -p out_dir=x", "is set by the runner"),
        ("reports", "holds no finished run"),
        ("reports --publish", "holds no finished run"),
        ("data info ravdess:nine", "label map 'nine' is not known"),
        ("data verify ravdess", "was not found"),
        ("features nowhere.wav -o t.csv", "is not there"),
        ("features ravdess -o t.xlsx", "name it .csv or .parquet"),
        ("features ravdes -o t.csv", "did you mean 'ravdess'?"),
        ("predict nowhere.wav", "is not there"),
        ("predict . --model nowhere", "holds no audio"),
        ("site --root nowhere", "is not there; name a folder of reports"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(checkout, line, words):
    assert words in refused(line)


def test_outside_of_a_checkout_the_registry_is_missed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtep.experiments.project_root", lambda *_: None)
    assert "installed package holds none" in refused("run forest")


def test_broken_registry_is_told(checkout):
    (checkout / "reports" / "experiments.yaml").write_text("experiments: [", encoding="utf-8")
    assert "is not YAML" in refused("run --list")


def test_interrupt_exits_130(monkeypatch):
    monkeypatch.setattr(mtep.cli, "corpus_state", lambda name: (_ for _ in ()).throw(KeyboardInterrupt))
    typed("data list", code=130)


def test_our_own_errors_keep_their_traceback(monkeypatch):
    def broken(name):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(mtep.cli, "corpus_state", broken)
    ended = CliRunner().invoke(app, ["data", "list"])
    assert isinstance(ended.exception, ZeroDivisionError)


# ------------------------------------------------------------------------------------------------ run and reports


def test_list_shows_what_can_be_run(checkout):
    text = typed("run --list").stdout
    assert "50_tiny.ipynb" in text and "A coin" in text and "all: tiny" in text
    entry = json.loads(typed("run tiny --list --json").stdout)["experiments"][0]
    assert entry["runs"] == 1
    assert [p["name"] for p in entry["declared"]] == ["seed", "fail", "synthetic"]
    assert "a number" in typed("run tiny --list").stdout
    assert "did you mean 'tiny'?" in refused("run tinny --list")


def test_run_reports_and_publish(checkout):
    ended = typed("run tiny -p seed=0 -p seed=1 --jobs 2 --root reports/local --json")
    first, second = json.loads(ended.stdout)
    assert (first["parameters"]["seed"], second["parameters"]["seed"]) == (0, 1)
    assert first["metrics"][0]["value"] == 0.25 and Path(first["report"]).is_file()
    assert "2 runs, 2 at a time" in ended.stderr

    again = typed("run all -p seed=0 --root reports/local")
    assert "was there already" in again.stdout and "speakers5" in again.stdout and "0.250" in again.stdout
    assert f"reports{os.sep}local" in again.stdout and "SYNTHETIC" not in again.output

    compared = typed("reports")
    assert "Nothing is committed yet" in compared.stdout and "results.csv" in compared.stdout
    assert (checkout / "reports" / "local" / "results.csv").is_file()
    assert not (checkout / "reports" / "results.csv").exists(), "only --publish writes the committed table"
    assert json.loads(typed("reports --json").stdout)["runs"] == 2

    (checkout / "reports" / "local" / "tiny").rename(checkout / "reports" / "tiny")
    assert "nothing written" in typed("reports --root reports").stdout
    assert not (checkout / "reports" / "results.csv").exists()
    assert json.loads(typed("reports --publish --json").stdout)["runs"] == 2
    shutil.copytree(checkout / "reports" / "tiny", checkout / "reports" / "local" / "tiny")
    compared = typed("reports").stdout
    assert "+0.0000" in compared and "figures compared: " in compared and " same" in compared
    assert (checkout / "reports" / "results.csv").is_file()


def test_failed_and_synthetic_runs_are_loud(checkout):
    failed = typed("run tiny -p fail=yes -p fail=no -p synthetic=yes", code=1)
    assert "FAILED" in failed.stdout and "half-way" in failed.stdout and "1 of 2 runs failed" in failed.stderr
    assert failed.output.count("SYNTHETIC: measured on speech made by a machine") == 2
    assert "SYNTHETIC" in refused("reports --publish")
    records = json.loads(typed("run tiny -p fail=yes --json", code=1).stdout)
    assert "half-way" in records[0]["error"] and records[0]["metrics"] == []
    assert Path(records[0]["report"]).is_file()


# ------------------------------------------------------------------------------------------------ data


def test_data_list_names_places_and_licences(checkout, monkeypatch):
    states = {state["name"]: state for state in json.loads(typed("data list --json").stdout)}
    assert states["ravdess"]["found"] is None and states["ravdess"]["licence"] == "CC BY-NC-SA 4.0"
    assert "not found: mtep data get ravdess" in typed("data list").stdout


def test_data_get_offline_says_where_to_put_it(checkout, monkeypatch):
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    ended = typed("data get ravdess", code=2)
    assert "Audio_Speech_Actors_01-24.zip" in ended.stderr


def test_data_verify_fails_on_an_incomplete_corpus(checkout, tmp_path):
    for emotion in ("01", "05"):
        write_tone(tmp_path / "data" / "ravdess" / "Actor_01" / f"03-01-{emotion}-01-01-01-01.wav")
    found = json.loads(typed("data verify ravdess --json", code=1).stdout)
    assert not found["ok"] and any(f["level"] == "wrong" for f in found["findings"])
    assert "not as published" in typed("data verify ravdess", code=1).stdout
    info = json.loads(typed("data info ravdess --json").stdout)
    assert info["clips"] == 2 and info["emotions"]["angry"] == 1


def test_real_ravdess_is_complete(ravdess):
    assert json.loads(typed("data verify ravdess --json").stdout)["ok"]


# ------------------------------------------------------------------------------------------------ features, predict


@pytest.fixture
def clips(checkout):
    "Six tones, and one file that is no sound."
    for number in range(6):
        write_tone(checkout / "clips" / f"tone{number}.wav", 120 + 30 * number)
    (checkout / "clips" / "broken.wav").write_bytes(b"no sound")
    return checkout / "clips"


def test_features_of_a_folder(clips, checkout):
    assert "broken.wav" in refused(["features", str(clips), "-o", "table.csv", "--jobs", "1"])
    assert not (checkout / "table.csv").exists()
    ended = typed(["features", str(clips), "-o", "table.csv", "--jobs", "1", "--skip-bad", "--json"])
    found = json.loads(ended.stdout)
    assert (found["clips"], found["features"], len(found["skipped"])) == (6, 88, 1)
    assert "skipped: " in ended.stderr and "broken.wav" in ended.stderr
    assert len((checkout / "table.csv").read_text(encoding="utf-8").splitlines()) == 7
    said = typed(["features", str(clips / "tone0.wav"), "-o", "one.parquet"]).stdout
    assert said.startswith("1 clips × 88 features") and (checkout / "one.parquet").is_file()


def test_predict_with_a_saved_model(clips, checkout):
    from mtep.emotion.forest import Forest, save_forest
    from mtep.features import extract

    good = sorted(str(path) for path in clips.glob("tone*.wav"))
    model = Forest(trees=5).fit(extract(good, jobs=1), ["sad", "sad", "sad", "angry", "angry", "angry"])
    model.card = {"corpus": "toy", "licence": "none", "synthetic": True}
    save_forest(model, checkout / "model")
    ended = typed(["predict", str(checkout / "model"), str(clips), "-o", "out", "--jobs", "1", "--skip-bad"])
    assert "tone0.wav" in ended.stdout and "SYNTHETIC" in ended.stdout and "broken.wav" in ended.stderr
    lines = (checkout / "out" / "output.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "|file_id|01|02|03|04|05|06|07|08|" and len(lines) == 7
    plain = json.loads(typed(["predict", "--model", "model", *good, "--json"]).stdout)
    assert len(plain["probabilities"]) == 6 and plain["model"]["corpus"] == "toy"
    assert "holds no readable config.json" in refused(["predict", "--model", "nowhere", *good])


# ------------------------------------------------------------------------------------------------ doctor, completion


def test_doctor_tells_terms_and_places(checkout):
    found = json.loads(typed("doctor --json").stdout)
    assert found["ok"] and found["mtep"] == mtep.__version__
    licences = {package["package"]: package["licence"] for package in found["packages"]}
    assert "not for business" in licences["opensmile"] and "GPL-3.0" in licences["espeakng-loader"]
    text = typed("doctor").stdout
    assert "MTEP_DATA" in text and "On what terms".lower() in text.lower() and "mtep data get ravdess" in text


def test_doctor_exits_1_if_something_required_is_missing(monkeypatch):
    lost = {"package": "soxr", "extras": [], "wanted": "", "version": None, "fits": False, "licence": ""}
    monkeypatch.setattr(mtep.cli, "packages", lambda: [lost])
    ended = typed("doctor", code=1)
    assert "What is MISSING" in ended.stdout and 'pip install "soxr"' in ended.stdout


def completed(words):
    "What the shell would offer for a half-typed command."
    code = "from mtep.cli import main; main()"
    env = os.environ | {
        "_MTEP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.split()


def test_completion_of_names_and_parameters(checkout):
    assert completed("mtep r") == ["run", "reports"]
    assert {"tiny", "all"} <= {*completed("mtep run ")}
    assert completed("mtep run tiny -p se") == ["seed="]
    assert completed("mtep data info rav") == ["ravdess", "ravdess-video"]
    assert completed("mtep features ravdess --set c") == ["compare", "compare-even"]


def test_completion_never_disturbs_the_prompt(checkout):
    (checkout / "reports" / "experiments.yaml").write_text("experiments: [", encoding="utf-8")
    assert completed("mtep run t") == []

    class Typed:
        params = {"names": ["tiny"]}

    assert complete_parameter(Typed(), "") == []
