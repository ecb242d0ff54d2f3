"""What is too dense for prose in 01_corpora: every shape and fault of a user's copy, fetching, and the real corpora."""

import functools
import hashlib
import http.server
import multiprocessing
import os
import pickle
import shutil
import threading
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtep import corpora
from mtep.core import CorpusError, InputError, MtepError, OfflineError, StorageError
from mtep.corpora import EMODB_TEXTS, LABELS, RECIPES, fetch, find, load, resolve, unpack, validate


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MTEP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MTEP_PROGRESS", "0")
    monkeypatch.delenv("MTEP_OFFLINE", raising=False)
    (tmp_path / "data").mkdir()


def clip(path: Path, seed: int | None = None, seconds: float = 0.2, rate: int = 16_000, channels: int = 1) -> Path:
    "A file of noise of its own."
    seed = seed if seed is not None else int(hashlib.sha256(path.stem.encode()).hexdigest()[:8], 16)
    noise = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * rate), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, rate)
    return path


def stems(actors=(1, 2), emotions=range(1, 9)) -> list[str]:
    return [f"03-01-{emotion:02d}-01-01-01-{actor:02d}" for actor in actors for emotion in emotions]


def ravdess_like(folder: Path, names=None, **how) -> Path:
    for stem in names or stems():
        clip(folder / f"Actor_{stem[-2:]}" / f"{stem}.wav", **how)
    return folder


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ shapes of a copy


def test_every_shape_gives_the_same_corpus(tmp_path):
    plain = ravdess_like(tmp_path / "plain")
    shapes = {
        "folder": plain,
        "archive": zipped(plain, tmp_path / "Audio_Speech_Actors_01-24.zip"),
        "archive with a top folder": zipped(plain, tmp_path / "top.zip", "Audio_Speech_Actors_01-24/"),
        "archive in a folder": zipped(plain, tmp_path / "holder" / "deep" / "a.zip").parent.parent,
        "flat": tmp_path / "flat",
        "every clip twice": tmp_path / "kaggle",
    }
    song = clip(tmp_path / "s" / "03-02-03-01-01-01-01.wav").parent
    shapes["archives of speech and song"] = zipped(song, tmp_path / "both" / "Audio_Song_Actors_01-24.zip").parent
    shutil.copy(shapes["archive"], tmp_path / "both")
    shapes["archive in an archive"] = zipped(shapes["archive in a folder"], tmp_path / "1188976.zip")
    for file in plain.rglob("*.wav"):
        for target in (shapes["flat"] / file.name, shapes["every clip twice"] / file.relative_to(plain),
                       shapes["every clip twice"] / "audio_speech_actors_01-24" / file.relative_to(plain)):  # fmt: skip
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    found = {shape: load("ravdess", source) for shape, source in shapes.items()}
    assert {shape: len(corpus) for shape, corpus in found.items()} == dict.fromkeys(shapes, 16)
    assert len({corpus.digest() for corpus in found.values()}) == 1
    assert len(found["every clip twice"].left_out) == 16
    assert all(path.is_file() for corpus in found.values() for path in corpus.paths)
    assert found["archive"].table["file"].str.fullmatch(r"Actor_0[12]/03-01-0\d-01-01-01-0[12]\.wav").all()


