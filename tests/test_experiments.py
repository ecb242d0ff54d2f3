"""The runner: everything a person can get wrong, and what is left behind when a run goes wrong."""

import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from mtep import experiments
from mtep.core import (
    CorpusError,
    ExperimentError,
    InputError,
    PackageError,
    ProtocolError,
    StorageError,
)
from mtep.experiments import (
    Parameter,
    broken_promise,
    cast,
    check_parameters,
    code_digest,
    corpus_is_here,
    facts_of,
    load_registry,
    outside_addresses,
    parameters_of,
    plan,
    prepare,
    run,
    run_all,
    scrub,
    used_modules,
    write_out_addresses,
)

PARAMETERS = 'seed: int = 1  # one integer\nscale: float = 1.0  # a factor\nout_dir: str = ""  # report folder\n'
RESULT = (
    "from mtep.core import Metric, RunResult\n"
    'RunResult("tiny", [Metric("uar", scale / (1 + seed), "none", "none", "tiny")]).save(out_dir)'
)
posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def notebook(folder, *cells, parameters=PARAMETERS, tag="parameters", name="90_tiny.ipynb"):
    "A notebook of code cells in a project of its own."
    sources = ([parameters] if parameters else []) + list(cells)
    made = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources)]
    if parameters:
        made[0].metadata["tags"] = [tag]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    path = folder / "nbs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


def registry(folder, text):
    "A registry beside the notebooks of `notebook`."
    path = folder / "reports" / "experiments.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return load_registry(path)


def attributes(page):
    "Every address that a browser's parser finds in a page, by another way than the runner's."
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, pairs: found.extend(v or "" for k, v in pairs if k in ("src", "href"))
    parser.feed(page)
    return found


def looks_finished(root):
    "Everything below a folder of reports that someone could take for a run."
    return [path for path in Path(root).rglob("*.json") if not any(part.startswith(".") for part in path.parts)]


# the registry ---------------------------------------------------------------------------------------------------------


def test_the_projects_own_registry_fits_its_notebooks(root):
    found = load_registry(root / "reports" / "experiments.yaml")
    assert {"exploration", "forest", "forest-emodb", "forest-audit", "benchmarks", "smoke"} <= set(found.experiments)
    assert found.groups["main"] == ["exploration", "forest", "voice-quick"]
    assert set(found.groups["full"]) == set(found.experiments) - {"smoke", *found.groups["slow"]}
    for experiment in found.experiments.values():
        declared = parameters_of(experiment.notebook)
        other = experiment.fallback or {"parameters": {}, "sweep": {}}
        for fixed, swept in ((experiment.parameters, experiment.sweep), (other["parameters"], other["sweep"])):
            check_parameters(fixed, declared, experiment.name)
            for name, values in swept.items():
                for value in values:
                    check_parameters({name: value}, declared, experiment.name)


def test_outside_of_a_checkout_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "project_root", lambda: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match="git clone"):
        load_registry()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("experiments: {a: {notebook: x.ipynb, parameter: {}}}", "did you mean 'parameters'"),
        ("experiments: {a: {notebook: 3}}", "names no notebook"),
        ("experiments: {a: [x.ipynb]}", "is not a list of `name: value` lines"),
        ("experiments: {a: {notebook: x.ipynb, sweep: {seed: 3}}}", "is not a list of values"),
        ("experiments: {a: {notebook: x.ipynb, sweep: {seed: []}}}", "is not a list of values"),
        ("experiments: {a: {notebook: x.ipynb, fallback: {corpus: b}}}", "key in fallback of experiment a 'corpus'"),
        ("experiments: {../a: {notebook: x.ipynb}}", "cannot name a folder"),
        ("groups: {a: [a]}\nexperiments: {a: {notebook: x.ipynb}}", "has the name of an experiment"),
        ("groups: {g: [b]}\nexperiments: {a: {notebook: x.ipynb}}", "'b' is not known"),
        ("just a line", "is not a list of `name: value` lines"),
        ("a: [", "is not YAML"),
        ("tables: {}", "'tables' is not known"),
    ],
)
def test_a_malformed_registry_is_refused(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        registry(tmp_path, text)
    assert words in str(caught.value)


def test_a_registry_or_notebook_that_is_not_there(tmp_path):
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_registry(tmp_path / "none.yaml")
    known = registry(tmp_path, "experiments: {a: {notebook: none.ipynb}}")
    with pytest.raises(ExperimentError, match="none.ipynb is not there"):
        plan(["a"], registry=known)
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "none.ipynb").write_text("{}", encoding="utf-8")
    with pytest.raises(ExperimentError, match="is not a notebook"):
        plan(["a"], registry=known)


# parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        ("int", "12", 12),
        ("float", "1e-3", 0.001),
        ("float", 2, 2.0),
        ("bool", "no", False),
        ("bool", "On", True),
        ("str", "5", "5"),
        ("str", "a=b,c", "a=b,c"),
        ("list", "[1, 2.5, x]", [1, 2.5, "x"]),
        ("list", "1, 2", [1, 2]),
        ("list", "", []),
        ("dict", "{a: 1}", {"a": 1}),
    ],
)
def test_text_becomes_the_declared_type(kind, given, wanted):
    value = cast(Parameter("p", kind, wanted), given)
    assert value == wanted and type(value) is type(wanted)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("int", "1.5"), ("int", 1.0), ("int", True), ("int", ""), ("int", None), ("float", "fast"), ("float", "nan"),
        ("bool", "maybe"), ("bool", 1), ("str", 5), ("list", "[1, 2"), ("list", {"a": 1}), ("dict", "[1]"),
        ("dict", "a"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_name(kind, given):
    with pytest.raises(InputError) as caught:
        cast(Parameter("throws", kind, "the default"), given)
    assert str(caught.value).startswith(f"parameter throws={given!r} is not ")
    assert "such as 'the default'" in str(caught.value)


UNTYPED = "seed = 1\n" + PARAMETERS.split("\n", 1)[1]


@pytest.mark.parametrize(
    ("cells", "options", "words"),
    [
        ([PARAMETERS], {"parameters": None}, "has no cell tagged `parameters`"),
        ([RESULT], {"tag": "params"}, "has no cell tagged `parameters`"),
        ([RESULT], {"parameters": UNTYPED}, "parameter seed of 90_tiny.ipynb has no type"),
        ([RESULT], {"parameters": PARAMETERS + "twice: int = 2 * 3\n"}, "parameter twice of 90_tiny.ipynb cannot be"),
        ([RESULT], {"parameters": "seed: int = 1\n"}, "has no parameter out_dir"),
    ],
)
def test_a_notebook_without_proper_parameters_is_an_error(tmp_path, cells, options, words):
    with pytest.raises(ExperimentError) as caught:
        prepare(notebook(tmp_path, *cells, **options), {})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("names", "pairs", "words"),
    [
        (["tinny"], [], "experiment 'tinny' is not known; did you mean 'tiny'?"),
        ([], [], "no experiment was named"),
        (["tiny"], ["sed=1"], "parameter of tiny 'sed' is not known; did you mean 'seed'?"),
        (["tiny"], ["seed=one"], "parameter seed='one' is not a whole number"),
        (["tiny"], ["seed=1", "seed=x"], "parameter seed='x' is not a whole number"),
        (["tiny"], ["seed"], "parameter 'seed' has no value; write it as seed=value"),
        (["tiny"], ["=1"], "has no value"),
        (["tiny"], ["out_dir=x"], "parameter out_dir is set by the runner"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(tmp_path, names, pairs, words):
    notebook(tmp_path, RESULT)
    known = registry(tmp_path, "experiments: {tiny: {notebook: 90_tiny.ipynb}}")
    with pytest.raises(InputError) as caught:
        plan(names, pairs, known)
    assert words in str(caught.value)


def test_a_mistake_in_the_registrys_own_values_is_found(tmp_path):
    notebook(tmp_path, RESULT)
    known = registry(tmp_path, "experiments: {tiny: {notebook: 90_tiny.ipynb, sweep: {scale: [1, big]}}}")
    with pytest.raises(InputError, match="scale='big' is not a number"):
        plan(["tiny"], registry=known)


def test_sweeps_cross_and_overrides_replace_them(tmp_path):
    notebook(tmp_path, RESULT)
    entry = "{notebook: 90_tiny.ipynb, sweep: {seed: [1, 2], scale: [1, 2]}}"
    known = registry(tmp_path, f"groups: {{g: [tiny, tiny]}}\nexperiments: {{tiny: {entry}}}")
    assert len(plan(["g", "tiny"], registry=known)) == 4
    jobs = plan(["tiny"], ["seed=5", "scale=1", "scale=2", "scale=1.0"], known)
    assert [(job.parameters["seed"], job.parameters["scale"]) for job in jobs] == [(5, 1.0), (5, 2.0)]


# corpora --------------------------------------------------------------------------------------------------------------

WITH_CORPUS = 'corpus: str = "ravdess"  # corpus\n' + PARAMETERS
FALLBACK = """
experiments:
  strict: {notebook: 90_tiny.ipynb, parameters: {corpus: ravdess}}
  kind:
    notebook: 90_tiny.ipynb
    parameters: {corpus: ravdess}
    sweep: {seed: [1, 2]}
    fallback: {parameters: {corpus: synthetic}, sweep: {seed: [7]}}
"""


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    "A machine without corpora, on which the synthetic one need not be made."
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MTEP_DATA", str(tmp_path / "empty"))
    real = experiments.corpora_of

    def light(parameters):
        if parameters.get("corpus") == "synthetic":
            return [{"name": "synthetic", "digest": "0" * 64, "clips": 320, "synthetic": True}]
        return real(parameters)

    monkeypatch.setattr(experiments, "corpora_of", light)
    notebook(tmp_path, RESULT, parameters=WITH_CORPUS)
    return registry(tmp_path, FALLBACK)


def test_a_missing_corpus_falls_back_and_says_so(no_data):
    (job,) = plan(["kind"], registry=no_data)
    assert (job.parameters["corpus"], job.parameters["seed"]) == ("synthetic", 7)
    assert job.notice.startswith("SYNTHETIC: corpus ravdess was not found") and "MTEP_DATA" in job.notice


def test_without_a_fallback_or_when_asked_for_by_name_the_error_stands(no_data):
    with pytest.raises(CorpusError, match="ravdess"):
        plan(["strict"], registry=no_data)
    with pytest.raises(CorpusError, match="ravdess"):
        plan(["kind"], ["corpus=ravdess"], no_data)


def test_an_unknown_corpus_is_refused_with_the_nearest(no_data):
    for name in ("strict", "kind"):
        with pytest.raises(InputError, match="did you mean 'ravdess'"):
            plan([name], ["corpus=ravdes"], no_data)


def test_auto_is_resolved_before_the_run_is_named(no_data):
    (job,) = plan(["strict"], ["corpus=auto"], no_data)
    assert job.parameters["corpus"] == "synthetic"


def test_a_protocol_is_checked_before_anything_runs(tmp_path, monkeypatch):
    table = pd.DataFrame({"speaker": ["01", "02", "03"] * 2, "emotion": ["sad", "happy"] * 3})
    corpus = SimpleNamespace(name="emodb", table=table)
    experiments.check_protocols(corpus, {"protocol": "leave-one-speaker-out, all"})
    with pytest.raises(InputError, match="did you mean 'luna5'"):
        experiments.check_protocols(corpus, {"protocol": "leave-one-speaker-out,luna"})
    with pytest.raises(ProtocolError, match="is defined for ravdess only; use one of: leave-one-speaker-out"):
        experiments.check_protocols(corpus, {"protocol": "luna5"})


def test_the_fallbacks_corpus_brings_the_fallbacks_sweep(no_data):
    (job,) = plan(["kind"], ["corpus=synthetic"], no_data)
    assert (job.parameters["seed"], job.notice) == (7, "")


# the id ---------------------------------------------------------------------------------------------------------------


def test_imports_in_functions_and_names_in_strings_count(tmp_path):
    late = notebook(tmp_path, "def f():\n    from mtep.evaluation import folds\n    return folds", name="late.ipynb")
    assert {"mtep.core", "mtep.corpora", "mtep.evaluation"} <= set(used_modules(late))
    text = notebook(tmp_path, 'load_package("mtep.media")\n%matplotlib inline\n!ls', name="text.ipynb")
    assert {"mtep.core", "mtep.media"} <= set(used_modules(text)) and "mtep.evaluation" not in used_modules(text)
    both = notebook(tmp_path, "from mtep.emotion import forest", name="both.ipynb")
    assert {"mtep.emotion", "mtep.emotion.forest", "mtep.features"} <= set(used_modules(both))


def test_the_code_counts_wherever_it_is_and_prose_does_not(tmp_path, monkeypatch):
    path = notebook(tmp_path, RESULT)
    before = code_digest(path)
    assert code_digest(notebook(tmp_path, RESULT, parameters=PARAMETERS.replace("= 1 ", "= 2 "))) == before
    assert code_digest(notebook(tmp_path, RESULT + "\n1")) != before
    path = notebook(tmp_path, RESULT)
    copy = tmp_path / "core.py"
    real = experiments.module_file
    copy.write_text(real("mtep.core").read_text(encoding="utf-8") + "\nchanged = 1\n", encoding="utf-8")
    monkeypatch.setattr(experiments, "module_file", lambda name: copy if name == "mtep.core" else real(name))
    assert code_digest(path) != before


def test_code_that_is_not_python_is_named(tmp_path):
    with pytest.raises(ExperimentError, match="a cell of 90_tiny.ipynb is not Python"):
        code_digest(notebook(tmp_path, "def ("))


def test_weights_must_exist(tmp_path):
    with pytest.raises(InputError, match="weights 'none.safetensors' is not known; choose one of: .*emotion-whisper-base"):
        prepare(notebook(tmp_path, RESULT), {}, weights=["none.safetensors"])
    plain, weighted = (prepare(notebook(tmp_path, RESULT), {}, weights=w) for w in ([], ["report/conf.json"]))
    assert plain.id != weighted.id


# runs -----------------------------------------------------------------------------------------------------------------

TALK = r"""
import os, sys, warnings
from pathlib import Path
here = Path(out_dir)
print("working in", Path.cwd(), "writing to", here, "data in", os.environ["MTEP_DATA"], os.environ["MTEP_PROGRESS"])
warnings.warn(f"something about {here}")
"""
SEE = """
from IPython.display import HTML, Markdown
Markdown("[a link](https://example.org/markdown) and ![a picture](http://example.org/p.png)")
"""
RICH = """
HTML('<a href="https://example.org/html">x</a><script src="//example.org/s.js"></script><img src=https://example.org/i.png>')
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "One run that went well: its record and folder."
    folder = tmp_path_factory.mktemp("project")
    path = notebook(folder, TALK, SEE, RICH, RESULT)
    record = run(path, {"seed": 3}, folder / "reports", title="A tiny run", notice="Read this first.")
    return record, folder / "reports" / "tiny" / record["id"], path


def test_a_run_is_whole(done):
    record, folder, _ = done
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.ipynb", "result.json", "run.json"]
    saved = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert saved == {name: value for name, value in record.items() if name != "cached"}
    assert saved["status"] == "ok" and saved["parameters"] == {"seed": 3, "scale": 1.0} and saved["seed"] == 3
    assert saved["files"]["result.json"] == (folder / "result.json").stat().st_size
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", saved["started"]) and saved["metrics"] == 1
    assert saved["versions"]["papermill"] and saved["platform"]["cores"] >= 1
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1_500_000
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "no lock and no draft is left"


def test_a_report_names_no_folder_of_this_machine(done):
    _, folder, path = done
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        for place in (path.parent.parent, Path.home(), Path(sys.prefix), Path(experiments.__file__).parent):
            assert str(place) not in text, file.name
    notebook_text = (folder / "report.ipynb").read_text(encoding="utf-8")
    assert "working in CHECKOUT" in notebook_text and "writing to . data in" in notebook_text
    assert nbformat.read(folder / "report.ipynb", 4).metadata.papermill.output_path == "report.ipynb"


def test_the_page_asks_no_outside_address(done):
    _, folder, _ = done
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert outside_addresses(page) == [] and "<script" not in page
    assert [address for address in attributes(page) if "//" in address.partition(",")[0]] == []
    assert "https://example.org/markdown" in page, "an address is written out"
    assert "A tiny run" in page and "Read this first." in page and done[0]["id"] in page
    assert page.count("<details") >= 3 and "TCP without encryption" not in page


def test_the_kernel_is_told_to_draw_no_bar(done):
    assert re.search(r"data in \S+ 0\b", (done[1] / "report.ipynb").read_text(encoding="utf-8"))
    assert "MTEP_DATA" not in os.environ or os.environ["MTEP_DATA"]  # the caller's own environment is as it was


def test_the_same_run_is_not_made_twice(done):
    record, folder, path = done
    before = (folder / "report.ipynb").stat().st_mtime_ns
    again = run(path, {"seed": 3}, folder.parent.parent)
    assert again["cached"] and again["id"] == record["id"]
    assert (folder / "report.ipynb").stat().st_mtime_ns == before


HALF = """
from pathlib import Path
if not Path("mended").exists():
    raise ValueError("the well is dry")
"""


def test_a_notebook_that_raises_half_way_and_then_does_not(tmp_path):
    path = notebook(tmp_path, RESULT, HALF)
    job = prepare(path, {})
    root = tmp_path / "reports"
    (record,) = run_all([job], root)
    assert record["status"] == "failed"
    assert "ValueError: the well is dry" in record["error"] and "report.html" in record["error"]
    left = root / "tiny" / f"{job.id}.failed"
    assert not (left / "result.json").exists() and not (root / "tiny" / job.id).exists()
    saved = json.loads((left / "run.json").read_text(encoding="utf-8"))
    assert saved["status"] == "failed" and saved["failure"]["name"] == "ValueError" and saved["metrics"] == 0
    page = (left / "report.html").read_text(encoding="utf-8")
    assert "the well is dry" in page and 'id="failure"' in page and "FAILED" in page and str(tmp_path) not in page
    (path.parent / "mended").touch()
    assert run(path, {}, root)["status"] == "ok"
    assert [p.name for p in (root / "tiny").iterdir()] == [job.id]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "wrote no result.json"),
        ("{", "is not what RunResult writes"),
        ('{"metrics": [3], "files": []}', "is not what RunResult writes"),
        ('{"metrics": [], "files": ["figures/a.svg"]}', "declares figures/a.svg, which was not written"),
        ('{"metrics": [], "files": ["../a.svg"]}', "declares ../a.svg"),
        ('{"metrics": [], "files": []}', None),
    ],
)
def test_what_a_notebook_promises_must_be_there(tmp_path, content, words):
    if content is not None:
        (tmp_path / "result.json").write_text(content, encoding="utf-8")
    failure = broken_promise(tmp_path)
    assert failure is None if words is None else words in failure["message"]


def test_a_notebook_without_a_result_has_failed(tmp_path):
    with pytest.raises(ExperimentError, match="failed at the end: ExperimentError: the notebook ran through"):
        run(notebook(tmp_path, "1 + 1"), {}, tmp_path / "reports")


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="a part of its path is a file; choose another folder"):
        run(notebook(tmp_path, RESULT), {}, tmp_path / "file" / "reports")


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied")])
def test_no_space_and_no_permission_while_the_report_is_written(tmp_path, monkeypatch, number, words):
    import papermill

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(papermill, "execute_notebook", refuse)
    with pytest.raises(StorageError, match=words):
        run(notebook(tmp_path, RESULT), {}, tmp_path / "reports")
    assert list((tmp_path / "reports" / "tiny").iterdir()) == []


def test_no_permission_for_the_folder_of_reports(tmp_path, monkeypatch):
    path, mkdir = notebook(tmp_path, RESULT), Path.mkdir

    def refuse(self, *args, **options):
        if "reports" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        return mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="permission denied; choose a folder you may write to"):
        run(path, {}, tmp_path / "reports")


def test_the_commit_is_told_and_changes_outside_of_reports_are_too(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    assert experiments.git_state(tmp_path) == ("", False)

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.org", *words], cwd=tmp_path, check=True)

    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "a.txt").write_text("a", encoding="utf-8")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git(*words)
    commit, changed = experiments.git_state(tmp_path / "nbs")
    assert len(commit) == 40 and not changed
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "new.txt").write_text("a", encoding="utf-8")
    assert experiments.git_state(tmp_path / "nbs") == (commit, False)
    (tmp_path / "nbs" / "a.txt").write_text("b", encoding="utf-8")
    assert experiments.git_state(tmp_path / "nbs") == (commit, True)


# many runs ------------------------------------------------------------------------------------------------------------


def test_the_same_run_asked_for_twice_at_once_is_made_once(tmp_path):
    path = notebook(tmp_path, 'open("made", "a", encoding="utf-8").write("x")', RESULT)
    job = prepare(path, {})
    first, second = run_all([job, job], tmp_path / "reports", workers=2)
    assert sorted([first["cached"], second["cached"]]) == [False, True]
    assert (path.parent / "made").read_text(encoding="utf-8") == "x"


@posix
def test_a_killed_worker_costs_only_its_own_run(tmp_path):
    deadly = notebook(tmp_path, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", name="91_deadly.ipynb")
    jobs = [prepare(deadly, {}), prepare(notebook(tmp_path, RESULT), {})]
    bad, good = run_all(jobs, tmp_path / "reports", workers=1)
    assert (bad["status"], bad["error"]) == ("failed", "the process that ran it was killed")
    assert good["status"] == "ok"


def started(tmp_path, workers=1):
    "A process that has begun a run which would take a minute, and the run's kernel."
    slow = 'import os, time\nopen("kernel", "w").write(str(os.getpid()))\ntime.sleep(60)'
    path = notebook(tmp_path, slow, RESULT)
    script = (
        "from mtep.experiments import prepare, run_all\n"
        f"print(run_all([prepare({str(path)!r}, {{}})], {str(tmp_path / 'reports')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until, told = time.time() + 60, path.parent / "kernel"
    while not (told.is_file() and told.read_text()) and time.time() < until and process.poll() is None:
        time.sleep(0.1)
    return process, int(told.read_text())


def ended(pid, seconds=20):
    "Whether a process goes away in time."
    until = time.time() + seconds
    while time.time() < until:
        state = Path(f"/proc/{pid}/stat")
        if not Path("/proc").is_dir() or not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@posix
def test_an_interrupted_run_leaves_nothing(tmp_path):
    process, kernel = started(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode != 0 and b"KeyboardInterrupt" in err, out
    assert looks_finished(tmp_path / "reports") == []
    assert [p for p in (tmp_path / "reports" / "tiny").iterdir() if p.is_dir()] == []
    assert ended(kernel), "the kernel ends with the run"


@posix
def test_a_killed_run_leaves_nothing_that_looks_finished_and_blocks_nobody(tmp_path):
    process, kernel = started(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    assert ended(kernel), "workers end with the process that started them"
    assert looks_finished(tmp_path / "reports") == []
    folder = next((tmp_path / "reports" / "tiny").glob(".*-*"))
    name = folder.name[1:13]
    with experiments.claim(folder.with_name(name)):
        experiments.sweep_drafts(folder.with_name(name))
    assert list((tmp_path / "reports" / "tiny").iterdir()) == []


def test_engine_and_number_of_workers_are_checked(tmp_path):
    job = prepare(notebook(tmp_path, RESULT), {})
    with pytest.raises(InputError, match="did you mean 'local'"):
        run_all([job], tmp_path, engine="locl")
    for workers in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="is not a number of processes"):
            run_all([job], tmp_path, workers=workers)
    assert run_all([], tmp_path) == []


@pytest.mark.skipif(importlib.util.find_spec("distributed") is not None, reason="Dask is installed here")
def test_dask_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(PackageError, match="run: pip install distributed"):
        run_all([prepare(notebook(tmp_path, RESULT), {})], tmp_path, engine="dask")


# text -----------------------------------------------------------------------------------------------------------------


def test_places_are_replaced_longest_first_and_not_inside_words():
    places = [("/home/ann/data", "MTEP_DATA"), ("/home/ann", "HOME"), ("C:\\Users\\ann", "HOME")]
    text = "/home/ann/data/x /home/annabel file:///home/ann/y \x1b[32m/home/ann\x1b[0m C:\\Users\\ann\\z sub/home/ann"
    assert scrub(text, places) == (
        "MTEP_DATA/x /home/annabel file://HOME/y \x1b[32mHOME\x1b[0m HOME\\z sub/home/ann"
    )  # fmt: skip


@pytest.mark.parametrize(
    "page",
    [
        '<a class="x" href = "https://a.org/?b=1&amp;c=2">w</a>',
        "<img alt='a > b' src='//a.org/i.png'>",
        '<link rel="stylesheet" href="http://a.org/s.css">',
        '<style>@import url("https://a.org/f.css"); p {background: url(//a.org/b.png)}</style>',
        '<iframe src="https://a.org"></iframe><video poster="https://a.org/p.jpg"></video>',
        '<SCRIPT type="module" SRC="https://a.org/s.js">x()</SCRIPT>',
        '<svg><image xlink:href="ftp://a.org/i.svg"/></svg>',
    ],
)
def test_no_outside_address_survives(page):
    assert outside_addresses(page), "the check sees it"
    assert outside_addresses(write_out_addresses(page)) == []


def test_inside_addresses_stay():
    page = '<a href="#x">x</a><img src="data:image/png;base64,AA//BB=="><svg xmlns="http://www.w3.org/2000/svg"></svg>'
    assert outside_addresses(page) == [] and write_out_addresses(page) == page


def test_a_folder_with_its_words_listed_is_known_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_DATA", str(tmp_path))
    folder = tmp_path / "talks"
    folder.mkdir()
    (folder / "transcripts.tsv").write_text("file\tlang\ttranscript\na.wav\ten\tHello.\n", encoding="utf-8")
    (folder / "a.wav").write_bytes(b"not heard here")
    first = facts_of("talks", {})
    assert first["clips"] == 1 and not first["synthetic"] and corpus_is_here("talks")
    (folder / "a.wav").write_bytes(b"another")
    assert facts_of("talks", {})["digest"] != first["digest"]
    with pytest.raises(InputError, match="corpus 'walks' is not known"):
        facts_of("walks", {})
