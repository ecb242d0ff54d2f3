"""`mtep models`: what it prints, how it ends, what it refuses."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from mtep.cli import app
from mtep.core import write_json
from mtep.weights import assets_folder

DATA = {"model.dat": b"some weights", "config.json": b"{}"}


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    "A machine of the test's own, whose user knows the weights `toy`."
    for name in ("HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "own"
    folder.mkdir()
    places = {"MTEP_CACHE": tmp_path / "cache", "HF_HOME": tmp_path / "hub", "MTEP_WEIGHTS": folder}
    for name, value in {**places, "MTEP_OFFLINE": 1}.items():
        monkeypatch.setenv(name, str(value))
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in DATA.items()}
    write_json(folder / "weights.json", {"toy": {"purpose": "a test", "licence": "CC0-1.0", "files": files}})
    return folder


@pytest.fixture
def toy(own):
    "The weights `toy`, whole."
    (own / "toy").mkdir()
    for name, data in DATA.items():
        (own / "toy" / name).write_bytes(data)
    return own / "toy"


def typed(*words, code=0):
    "What a command leaves, after a check of its exit code."
    ended = CliRunner().invoke(app, ["models", *map(str, words)])
    assert ended.exit_code == code, ended.output
    return ended


def refused(*words):
    "The one line with which a command refuses."
    ended = typed(*words, code=2)
    (line,) = [text for text in ended.stderr.splitlines() if text.startswith("mtep: ")]
    assert "Traceback" not in ended.output and not ended.stdout
    return line


@pytest.mark.parametrize("command", ["", "list", "get", "verify", "path", "export"])
def test_every_help_has_examples(command):
    text = typed(*command.split(), "--help").stdout
    assert "Examples:" in text and "  mtep models" in text
    assert "..." not in text.partition("Commands:")[2].partition("Examples:")[0], "short enough for one line"


def test_list(toy):
    rows = {row["name"]: row for row in json.loads(typed("list", "--json").stdout)}
    assert rows["toy"]["state"] == "folder" and rows["toy"]["where"] == str(toy) and rows["toy"]["bytes"] == 14
    assert rows["whisper-base"]["licence"] == "MIT"
    text = typed("list").stdout
    assert "147,882,941" in text and "MTEP_WEIGHTS" in text and "CC0-1.0" in text


def test_list_says_how_to_get_what_is_missing():
    assert "toy: mtep models get toy" in typed("list").stdout


def test_path_is_all_that_is_printed(toy):
    assert typed("path", "toy").stdout == f"{toy}\n"
    assert json.loads(typed("path", "toy", "--json").stdout) == {"name": "toy", "path": str(toy)}


def test_get_tells_the_terms_first(toy):
    ended = typed("get", "toy")
    assert "Terms: CC0-1.0" in ended.stderr and ended.stdout == f"toy: {toy}\n"
    assert json.loads(typed("get", "toy", "--json").stdout)["files"].keys() == DATA.keys()


def test_verify(toy):
    found = json.loads(typed("verify", "toy", "--json").stdout)
    assert found["ok"] and [finding["file"] for finding in found["findings"]] == [*DATA]
    assert "All is as it must be." in typed("verify").stdout


def test_verify_exits_1_where_a_file_is_wrong(toy):
    (toy / "model.dat").write_bytes(b"same weights")
    ended = typed("verify", "toy", code=1)
    assert "WRONG" in ended.stdout and "1 of 2 files are not what they must be" in ended.stdout
    assert not json.loads(typed("verify", "--json", code=1).stdout)["ok"]
    assert "model.dat: SHA-256" in refused("path", "toy")


def test_verify_of_what_is_not_here():
    found = json.loads(typed("verify", "toy", "--json", code=1).stdout)["findings"]
    assert [row["found"] for row in found] == ["missing"] * 2
    assert typed("verify", "me/tiny", code=1).stdout.count("missing") == 1


def test_refusals(own, tmp_path):
    assert "did you mean 'toy'?" in refused("path", "tyo")
    assert "put model.dat, config.json into" in refused("get", "toy")
    assert "the hub may not be asked" in refused("get", "me/tiny")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused("verify", tmp_path / "empty")
    (own / "weights.json").write_text("[", encoding="utf-8")
    assert "is not a JSON object" in refused("list")


def test_a_fault_that_is_passed_over_is_told(own, toy, tmp_path):
    cached = tmp_path / "cache" / "weights" / "toy"
    cached.parent.mkdir(parents=True)
    toy.rename(cached)
    (cached / "model.dat").write_bytes(b"some")
    ended = typed("get", "toy", code=2)
    assert "note: toy from cache is not used: model.dat: 4 bytes, 12 bytes wanted" in ended.stderr
    assert json.loads(typed("list", "--json").stdout)[-1]["state"] == "damaged"


# ------------------------------------------------------------------------------------------ export


@pytest.fixture
def network(tmp_path):
    "A network on spectra that has learned nothing."
    from mtep.emotion.spectrogram import NETWORKS, SoundModel, save_sound_model

    return save_sound_model(SoundModel(NETWORKS["compact"](3), "compact", ["sad", "angry", "happy"]), tmp_path / "net")


def test_export(network, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "new" / "net.onnx"
    told = json.loads(typed("export", network, "-o", path, "--json").stdout)
    assert told["path"] == str(path) and told["bytes"] == path.stat().st_size and 0 <= told["difference"] < 1e-4
    assert told["labels"] == ["sad", "angry", "happy"] and told["name"] == str(network)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ((proba,),) = session.run(None, {"spectrum": np.full((1, 64, 77), -40, np.float32)})
    assert proba.shape == (3,) and proba.sum() == pytest.approx(1, abs=1e-5)
    before = path.read_bytes()
    assert f"file {path} is there already; give another name, or --force" in refused("export", network, "-o", path)
    path.write_bytes(b"older")
    text = typed("export", network, "-o", path, "--force").stdout
    assert path.read_bytes() == before and f"{path}: {len(before):,} bytes; differs from torch by at most" in text
    assert "labels: sad, angry, happy" in text


def test_export_refuses(network, toy, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    assert "does not end in .onnx" in refused("export", network, "-o", tmp_path / "net.pt")
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refused("export", network, "-o", tmp_path / "folder.onnx", "--force")
    assert "is not there" in refused("export", tmp_path / "nowhere", "-o", path)
    assert "did you mean 'emotion-cnn'?" in refused("export", "emotion-cn", "-o", path)
    assert "holds a model of another kind (None)" in refused("export", "toy", "-o", path)
    assert "holds a model of another kind (mtep.emotion.wav2vec2)" in refused("export", "emotion-whisper-base", "-o", path)
    typed("export", network, code=2)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert 'package \'onnx\' is not installed; run: pip install "mtep[onnx]"' in refused("export", network, "-o", path)
    (network / "net.safetensors").write_bytes(b"x")
    assert "net.safetensors" in refused("export", network, "-o", path)
    assert not path.exists()


def test_a_network_that_cannot_be_exported(tmp_path):
    from mtep.emotion.spectrogram import NETWORKS, SoundModel, save_sound_model

    folder = save_sound_model(SoundModel(NETWORKS["crnn"](2), "crnn", ["sad", "angry"]), tmp_path / "crnn")
    assert "reads packed sequences, which ONNX does not know" in refused("export", folder, "-o", tmp_path / "net.onnx")


def test_export_of_what_is_shipped(tmp_path):
    if not (assets_folder() / "emotion-cnn").is_dir():
        assert "weights 'emotion-cnn' are not here" in refused("export", "emotion-cnn", "-o", tmp_path / "net.onnx")
        states = {row["name"]: row for row in json.loads(typed("list", "--json").stdout)}
        assert states["emotion-cnn"]["state"] == "missing" and states["emotion-cnn"]["where"] is None
        pytest.skip("mtep/assets/emotion-cnn is not part of this checkout")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    told = json.loads(typed("export", "emotion-cnn", "-o", tmp_path / "net.onnx", "--json").stdout)
    assert len(told["labels"]) == 8


def test_doctor_shows_weights(toy):
    ended = CliRunner().invoke(app, ["doctor", "--json"])
    rows = {row["name"]: row for row in json.loads(ended.stdout)["weights"]}
    assert rows["toy"] == {"name": "toy", "state": "folder", "bytes": 14, "licence": "CC0-1.0", "where": str(toy)}
    text = CliRunner().invoke(app, ["doctor"]).stdout
    assert "Model weights" in text and "weights toy" in text and "MTEP_WEIGHTS" in text


def test_the_commands_load_nothing_heavy(toy):
    code = (
        "import sys\nfrom mtep.cli import main\nsys.argv = ['mtep', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    for line in (["--help"], ["models", "--help"], ["models", "path", "toy"], ["models", "list"], ["models", "export", "--help"]):
        run = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=True)
        loaded = {*run.stdout.splitlines()[-1].split()}
        assert not {"numpy", "torch", "transformers", "huggingface_hub", "safetensors"} & loaded, line
