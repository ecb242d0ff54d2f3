"""Features: every bad input, and what a cache and a crew of workers must never do."""

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from mtep import features
from mtep.core import ExperimentError, InputError, MediaError, MtepError, StorageError, digest
from mtep.features import describe, extract, family, low_level, measure, write_table
from mtep.media import Sound, write_sound


def tone(pitch, seconds=0.3, rate=16_000):
    phase = 2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate
    return (0.2 * sum(np.sin(k * phase) / k for k in range(1, 8))).astype(np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    return [write_sound(folder / f"{k:02}.wav", tone(100 + 5 * k), 16_000) for k in range(40)]


def chunks(tmp_path):
    return sorted((tmp_path / "cache" / "features").glob("*/*.npz"))


def kept(tmp_path):
    return sum(len(features.read_chunk(path)[1]) for path in chunks(tmp_path))


# --- bad files ---------------------------------------------------------------------------------------------------


def bad_file(kind, folder, good):
    path = folder / f"{kind}.wav"
    content = good.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("not a recording", encoding="utf-8")
    elif kind == "folder":
        path.mkdir()
    elif kind == "silent":
        write_sound(path, np.zeros(16_000), 16_000)
    elif kind == "short":
        write_sound(path, tone(200, seconds=0.05), 16_000)
    elif kind == "header":
        path.write_bytes(content[:40] + bytes(4))
    elif kind == "nan":
        import soundfile

        samples = tone(200)
        samples[100] = np.nan
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return path


BAD = {
    "empty": "is empty", "truncated": "is truncated", "text": "is not a sound", "folder": "is a folder",
    "silent": "is silent",
    "short": "is too short", "header": ".", "nan": "not numbers", "missing": "does not exist",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_named_or_skipped(kind, tmp_path, tones):
    path = bad_file(kind, tmp_path, tones[0])
    with pytest.raises(MediaError, match=BAD[kind]) as refused:
        extract([*tones[:2], path])
    assert path.name in str(refused.value)
    with pytest.warns(UserWarning, match="1 of 3 recordings were skipped"):
        table = extract([tones[0], path, tones[1]], on_error="skip")
    assert list(table.index) == [str(tones[0]), str(tones[1])]
    assert list(table.attrs["failed"]) == [str(path)]
    assert table.attrs["failed"][str(path)] == str(refused.value)
    with pytest.raises(MediaError):
        low_level(path)


def test_bad_files_among_many_in_workers(tmp_path, tones):
    bad = [bad_file(kind, tmp_path, tones[0]) for kind in BAD]
    mixed = [*tones[:10], *bad, *tones[10:20]]
    with pytest.warns(UserWarning, match=f"{len(BAD)} of {len(BAD) + 20} recordings"):
        table = extract(mixed, jobs=2, on_error="skip")
    assert len(table) == 20 and len(table.attrs["failed"]) == len(BAD)
    assert kept(tmp_path) == 20
    with pytest.raises(MediaError):
        extract(mixed, jobs=2)


def test_only_bad_files(tmp_path, tones):
    with pytest.warns(UserWarning, match="2 of 2"):
        table = extract([bad_file(kind, tmp_path, tones[0]) for kind in ("silent", "text")], on_error="skip")
    assert len(table) == 0 and len(table.attrs["failed"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": "gemaps"}, "did you mean 'egemaps'"),
        ({"rate": 100}, "rate 100"),
        ({"rate": 16_000.0}, "rate 16000.0"),
        ({"jobs": 0}, "jobs=0"),
        ({"jobs": True}, "jobs=True"),
        ({"chunk": 0}, "chunk=0"),
        ({"on_error": "ignore"}, "on_error 'ignore'"),
    ],
)
def test_bad_arguments(arguments, message, tones):
    with pytest.raises(InputError, match=message):
        extract(tones[:1], **arguments)


@pytest.mark.parametrize("sounds", [[], 7, None, [1, 2], [b"a.wav", None]])
def test_what_is_no_list_of_files(sounds):
    with pytest.raises(InputError):
        extract(sounds)


def test_a_file_listed_twice(tones):
    with pytest.raises(InputError, match="listed more than once"):
        extract([tones[0], tones[1], tones[0]])


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, tones):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="a part of its path is a file"):
        extract(tones[:2])
    assert len(extract(tones[:2], cache=False)) == 2


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("egemaps", 88), ("compare", 6373)])
def test_same_numbers_as_opensmile(name, count, tones):
    table = extract(tones[:3], name)
    expected = np.vstack([features.extractor(name).process_file(str(path)).to_numpy() for path in tones[:3]])
    assert table.shape == (3, count) and table.index.name == "file"
    assert (table.dtypes == np.float32).all()
    np.testing.assert_array_equal(table.to_numpy(), expected)