@pytest.mark.parametrize("ending", [".wav", ".flac", ".WAV", ".ogg"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_any_format_and_rate(tmp_path, ending, rate, channels):
    for stem in stems(actors=[3]):
        clip(tmp_path / "c" / f"{stem}{ending}", rate=rate, channels=channels, seconds=0.5)
    corpus = load("ravdess", tmp_path / "c")
    assert len(corpus) == 8 and corpus.table["seconds"].between(0.49, 0.52).all()


def test_the_table(tmp_path):
    corpus = load("ravdess", ravdess_like(tmp_path / "c", ["03-01-06-02-02-01-12", "03-01-01-01-01-02-11"]))
    first, second = corpus.table.to_dict("records")
    assert (first["speaker"], first["gender"], first["emotion"], first["intensity"]) == (
        "11",
        "male",
        "neutral",
        "normal",
    )
    assert (second["speaker"], second["gender"], second["emotion"], second["intensity"]) == (
        "12",
        "female",
        "fearful",
        "strong",
    )
    assert (second["text"], second["language"], second["statement"], second["repetition"]) == (
        "Dogs are sitting by the door.",
        "en",
        "02",
        1,
    )
    assert corpus.labels == LABELS and corpus.speakers == ["11", "12"] and list(corpus.table.index) == [0, 1]
    assert tuple(corpus.table.columns[:8]) == corpora.COLUMNS


def test_files_that_systems_add_are_ignored(tmp_path):
    folder = ravdess_like(tmp_path / "c")
    for name in ("._03-01-01-01-01-01-01.wav", ".DS_Store", "Actor_01/._03-01-01-01-01-01-01.wav",
                 "__MACOSX/Actor_01/03-01-01-01-01-01-01.wav",
                 "labels.tsv", "Actor_01/Thumbs.db"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"junk")
    assert len(load("ravdess", folder)) == 16
    assert len(load("ravdess", zipped(folder, tmp_path / "a.zip"))) == 16


def test_wav_and_flac_of_one_clip_count_once(tmp_path):
    folder = ravdess_like(tmp_path / "c")
    clip(folder / "flac" / "03-01-01-01-01-01-01.flac")
    corpus = load("ravdess", folder)
    assert len(corpus) == 16 and corpus.table["file"].str.endswith(".wav").all()


# ------------------------------------------------------------------ faults of a copy


def test_names_that_do_not_parse(tmp_path):
    for name in (
        "holiday",
        "03-01-09-01-01-01-01",
        "03-01-01-02-01-01-01",
        "03-01-05-01-01-01-25",
        "03-01-05-01-01-01-00",
        "03-01-05-01-01-01",
        "3-1-5-1-1-1-1",
    ):
        folder = ravdess_like(tmp_path / name)
        bad = clip(folder / f"{name}.wav")
        with pytest.raises(CorpusError) as caught:
            load("ravdess", folder)
        assert (
            str(bad) in str(caught.value)
            and "MM-VC-EE-II-SS-RR-AA" in str(caught.value)
            and 'on_error="skip"' in str(caught.value)
        )
        corpus = load("ravdess", folder, on_error="skip")
        assert len(corpus) == 16 and dict(corpus.left_out) == {bad.name: "name does not parse"}
    with pytest.raises(InputError, match="on_error 'ignore' is not known"):
        load("ravdess", folder, on_error="ignore")


def test_song_and_video_are_left_out_and_counted(tmp_path):
    folder = ravdess_like(tmp_path / "c")
    clip(folder / "03-02-03-01-01-01-01.wav")
    clip(folder / "01-01-03-01-01-01-01.wav")
    corpus = load("ravdess", folder)
    assert sorted(corpus.left_out.values()) == ["song", "sound of a video clip"] and len(corpus) == 16
    assert "1 (song)" in corpus._repr_markdown_()
    shutil.rmtree(folder / "Actor_01"), shutil.rmtree(folder / "Actor_02")
    with pytest.raises(
        CorpusError, match=r"holds no clip of this corpus \(1 × sound of a video clip; 1 × song\)|1 × song"
    ):
        load("ravdess", folder)


def test_folders_without_audio(tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(CorpusError, match="holds no audio file; name a folder"):
        load("ravdess", tmp_path / "bare")
    (tmp_path / "bare" / "01-01-03-01-01-01-01.mp4").write_bytes(b"x")
    with pytest.raises(CorpusError, match="holds no audio file, only video"):
        load("ravdess", tmp_path / "bare")
    with pytest.raises(CorpusError, match="does not exist"):
        load("ravdess", tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CorpusError, match="neither a folder nor a zip archive"):
        load("ravdess", tmp_path / "notes.txt")
    with pytest.raises(CorpusError, match="holds no audio file"):
        load("ravdess", zipped(tmp_path / "bare", tmp_path / "a.zip"))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all" * 100, "cut"])
def test_a_bad_clip_among_good_ones(tmp_path, content):
    folder = ravdess_like(tmp_path / "c")
    bad = folder / "Actor_02" / "03-01-05-01-01-01-02.wav"
    bad.write_bytes(bad.read_bytes()[:2000] if content == "cut" else content)
    with pytest.raises(CorpusError) as caught:
        load("ravdess", folder)
    assert bad.name in str(caught.value) and 'on_error="skip"' in str(caught.value)
    corpus = load("ravdess", folder, on_error="skip")
    assert len(corpus) == 15 and list(corpus.left_out) == ["Actor_02/03-01-05-01-01-01-02.wav"]


def test_two_clips_of_one_name(tmp_path):
    folder = ravdess_like(tmp_path / "c")
    clip(folder / "copy" / "03-01-05-01-01-01-02.wav", seed=99)
    with pytest.raises(CorpusError, match="differs from .*, though it has its name"):
        load("ravdess", folder)


# ------------------------------------------------------------------ archives


@pytest.mark.parametrize(
    "name", ["../evil.wav", "a/../../evil.wav", "/evil.wav", "C:/evil.wav", "C:evil.wav", "..\\evil.wav", "\\evil.wav"]
)
def test_archives_that_lead_outside_are_refused_whole(tmp_path, name):
    folder = ravdess_like(tmp_path / "c")
    archive = zipped(folder, tmp_path / "a" / "a.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(name, b"x")
    before = everything(tmp_path)
    with pytest.raises(CorpusError, match="leads out of the archive"):
        load("ravdess", archive)
    assert {file for file in everything(tmp_path) - before if not file.endswith((".lock", ".json"))} == set()
    assert not (tmp_path / "cache" / "unpacked").exists() or not [
        p for p in (tmp_path / "cache" / "unpacked").iterdir() if p.is_dir()
    ]


def test_archives_with_links_or_locks_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("Actor_01/03-01-01-01-01-01-01.wav")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CorpusError, match="holds a link"):
        unpack(tmp_path / "link.zip")
    content = bytearray(zipped(ravdess_like(tmp_path / "c"), tmp_path / "locked.zip").read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(CorpusError, match="is encrypted"):
        unpack(tmp_path / "locked.zip")


def test_damaged_archives_leave_nothing(tmp_path):
    whole = zipped(ravdess_like(tmp_path / "c"), tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match="is not a whole zip archive .*; download it again"):
        load("ravdess", tmp_path / "cut.zip")
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    (tmp_path / "broken.zip").write_bytes(broken)
    with pytest.raises(CorpusError, match="is not a whole zip archive"):
        load("ravdess", tmp_path / "broken.zip")
    assert not [path for path in (tmp_path / "cache" / "unpacked").iterdir() if path.is_dir()]


def test_no_room_for_an_archive(tmp_path, monkeypatch):
    archive = zipped(ravdess_like(tmp_path / "c"), tmp_path / "a.zip")
    monkeypatch.setattr(corpora.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(StorageError, match="has no room"):
        load("ravdess", archive)


def test_an_archive_is_unpacked_once(tmp_path):
    archive = zipped(ravdess_like(tmp_path / "c"), tmp_path / "a.zip")
    first = unpack(archive)
    stamp = first.stat().st_mtime_ns
    assert unpack(archive) == first and first.stat().st_mtime_ns == stamp
    shutil.copy(archive, tmp_path / "data" / "a.zip")
    assert unpack(tmp_path / "data" / "a.zip") == first
    zipped(ravdess_like(tmp_path / "c", stems([5])), archive)
    assert unpack(archive) != first


# ------------------------------------------------------------------ finding


def test_finding_every_place(tmp_path, monkeypatch):
    data = tmp_path / "data"
    assert find("ravdess") is None and resolve("auto") == "synthetic"
    places = {
        "RAVDESS": lambda: ravdess_like(data / "RAVDESS"),
        "ravdess": lambda: (
            zipped(ravdess_like(tmp_path / "c"), data / "ravdess" / "Audio_Speech_Actors_01-24.zip").parent
        ),
        "archive": lambda: zipped(ravdess_like(tmp_path / "c"), data / "Audio_Speech_Actors_01-24.zip"),
        "renamed": lambda: zipped(ravdess_like(tmp_path / "c"), data / "mine.zip"),
        "some folder": lambda: ravdess_like(data / "from Aigul" / "speech").parent,
    }
    for make in places.values():
        place = make()
        assert find("ravdess") == place and len(load("auto")) == 16 and resolve("auto:four") == "ravdess:four"
        assert find("emodb") is None
        shutil.rmtree(data), data.mkdir()
    whole = ravdess_like(tmp_path / "whole")
    monkeypatch.setenv("MTEP_DATA", str(whole))
    assert find("ravdess") == whole
    monkeypatch.setenv("MTEP_DATA", str(zipped(whole, tmp_path / "Audio_Speech_Actors_01-24.zip")))
    assert len(load("ravdess")) == 16
    monkeypatch.setenv("MTEP_DATA", str(tmp_path / "no such folder"))
    with pytest.raises(
        CorpusError, match="corpus 'ravdess' was not found in .*no such folder; put Audio_Speech_Actors_01-24.zip"
    ):
        load("ravdess")


def test_a_broken_download_is_no_corpus(tmp_path):
    folder = tmp_path / "data" / "ravdess"
    folder.mkdir()
    for name in (".Audio_Speech_Actors_01-24.zip.lock", "Audio_Speech_Actors_01-24.zip.part"):
        (folder / name).write_bytes(b"x")
    assert find("ravdess") is None and resolve("auto") == "synthetic"
    (tmp_path / "data" / "Audio_Speech_Actors_01-24.zip").write_bytes(b"PK cut off")
    with pytest.raises(CorpusError, match="is not a whole zip archive"):
        load("ravdess")


def test_a_relative_source_outlives_a_change_of_folder(tmp_path, monkeypatch):
    ravdess_like(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    corpus = load("ravdess", "c")
    monkeypatch.chdir(tmp_path / "data")
    assert all(path.is_file() for path in corpus.paths)


def test_names_that_are_not_known():
    for name, message in [
        ("ravdes", "did you mean 'ravdess'"),
        ("emodb:for", "did you mean 'four'"),
        ("emodb:", "label map ''"),
        ("", "corpus ''"),
    ]:
        with pytest.raises(InputError) as caught:
            load(name)
        assert message in str(caught.value)


def test_the_digest_knows_content_and_labels(tmp_path):
    folder = ravdess_like(tmp_path / "c")
    corpus = load("ravdess", folder)
    first = corpus.digest()
    shutil.move(folder, tmp_path / "elsewhere")
    moved = load("ravdess", tmp_path / "elsewhere")
    assert moved.digest() == first
    assert moved.relabel("eight").digest() == first and moved.relabel("five").digest() != first
    clip(tmp_path / "elsewhere" / "Actor_01" / "03-01-05-01-01-01-01.wav", seed=5)
    assert moved.digest() != first
    assert pickle.loads(pickle.dumps(moved)).digest() == moved.digest()


def test_the_memory_is_used_and_not_fooled(tmp_path, monkeypatch):
    folder = ravdess_like(tmp_path / "c")
    old = time.time() - 100
    for file in folder.rglob("*.wav"):
        os.utime(file, (old, old))
    first = load("ravdess", folder).digest()
    monkeypatch.setattr(corpora, "probe", None)
    monkeypatch.setattr(corpora, "file_digest", None)
    assert load("ravdess", folder).digest() == first
    monkeypatch.undo()
    changed = folder / "Actor_01" / "03-01-05-01-01-01-01.wav"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert load("ravdess", folder).digest() != first


def test_a_spoilt_or_forbidden_memory_does_no_harm(tmp_path, monkeypatch):
    folder = ravdess_like(tmp_path / "c")
    first = load("ravdess", folder).digest()
    for file in (tmp_path / "cache" / "facts").glob("*.json"):
        file.write_text('{"Actor_01/03-01-05-01-01-01-01.wav": 5')
    assert load("ravdess", folder).digest() == first
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "file"))
    for file in folder.rglob("*.wav"):
        os.utime(file, (1e9, 1e9))
    assert load("ravdess", folder).digest() == first


# ------------------------------------------------------------------ the corpus type


def test_subset_and_relabel_leave_the_original_alone(tmp_path):
    corpus = load("ravdess", ravdess_like(tmp_path / "c"))
    four, men = corpus.relabel("four"), corpus.subset(corpus.table["gender"] == "male")
    assert (len(corpus), len(four), len(men)) == (16, 10, 8)
    assert four.labels == ("neutral", "happy", "sad", "angry") and (four.table["emotion"] == "neutral").sum() == 4
    assert list(corpus.subset([5, 3]).table["file"]) == list(corpus.table["file"].iloc[[5, 3]])
    assert corpus.subset(np.arange(3)).labels == LABELS and list(men.table.index) == list(range(8))
    assert corpus.relabel("five").labels == ("neutral", "happy", "sad", "angry", "surprised")
    assert corpus.name == four.name == "ravdess" and (corpus.title, four.title) == ("ravdess", "ravdess:four")
    for wrong in ([], [16], [-1], [1, 1], [True] * 3, [0.5], [[1, 2]], np.zeros(16, bool)):
        with pytest.raises(InputError, match="is neither a mask"):
            corpus.subset(wrong)
    with pytest.raises(InputError, match="label map 'fore' is not known"):
        corpus.relabel("fore")
    with pytest.raises(CorpusError, match="has no clip left"):
        corpus.relabel(dict.fromkeys(LABELS))


# ------------------------------------------------------------------ validation


def full_ravdess(folder: Path) -> Path:
    "1440 files of the right names, as small as sound can be."
    for actor in range(1, 25):
        (folder / f"Actor_{actor:02d}").mkdir(parents=True)
        for emotion in range(1, 9):
            for rest in range(4 if emotion == 1 else 8):
                intensity, statement, repetition = rest // 4 + 1, rest // 2 % 2 + 1, rest % 2 + 1
                stem = f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
                (folder / f"Actor_{actor:02d}" / f"{stem}.wav").write_bytes(
                    corpora.wave_bytes(
                        corpora.Sound(np.linspace(0.1, (actor * 100 + emotion * 10 + rest) / 9999, 40), 8000)
                    )
                )
    return folder


def told(findings, level="wrong") -> dict[str, str]:
    return {finding.what: finding.found for finding in findings.findings if finding.level == level}


def test_validation_of_ravdess(tmp_path):
    folder = full_ravdess(tmp_path / "c")
    assert validate(load("ravdess", folder)).ok
    a, b = (folder / "Actor_07" / f"{stem}.wav" for stem in corpora.RAVDESS_TWINS)
    b.write_bytes(a.read_bytes())
    found = validate(load("ravdess", folder))
    assert found.ok and told(found, "note") == {
        "identical clips, as in the original": " = ".join(corpora.RAVDESS_TWINS)
    }
    (folder / "Actor_03" / "03-01-05-01-01-01-03.wav").write_bytes(
        (folder / "Actor_03" / "03-01-05-01-01-02-03.wav").read_bytes()
    )
    found = validate(load("ravdess", folder))
    assert (
        told(found) == {"identical clips": "03-01-05-01-01-01-03, 03-01-05-01-01-02-03"}
        and "**not as published**" in found._repr_markdown_()
    )
    shutil.rmtree(folder / "Actor_03"), shutil.rmtree(folder / "Actor_24")
    (folder / "Actor_01" / "03-01-01-01-01-01-01.wav").unlink()
    shutil.move(folder / "Actor_02" / "03-01-02-01-01-01-02.wav", folder / "Actor_04")
    wrong = told(validate(load("ravdess", folder)))
    assert (
        wrong["clips"] == "1319"
        and wrong["speakers missing"] == "03, 24"
        and wrong["clips of each speaker"] == "01: 59"
    )
    assert (wrong["neutral"], wrong["happy"]) == ("87", "176") and "Actor_04/03-01-02" in wrong[
        "clips in another actor's folder"
    ]
    assert told(validate(load("ravdess:four", folder)))["neutral"] == str(87 + 176)
    by_hand = validate(load("ravdess", folder).relabel({label: "any" for label in LABELS}))
    assert "clips" not in told(by_hand)
    assert "counts are not checked: labels were changed by hand" in told(by_hand, "note")


def test_listening_finds_what_counting_cannot(tmp_path):
    folder = ravdess_like(tmp_path / "c", seconds=0.3)
    for number, sound in enumerate(
        [np.zeros(4000), np.full(4000, np.nan), 5e-4 * np.sin(np.arange(4000)), np.ones(10)], start=1
    ):
        soundfile.write(folder / "Actor_01" / f"03-01-0{number}-01-01-01-01.wav", sound, 8000, subtype="FLOAT")
    found = validate(load("ravdess", folder), listen=True)
    assert "is silent" in told(found)["clips that cannot be used"] and "NaN" in told(found)["clips that cannot be used"]
    assert told(found, "note")["clips below −60 dB"].startswith("1: Actor_01/03-01-03")


# ------------------------------------------------------------------ EMO-DB


def test_emodb_from_its_archive(tmp_path):
    folder = tmp_path / "c"
    for stem in ("03a01Fa", "08b10Ld", "16a05Wb", "12b02Nc", "14a07Ab", "09a02Tb", "10b03Ec", "11b09N"):
        clip(folder / "wav" / f"{stem}.wav")
    (folder / "lablaut").mkdir()
    (folder / "lablaut" / "03a01Fa.lablaut").write_text("x")
    corpus = load("emodb", zipped(folder, tmp_path / "download.zip"))
    emotions = dict(zip(corpus.table["speaker"], corpus.table["emotion"]))
    assert emotions == {
        "03": "happy",
        "08": "bored",
        "16": "angry",
        "12": "neutral",
        "14": "fearful",
        "09": "sad",
        "10": "disgust",
        "11": "neutral",
    }
    assert corpus.labels == ("neutral", "happy", "sad", "angry", "fearful", "disgust", "bored")
    assert set(corpus.table["gender"][corpus.table["speaker"].isin(["03", "10", "11", "12", "15"])]) == {"male"}
    assert corpus.table["text"].iloc[0] == EMODB_TEXTS["a01"] and set(corpus.table["language"]) == {"de"}
    assert len(corpus.relabel("four")) == 5 and len(corpus.relabel("eight")) == 7
    assert told(validate(corpus))["clips"] == "8"
    clip(folder / "wav" / "03a01Xa.wav")
    with pytest.raises(CorpusError, match="03a01Xa.wav does not parse: names here are SSTTTEV"):
        load("emodb", folder)


# ------------------------------------------------------------------ SYNTHETIC

needs_espeak = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("espeakng_loader") is None, reason="extra speech is not installed"
)


def made_in(cache: Path, language: str) -> str:
    os.environ["MTEP_CACHE"] = str(cache)
    return load("synthetic" if language == "en" else "synthetic-kk").digest()


@needs_espeak
def test_synthetic_is_the_same_bytes_at_every_making(tmp_path):
    started = time.perf_counter()
    corpus = load("synthetic")
    assert time.perf_counter() - started < 60
    assert (
        len(corpus) == 320
        and corpus.synthetic
        and "SYNTHETIC" in corpus._repr_markdown_()
        and "SYNTHETIC" in corpus.root.name
    )
    assert corpus.table.groupby(["emotion", "speaker", "statement"]).size().eq(2).all() and len(corpus.speakers) == 10
    assert len(set(corpus.digests())) == 320 and validate(corpus, listen=True).ok
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        others = list(pool.map(made_in, [tmp_path / "one", tmp_path / "two"], ["en", "en"]))
    assert others == [corpus.digest()] * 2


@needs_espeak
def test_synthetic_in_kazakh():
    corpus = load("synthetic-kk")
    assert len(corpus) == 320 and set(corpus.table["language"]) == {"kk"} and "есік" in corpus.table["text"].iloc[0]
    assert corpus.name == "synthetic-kk" and validate(corpus).ok


@needs_espeak
def test_many_makers_at_once_make_one(tmp_path):
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = set(pool.map(made_in, [tmp_path / "cache"] * 4, ["en"] * 4))
    assert len(found) == 1
    assert [p.name for p in (tmp_path / "cache" / "synthetic").iterdir() if p.is_dir()] == [
        corpora.synthetic_folder("en").name
    ]


@needs_espeak
def test_synthetic_is_made_whole_or_not_at_all(monkeypatch):
    said = corpora.speak_all(list(corpora.synthetic_plan("en").values())[:5])
    monkeypatch.setattr(corpora, "speak_all", lambda plan: iter([*said, *(_ for _ in ()).throw(KeyboardInterrupt)]))
    with pytest.raises(KeyboardInterrupt):
        load("synthetic")
    folder = corpora.synthetic_folder("en")
    assert find("synthetic") is None and not [path for path in folder.parent.iterdir() if path.is_dir()]
    monkeypatch.undo()


@needs_espeak
def test_a_robbed_synthetic_corpus_is_made_again():
    corpus = load("synthetic")
    digest = corpus.digest()
    shutil.rmtree(corpus.root / "Actor_01")
    assert load("synthetic").digest() == digest and find("synthetic") == corpus.root


# ------------------------------------------------------------------ fetching


class Shelf(http.server.BaseHTTPRequestHandler):
    "A server that can go on in the middle, can refuse to, and can break off."

    content, ranges, break_at, asked, status = b"", True, [], [], 200

    def do_GET(self):
        cls = type(self)
        wanted = self.headers.get("Range")
        cls.asked.append(wanted)
        if cls.status != 200:
            self.send_error(cls.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and cls.ranges else 0
        if start >= len(cls.content) and wanted and cls.ranges:
            self.send_error(416)
            return
        self.send_response(206 if wanted and cls.ranges else 200)
        if wanted and cls.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(cls.content) - 1}/{len(cls.content)}")
        self.send_header("Content-Length", str(len(cls.content) - start))
        self.end_headers()
        end = cls.break_at.pop(0) if cls.break_at else len(cls.content)
        self.wfile.write(cls.content[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def shelf(monkeypatch):
    monkeypatch.setattr(corpora.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    content = np.random.default_rng(0).bytes(3_000_000)
    kind = type("OneShelf", (Shelf,), {"content": content, "break_at": [], "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kind.url = f"http://127.0.0.1:{server.server_port}/a.zip"
    kind.fetch = staticmethod(
        functools.partial(fetch, kind.url, size=len(content), md5=hashlib.md5(content).hexdigest())
    )
    yield kind
    server.shutdown()
    server.server_close()


def test_fetching(shelf, tmp_path, monkeypatch):
    target = tmp_path / "new" / "a.zip"
    assert shelf.fetch(target=target) == target and target.read_bytes() == shelf.content
    assert not target.with_name("a.zip.part").exists()
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    assert shelf.fetch(target=target) == target and shelf.asked == [None]


def test_a_broken_line_is_taken_up_where_it_broke(shelf, tmp_path):
    shelf.break_at[:] = [1_000_000, 2_000_000]
    assert shelf.fetch(target=tmp_path / "a.zip").read_bytes() == shelf.content
    assert shelf.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_killed_fetch_goes_on_next_time(shelf, tmp_path):
    shelf.break_at[:] = [700_000]
    with pytest.raises(
        OfflineError,
        match="could not be fetched .*700000 bytes are there.*run it again to go on, or fetch it elsewhere",
    ):
        shelf.fetch(target=tmp_path / "a.zip", tries=1)
    assert (tmp_path / "a.zip.part").stat().st_size == 700_000 and not (tmp_path / "a.zip").exists()
    assert shelf.fetch(target=tmp_path / "a.zip").read_bytes() == shelf.content
    assert shelf.asked == [None, "bytes=700000-"]


def test_a_server_without_ranges_begins_again(shelf, tmp_path):
    shelf.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    assert shelf.fetch(target=tmp_path / "a.zip").read_bytes() == shelf.content


def test_all_was_there_already(shelf, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(shelf.content)
    assert shelf.fetch(target=tmp_path / "a.zip").read_bytes() == shelf.content


def test_wrong_bytes_are_not_kept(shelf, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(CorpusError, match="was fetched and has the MD5"):
        shelf.fetch(target=tmp_path / "a.zip")
    assert everything(tmp_path) <= {".a.zip.lock"}
    (tmp_path / "a.zip").write_bytes(b"mine")
    with pytest.raises(CorpusError, match="has 4 bytes and should have 3000000; remove it"):
        shelf.fetch(target=tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"mine"


def test_without_a_checksum_the_archive_must_be_whole(shelf, tmp_path):
    with pytest.raises(CorpusError, match="is not a whole zip archive"):
        fetch(shelf.url, tmp_path / "a.zip")
    shelf.content = zipped(ravdess_like(tmp_path / "c"), tmp_path / "b.zip").read_bytes()
    assert len(load("ravdess", fetch(shelf.url, tmp_path / "a.zip"))) == 16


def test_refusals_and_no_network(shelf, tmp_path, monkeypatch):
    shelf.status = 404
    with pytest.raises(OfflineError, match=r"was refused by its server \(404 .*put it at"):
        shelf.fetch(target=tmp_path / "a.zip")
    with pytest.raises(OfflineError, match="could not be fetched .*refused.*put it at"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", tries=2)
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    with pytest.raises(OfflineError) as caught:
        corpora.download_ravdess(tmp_path / "here")
    assert str(tmp_path / "here" / "Audio_Speech_Actors_01-24.zip") in str(caught.value) and "zenodo.org" in str(
        caught.value
    )
    with pytest.raises(OfflineError, match="emodb"):
        RECIPES["emodb"].download()


def test_no_place_to_fetch_to(shelf, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        shelf.fetch(target=tmp_path / "file" / "a.zip")


# ------------------------------------------------------------------ recipes and the real thing


def test_recipes_tell_their_story():
    assert list(RECIPES) == ["ravdess", "emodb", "synthetic", "synthetic-kk", "ravdess-video", "iemocap", "meld"]
    for name, recipe in RECIPES.items():
        assert recipe.name == name and all(
            (recipe.title, recipe.story, recipe.licence, recipe.citation, recipe.homepage, recipe.languages)
        )
        assert (
            recipe.licence in recipe._repr_markdown_()
            and recipe.labels
            and pickle.loads(pickle.dumps(recipe)) == recipe
        )
        assert "SYNTHETIC" in recipe.title or not recipe.synthetic
        assert isinstance(find(name), (Path, type(None)))
    assert sum(RECIPES["ravdess"].counts.values()) == 1440 and sum(RECIPES["emodb"].counts.values()) == 535
    assert issubclass(OfflineError, MtepError)


REAL = os.environ.get("MTEP_DATA", "")  # as it was before the tests set their own


@pytest.fixture
def real(monkeypatch):
    if not REAL:
        pytest.skip("MTEP_DATA is not set")
    monkeypatch.setenv("MTEP_DATA", REAL)

    def wanted(name):
        if find(name) is None:
            pytest.skip(f"{name} is not in MTEP_DATA")
        return load(name)

    return wanted


def test_real_ravdess(real):
    corpus = real("ravdess")
    assert len(corpus) == 1440 and len(corpus.speakers) == 24 and resolve("auto") == "ravdess"
    assert corpus.table["emotion"].value_counts().to_dict() == {
        label: 96 if label == "neutral" else 192 for label in LABELS
    }
    found = validate(corpus)
    assert found.ok and told(found, "note") == {
        "identical clips, as in the original": " = ".join(corpora.RAVDESS_TWINS)
    }
    assert 60 * 85 < corpus.table["seconds"].sum() < 60 * 92
    assert (len(corpus.relabel("five")), len(corpus.relabel("four"))) == (864, 864)


def test_real_emodb(real):
    corpus = real("emodb:four")
    assert corpus.table["emotion"].value_counts().to_dict() == {"angry": 127, "neutral": 79, "happy": 71, "sad": 62}
    assert validate(corpus).ok and len(corpus.speakers) == 10
    if len(load("emodb")) < 535:
        wrong = told(validate(load("emodb")))
        assert {"clips", "bored", "disgust", "fearful"} == set(wrong)