def test_workers_and_one_process_agree(tones):
    one, two = (extract(tones[:20], jobs=jobs, cache=False) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert one.attrs == two.attrs


def test_any_rate_and_channels_are_brought_to_the_rate(tmp_path, tones):
    import soundfile

    stereo = np.column_stack([tone(200, 1.0, 48_000)] * 2)
    soundfile.write(tmp_path / "stereo.wav", stereo, 48_000, subtype="FLOAT")
    write_sound(tmp_path / "mono.wav", tone(200, 1.0), 16_000)
    table = extract([tmp_path / "stereo.wav", tmp_path / "mono.wav"])
    pitch = table["F0semitoneFrom27.5Hz_sma3nz_amean"]
    assert pitch.iloc[0] == pytest.approx(pitch.iloc[1], abs=0.02)


def test_overshoot_does_not_wrap_around():
    samples = tone(200, 1.0)
    loud = measure(Sound(samples / np.abs(samples).max() * np.float32(1.02), 16_000))
    fine = measure(Sound(samples / np.abs(samples).max() * np.float32(0.98), 16_000))
    names = features.extractor().feature_names
    shimmer = names.index("HNRdBACF_sma3nz_amean")
    assert loud[shimmer] == pytest.approx(fine[shimmer], abs=1.0)


def test_every_feature_has_a_family():
    for name, count in (("egemaps", 88), ("compare", 6373)):
        meaning = describe(name)
        assert len(meaning) == count and meaning.notna().all().all()
    with pytest.raises(InputError):
        family("")


def test_contours(tones):
    contours = low_level(tones[0])
    assert contours.shape[1] == 25 and contours.index.name == "seconds"
    assert np.allclose(np.diff(contours.index), 0.01)
    assert low_level(tones[0], "compare").shape[1] == 65


def test_tables_come_back(tmp_path, tones):
    table = extract(tones[:3])
    types = dict.fromkeys(table.columns, np.float32)
    spelled = pd.read_csv(write_table(table, tmp_path / "new folder" / "t.csv"), index_col="file", dtype=types)
    whole = pd.read_parquet(write_table(table, tmp_path / "new folder" / "t.parquet"))
    pd.testing.assert_frame_equal(spelled, table, check_flags=False)
    pd.testing.assert_frame_equal(whole, table, check_flags=False)
    assert whole.attrs == table.attrs
    with pytest.raises(InputError, match="use .parquet or .csv"):
        write_table(table, tmp_path / "t.txt")


# --- the cache ---------------------------------------------------------------------------------------------------


def test_another_question_gets_no_old_answer(tones, monkeypatch):
    base = extract(tones[:3])
    assert base.attrs["measured"] == 3 and extract(tones[:3]).attrs["measured"] == 0
    assert extract(tones[:3], "compare").attrs["measured"] == 3
    other_rate = extract(tones[:3], rate=48_000)
    assert other_rate.attrs["measured"] == 3
    assert not np.array_equal(other_rate.to_numpy(), base.to_numpy())
    real = features.package_versions
    for package in features.PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(features, "package_versions", lambda *names, p=package: real(*names) | {p: "99.9"})
            assert extract(tones[:3]).attrs["measured"] == 3
    with monkeypatch.context() as patch:
        patch.setattr(features, "RECIPE", features.RECIPE + 1)
        assert extract(tones[:3]).attrs["measured"] == 3
    again = extract(tones[:3])
    assert again.attrs["measured"] == 0
    np.testing.assert_array_equal(again.to_numpy(), base.to_numpy())


def test_content_counts_and_not_the_name(tmp_path, tones):
    copy = tmp_path / "other name.wav"
    copy.write_bytes(tones[0].read_bytes())
    table = extract([tones[0], copy])
    assert table.attrs["measured"] == 1
    np.testing.assert_array_equal(table.iloc[0], table.iloc[1])
    write_sound(copy, tone(333), 16_000)
    edited = extract([tones[0], copy])
    assert edited.attrs["measured"] == 1
    assert not np.array_equal(edited.iloc[1], table.iloc[1])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "garbage"])
def test_damaged_chunk_is_discarded(damage, tmp_path, tones):
    good = extract(tones[:4])
    [path] = chunks(tmp_path)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({
        "truncated": content[:-20], "empty": b"", "garbage": b"PK" + bytes(500),
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }[damage])  # fmt: skip
    with pytest.warns(UserWarning, match="is damaged and was discarded"):
        again = extract(tones[:4])
    assert again.attrs["measured"] == 4
    np.testing.assert_array_equal(again.to_numpy(), good.to_numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract(tones[:4]).attrs["measured"] == 0


def test_small_chunks_are_joined(tmp_path, tones):
    for path in tones:
        extract([path])
    assert len(chunks(tmp_path)) < 40
    assert extract(tones).attrs["measured"] == 0


def test_nothing_is_kept_without_the_cache(tmp_path, tones):
    extract(tones[:3], cache=False)
    assert not (tmp_path / "cache").exists()
    assert extract(tones[:3], cache=False).attrs["measured"] == 3


# --- processes ---------------------------------------------------------------------------------------------------

COUNTED = """
import sys
from mtep import features
log, ask = open(sys.argv[1], "a", buffering=1), features.Worker.ask
def counted(worker, path):
    log.write(f"{path}\\n")
    return ask(worker, path)
features.Worker.ask = counted
print(features.extract(sys.argv[3:], jobs=2, chunk=int(sys.argv[2])).attrs["measured"])
"""


def start(log, chunk, files):
    command = [sys.executable, "-c", COUNTED, str(log), str(chunk), *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("chunk", [4, 16])
def test_a_killed_run_goes_on(chunk, tmp_path, tones):
    import psutil

    log = tmp_path / "log"
    process = start(log, chunk, tones)
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 22:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    handed_out = len(log.read_text().splitlines())
    assert handed_out - chunk <= kept(tmp_path) < len(tones)
    assert not psutil.wait_procs(workers, timeout=10)[1], "no worker outlives its parent"
    before = kept(tmp_path)
    again = start(log, chunk, tones)
    assert int(again.communicate(timeout=60)[0]) == len(tones) - before
    twice = len(log.read_text().splitlines()) - len(tones)
    assert 0 <= twice <= chunk
    assert extract(tones).attrs["measured"] == 0


def test_two_programs_share_the_work(tmp_path, tones):
    log = tmp_path / "log"
    both = [start(log, 64, tones) for _ in range(2)]
    measured = sorted(int(process.communicate(timeout=60)[0]) for process in both)
    assert measured == [0, 40]
    assert len(log.read_text().splitlines()) == 40


def test_a_killed_worker_is_an_error_that_says_so(tmp_path, tones, monkeypatch):
    ask, asked = features.Worker.ask, []

    def fatal(worker, path):
        asked.append(path)
        if len(asked) == 25:
            worker.process.kill()
        return ask(worker, path)

    monkeypatch.setattr(features.Worker, "ask", fatal)
    with pytest.raises(ExperimentError, match=r"lost the process that measured it \(exit code .*what was done is kept"):
        extract(tones, jobs=2, on_error="skip")
    assert kept(tmp_path) >= 20
    monkeypatch.undo()
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))
    assert extract(tones).attrs["measured"] <= 20


def test_a_worker_that_cannot_start(tones, monkeypatch):
    monkeypatch.setattr(features, "LAUNCH", "raise SystemExit(7)")
    with pytest.raises(ExperimentError, match="exit code 7"):
        extract(tones, jobs=2)


def test_what_stops_the_work_keeps_what_was_done(tmp_path, tones, monkeypatch):
    progress = features.progress

    def interrupted(items, **how):
        for count, item in enumerate(progress(items, **how)):
            if count == 25:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(features, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(tones, jobs=2)
    assert kept(tmp_path) == 25


@pytest.mark.parametrize("way", ["script", "command", "stdin"])
def test_no_guard_is_needed(way, tmp_path, tones):
    code = "import sys\nfrom mtep.features import extract\nprint('once', extract(sys.argv[1:], jobs=2).shape)\n"
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    first = {"script": [str(tmp_path / "script.py")], "command": ["-c", code], "stdin": ["-"]}[way]
    command = [sys.executable, *first, *map(str, tones)]
    ran = subprocess.run(command, input=code if way == "stdin" else "", capture_output=True, text=True, timeout=60)
    assert ran.stdout == "once (40, 88)\n", ran.stderr


def test_no_heavy_package_is_loaded():
    heavy = {"torch", "sklearn", "opensmile", "matplotlib"}
    code = f"import sys, mtep.features; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_errors_survive_the_way_from_a_worker(tmp_path, tones):
    path = bad_file("silent", tmp_path, tones[0])
    worker = features.Worker("egemaps", 16_000)
    found = worker.ask(path)
    worker.process.kill()
    worker.close()
    assert isinstance(found, MtepError) and isinstance(found, MediaError) and path.name in str(found)


# --- real speech -------------------------------------------------------------------------------------------------


def test_ravdess_clips(data_folder):
    files = sorted((data_folder / "ravdess" / "Actor_01").glob("*.flac"))[:6]
    if not files:
        pytest.skip("no RAVDESS as FLAC folder below MTEP_DATA")
    table = extract(files)
    expected = np.vstack([features.extractor().process_file(str(path)).to_numpy() for path in files])
    np.testing.assert_array_equal(table.to_numpy(), expected)


def test_even_sets_hear_neither_framing_nor_gain(tmp_path):
    rng = np.random.default_rng(0)
    voice = 0.3 * np.sign(np.sin(2 * np.pi * 140 * np.arange(16_000) / 16_000)) + 0.01 * rng.standard_normal(16_000)
    still = np.zeros(16_000)
    bare = write_sound(tmp_path / "bare.wav", voice, 16_000)
    framed = write_sound(tmp_path / "framed.wav", np.concatenate([still, 0.1 * voice, still]), 16_000)
    whole, even = (extract([bare, framed], name, jobs=1) for name in ("egemaps", "egemaps-even"))
    level = "equivalentSoundLevel_dBp"
    assert whole[level].diff().abs().iloc[1] > 15
    assert even[level].diff().abs().iloc[1] < 1.5  # the margins that stay
    assert digest(features.recipe("egemaps")) != digest(features.recipe("egemaps-even"))
    assert "even" not in features.recipe("egemaps")  # what was measured before keeps its place
