"""Spectra: librosa's numbers, clips in company, a cache that cannot lie, and distortions that do what they say."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import FrozenInstanceError, replace

import librosa
import numpy as np
import pytest
import torch

from mtep import spectra
from mtep.core import InputError, MediaError, StorageError
from mtep.encoders import change_speed, trim_silence
from mtep.media import read_sound, write_sound
from mtep.spectra import (
    Measure,
    add_noise,
    add_room,
    change_gain,
    distort,
    filter_tilt,
    fit_length,
    frames_of,
    measure_several,
    measure_spectra,
    pad_batch,
    padded,
    pitch_and_tempo,
    spectra_of,
)

KINDS = ("log-mel", "mfcc", "magnitude", "chroma")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))


def voice(seconds=0.6, rate=16_000, seed=0, pitch=140):
    "Something like a voice: harmonics, breath, a pause of digital silence."
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * time + k) / k for k in range(1, 12)) * np.hanning(len(time))
    sound = 0.1 * wave + 0.002 * rng.standard_normal(len(time))
    sound[len(time) // 2 : len(time) // 2 + len(time) // 5] = 0
    return sound.astype(np.float32)


def tone(pitch, rate=16_000, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def by_librosa(samples, measure):
    options = dict(sr=measure.rate, n_fft=measure.window, hop_length=measure.hop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of clips shorter than a window
        if measure.kind == "magnitude":
            found = np.abs(librosa.stft(samples, n_fft=measure.window, hop_length=measure.hop))
        elif measure.kind == "chroma":
            found = librosa.feature.chroma_stft(y=samples, n_chroma=measure.size, tuning=0.0, **options)
        else:
            bands = measure.size if measure.kind == "log-mel" else measure.bands
            limits = dict(n_mels=bands, fmin=measure.low, fmax=measure.top)
            power = librosa.feature.melspectrogram(y=samples, pad_mode="constant", **limits, **options)
            found = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
            found = librosa.feature.mfcc(S=found, n_mfcc=measure.size) if measure.kind == "mfcc" else found
    slopes = [librosa.feature.delta(found, order=k + 1, mode="nearest") for k in range(measure.deltas)]
    return np.concatenate([found, *slopes])


def assert_equal(ours, theirs, measure):
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    worst, largest = np.abs(ours.numpy() - theirs).max(), np.abs(theirs).max()
    assert worst < 1e-4 * max(largest, 1e-3)
    assert worst < 1e-3 or measure.kind == "magnitude"


# --- librosa's numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 300, 3_200, 3_333, 9_601, 16_000])
def test_kinds_equal_librosa_at_any_length(kind, n):
    measure, samples = Measure(kind, deltas=2), voice(1.0)[:n]
    assert_equal(spectra_of(torch.from_numpy(samples), measure), by_librosa(samples, measure), measure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rate", "window", "hop"), [(8_000, 256, 80), (16_000, 400, 133), (22_050, 1024, 512), (16_000, 513, 100)]
)
def test_kinds_equal_librosa_at_any_rate_and_hop(kind, rate, window, hop):
    measure, samples = (
        Measure(kind, rate=rate, window=window, hop=hop, bands=40, size=40 if kind == "log-mel" else 0),
        voice(0.5, rate),
    )
    assert_equal(spectra_of(torch.from_numpy(samples), measure), by_librosa(samples, measure), measure)


@pytest.mark.parametrize("measure", [
    Measure(low=50, high=7_600), Measure("mfcc", 13, bands=80, window=1024, deltas=1), Measure("chroma", 24, window=2048),
    Measure("chroma", 11), Measure(size=1), Measure("mfcc", 1), Measure(hop=512),
])  # fmt: skip
def test_other_settings_equal_librosa(measure):
    samples = voice(0.7)
    assert_equal(spectra_of(torch.from_numpy(samples), measure), by_librosa(samples, measure), measure)


@pytest.mark.parametrize("level", [1e-6, 1e-3, 30.0])
def test_soft_and_loud_sound_and_pure_tones_equal_librosa(level):
    for samples in (level * voice(0.4), level * tone(441.3, seconds=0.4)):
        assert_equal(spectra_of(torch.from_numpy(samples), Measure()), by_librosa(samples, Measure()), Measure())


def test_silence_is_minus_a_hundred_decibels_and_no_pitch():
    nothing = torch.zeros(4_000)
    assert (spectra_of(nothing, Measure()) == -100).all()
    assert (spectra_of(nothing, Measure("chroma", deltas=1)) == 0).all()


def test_too_many_bands_are_warned_about_and_equal_librosa():
    spectra.mel_bank.cache_clear()
    with pytest.warns(UserWarning, match="mel bands hear nothing with a window of 512 samples"):
        found = spectra_of(torch.from_numpy(voice(0.3)), Measure(size=200))
    assert_equal(found, by_librosa(voice(0.3), Measure(size=200)), Measure(size=200))


def test_long_sound_is_measured_in_blocks_that_leave_no_seam(monkeypatch):
    samples = torch.from_numpy(voice(2.0))
    whole = spectra_of(samples, Measure(deltas=2))
    monkeypatch.setattr(spectra, "BLOCK", 512 * 7)
    assert torch.allclose(spectra_of(samples, Measure(deltas=2)), whole, atol=1e-4)


def test_broken_hops_stand_at_the_nearest_sample():
    samples = torch.from_numpy(voice())
    assert torch.equal(spectra_of(samples, Measure(), hop=320), spectra_of(samples, Measure(hop=320)))
    assert torch.equal(spectra_of(samples, Measure(), hop=160.0), spectra_of(samples, Measure()))
    fractional = spectra_of(samples, Measure(), hop=100.4)
    assert fractional.shape[1] == frames_of(len(samples), Measure(), 100.4) == 1 + int(len(samples) // 100.4)
    assert torch.equal(fractional[:, 5], spectra_of(samples, Measure(hop=502))[:, 1])


# --- company -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [512, 401])
def test_clip_alone_and_in_a_batch_agree(kind, window):
    measure = Measure(kind, deltas=2, window=window)
    clips = [voice(seconds, seed=k) for k, seconds in enumerate([0.5, 0.21, 0.9, 0.03])]
    together, lengths = padded(clips)
    found, counts = spectra_of(together, measure, lengths=lengths), frames_of(lengths, measure)
    assert found.shape == (4, measure.rows, counts.max())
    for row, count, clip in zip(found, counts, clips):
        alone = spectra_of(torch.from_numpy(clip), measure)
        assert alone.shape[1] == count == frames_of(len(clip), measure)
        assert (row[:, :count] - alone).abs().max() < 1e-4 * max(1.0, float(alone.abs().max()))


def test_fit_length_and_pad_batch():
    x, rng = torch.randn(3, 10), np.random.default_rng(0)
    assert torch.equal(fit_length(x, 10), x)
    assert torch.equal(fit_length(x, 4), x[:, 3:7])
    crops = {tuple(fit_length(x, 4, rng)[0].tolist()) for _ in range(200)}
    assert crops == {tuple(x[0, k : k + 4].tolist()) for k in range(7)}
    longer = fit_length(x, 12, rng)
    assert torch.equal(longer[:, :10], x) and (longer[:, 10:] == x.min()).all()
    assert (fit_length(x, 12, fill=0)[:, 10:] == 0).all()
    batch, mask = pad_batch([x, x[:, :4]], fill=-1)
    assert batch.shape == (2, 3, 10) and mask.dtype == torch.bool and mask.sum(1).tolist() == [10, 4]
    assert (batch[1, :, 4:] == -1).all()


# --- bad values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "told"), [
    ({"kind": "mel"}, "kind of spectrum 'mel' is not known"), ({"size": 0.5}, "size=0.5"), ({"size": True}, "size=True"),
    ({"size": -1}, "size=-1"), ({"size": 258}, "size=258 is more than log-mel can have here; give at most 257"),
    ({"kind": "mfcc", "bands": 20}, "size=40 is more than mfcc can have here; give at most 20"),
    ({"kind": "magnitude", "size": 100}, "size=100 is not window // 2 + 1 = 257"), ({"window": 64, "hop": 32}, "size=64 is more than"),
    ({"deltas": 3}, "deltas=3 is not a whole number from 0 to 2"), ({"rate": 0}, "rate=0"), ({"window": 4}, "window=4"),
    ({"hop": 0}, "hop=0"), ({"hop": 513}, "hop=513 is not a whole number from 1 to 512"), ({"hop": 1.5}, "hop=1.5"),
    ({"low": -1}, "low=-1"), ({"high": 8001}, "high=8001"), ({"low": 400, "high": 300}, "give low below high"),
    ({"low": float("nan")}, "low=nan"), ({"high": "8k"}, "high='8k'"), ({"kind": "chroma", "high": 4000}, "mean nothing to chroma"),
])  # fmt: skip
def test_measure_refuses(given, told):
    with pytest.raises(InputError) as error:
        Measure(**given)
    assert told in str(error.value) and error.value.remedy


def test_measure_is_frozen_hashable_and_says_its_size():
    assert Measure("mfcc", 13, deltas=2).rows == 39 and Measure("magnitude", window=400).size == 201
    assert Measure(hop=80).seconds_per_frame == 0.005
    assert len({Measure(), Measure(size=64), Measure("chroma")}) == 2
    assert replace(Measure(), hop=320).hop == 320
    with pytest.raises(FrozenInstanceError):
        Measure().hop = 1


@pytest.mark.parametrize(("call", "told"), [
    (lambda: spectra_of(torch.zeros(10, dtype=torch.int16), Measure()), "is no sound"),
    (lambda: spectra_of(torch.zeros(1, 2, 3), Measure()), "shape (1, 2, 3)"),
    (lambda: spectra_of(torch.zeros(0), Measure()), "is no sound"),
    (lambda: spectra_of(torch.full((900,), torch.nan), Measure()), "NaN or infinite"),
    (lambda: spectra_of(torch.zeros(900), Measure(), hop=0), "hop=0"),
    (lambda: spectra_of(torch.zeros(900), Measure(), hop=float("nan")), "hop=nan"),
    (lambda: spectra_of(torch.zeros(2, 900), Measure(), lengths=[900]), "do not fit the clips"),
    (lambda: spectra_of(torch.zeros(1, 900), Measure(), lengths=[2000]), "do not fit the clips"),
    (lambda: padded([]), "holds no sound"), (lambda: padded([np.zeros((2, 3))]), "has channels"),
    (lambda: padded([np.zeros(0)]), "is empty"),
    (lambda: fit_length(torch.zeros(3), 4), "is no spectrum"), (lambda: fit_length(torch.zeros(3, 4), 0), "frames=0"),
    (lambda: pad_batch([]), "holds no spectrum"),
    (lambda: pad_batch([torch.zeros(2, 3), torch.zeros(3, 3)]), "do not fit together"),
    (lambda: add_noise(voice(), 0), "is no NumPy generator"),
    (lambda: add_noise(voice(), np.random.default_rng(), (5, 1)), "snr=(5, 1)"),
    (lambda: add_noise(voice(), np.random.default_rng(), 5), "snr=5"),
    (lambda: add_noise(voice(), np.random.default_rng(), (1, 2), "blue"), "colour of noise 'blue'"),
    (lambda: change_gain(np.zeros(9, np.int16), np.random.default_rng()), "type int16 is no sound"),
    (lambda: change_gain(voice(), np.random.default_rng(), (0, float("inf"))), "decibels=(0, inf)"),
    (lambda: add_room(voice(), np.random.default_rng(), (0, 0.1)), "seconds=(0, 0.1)"),
    (lambda: filter_tilt(voice() * np.float32("nan"), np.random.default_rng()), "is no sound"),
    (lambda: distort(voice(), np.random.default_rng(), ["nois"]), "did you mean 'noise'?"),
    (lambda: distort(voice(), np.random.default_rng(), chance=2), "chance=2"),
    (lambda: pitch_and_tempo(voice(), Measure(), 13), "semitones=13"),
    (lambda: pitch_and_tempo(voice(), Measure(), 0, 0), "tempo=0"),
    (lambda: pitch_and_tempo(voice()[None], Measure()), "are not one sound"),
])  # fmt: skip
def test_refusals(call, told):
    with pytest.raises(InputError) as error:
        call()
    assert told in str(error.value)


# --- the cache ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    return [
        write_sound(folder / f"{k:02}.wav", voice(0.3 + 0.05 * k, seed=k, pitch=100 + 9 * k), 16_000) for k in range(12)
    ]


def stored(tmp_path, ending="npy"):
    return sorted((tmp_path / "cache" / "spectra").glob(f"*/*.{ending}"))


def test_second_call_measures_nothing_and_gives_the_same_bits(files, tmp_path):
    cold, warm = (measure_spectra(files, Measure(deltas=1), chunk=5) for _ in range(2))
    assert (cold.measured, warm.measured, len(stored(tmp_path))) == (12, 0, 3)
    assert len(warm) == 12 and list(warm.names) == [str(path) for path in files] and warm.names.name == "file"
    assert warm.frames.dtype == np.int64 and warm.failed == {} and "12 recordings, log-mel of 128 rows" in repr(warm)
    for k, path in enumerate(files):
        alone = spectra_of(torch.from_numpy(trim_silence(read_sound(path).samples)), Measure(deltas=1))
        assert torch.equal(cold[k], warm[k]) and warm[k].dtype == torch.float32 and warm[k].is_contiguous()
        assert warm[k].shape == (128, warm.frames[k]) and (warm[k] - alone).abs().max() < 1e-3
    recipe = json.loads((stored(tmp_path)[0].parent / "recipe.json").read_text(encoding="utf-8"))
    assert recipe == warm.recipe and recipe["measure"]["size"] == 64


def test_it_behaves_like_a_list(files):
    found = measure_spectra(files[:3], Measure())
    assert torch.equal(found[-1], found[2]) and torch.equal(found[np.int64(1)], found[1]) and len(list(found)) == 3
    with pytest.raises(IndexError):
        found[3]
    found[0].zero_()  # a copy
    assert (found[0] != 0).any()
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again[1], found[1])


def test_values_are_not_held_in_memory(files, monkeypatch):
    found = measure_spectra(files, Measure())
    asked, load = [], np.load
    monkeypatch.setattr(np, "load", lambda path, **options: asked.append(options) or load(path, **options))
    assert found[4].shape[0] == 64 and asked == [{"mmap_mode": "r"}]
    assert not any(isinstance(place.source, np.ndarray) for place in found.places)
    assert len(pickle.dumps(found)) < 10_000


def test_without_the_cache_nothing_is_written(files, tmp_path):
    kept, loose = measure_spectra(files[:4], Measure()), measure_spectra(files[:4], Measure(), cache=False)
    before = stored(tmp_path)
    assert loose.measured == 4 and all(torch.equal(a, b) for a, b in zip(kept, loose))
    measure_spectra(files[4:], Measure(), cache=False)
    assert stored(tmp_path) == before


def test_each_recipe_has_its_own_folder(files, tmp_path, monkeypatch):
    calls = [{}, {"speed": 1.1}, {"speed": 0.9}, {"trim": False}]
    found = [measure_spectra(files[:2], Measure(), **call) for call in calls]
    found += [measure_spectra(files[:2], measure) for measure in (Measure("mfcc"), Measure(hop=80), Measure(low=50))]
    monkeypatch.setattr(spectra, "RECIPE", spectra.RECIPE + 1)
    found.append(measure_spectra(files[:2], Measure()))
    assert [some.measured for some in found] == [2] * 8 and len({path.parent for path in stored(tmp_path)}) == 8
    monkeypatch.undo()
    faster = trim_silence(change_speed(read_sound(files[0]).samples, 1.1))
    assert (found[1][0] - spectra_of(torch.from_numpy(faster), Measure())).abs().max() < 1e-3


def test_same_numbers_have_the_same_recipe():
    assert spectra.recipe(Measure(size=64, high=8_000)) == spectra.recipe(Measure(high=0.0), speed=1)


def test_only_what_is_new_is_measured(files, tmp_path):
    copies = [tmp_path / f"copy{k}.wav" for k in range(3)]
    for copy, path in zip(copies, files):
        copy.write_bytes(path.read_bytes())
    assert measure_spectra(files[:3], Measure()).measured == 3
    assert measure_spectra(copies, Measure()).measured == 0  # content counts, not names
    old = measure_spectra(copies, Measure())[1]
    write_sound(copies[1], voice(0.5, seed=99), 16_000)
    changed = measure_spectra(copies, Measure())
    assert changed.measured == 1 and changed[1].shape != old.shape
    assert measure_spectra(files[:5], Measure()).measured == 2
    twins = measure_spectra([files[0], copies[0]], Measure())
    assert len(twins) == 2 and torch.equal(twins[0], twins[1])


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "index", "empty"])
def test_damage_is_noticed_and_measured_again(files, tmp_path, damage):
    good = [x.clone() for x in measure_spectra(files[:6], Measure(), chunk=3)]
    victim = stored(tmp_path, "index" if damage == "index" else "npy")[0]
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    elif damage == "index":
        victim.write_bytes(content.replace(b'": 3', b'": 2').replace(b'": 4', b'": 3'))
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 64]) + content[-4:]
        victim.write_bytes({"flipped": flipped, "truncated": content[:-400], "empty": b""}[damage])
    with pytest.warns(UserWarning, match="is damaged and was discarded"):
        healed = measure_spectra(files[:6], Measure(), chunk=3)
    assert healed.measured == 3 and all(torch.equal(a, b) for a, b in zip(good, healed))
    assert measure_spectra(files[:6], Measure()).measured == 0


def test_reading_what_is_gone_says_so(files, tmp_path):
    found = measure_spectra(files[:2], Measure())
    for path in stored(tmp_path):
        path.unlink()
    with pytest.raises(StorageError, match="is gone or damaged since it was found; measure again"):
        found[0]


def test_interruption_loses_at_most_a_chunk_and_leaves_no_remains(files, tmp_path, monkeypatch):
    real, count = spectra.write_spectra, []

    def dies(folder, rows, frames):
        count.append(1)
        if len(count) == 3:
            spectra.write_bytes(folder / f"{'0' * 32}.npy", b"values without an index")
            raise KeyboardInterrupt
        return real(folder, rows, frames)

    monkeypatch.setattr(spectra, "write_spectra", dies)
    with pytest.raises(KeyboardInterrupt):
        measure_spectra(files, Measure(), chunk=4)
    monkeypatch.undo()
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))
    assert measure_spectra(files, Measure(), chunk=4).measured == 4
    assert not any(path.stem == "0" * 32 for path in stored(tmp_path))


KILLED = """import sys
import torch
torch.set_num_threads(1)
from mtep import spectra
real = spectra.write_spectra
def write(*parts):
    found = real(*parts)
    print("written", flush=True)
    sys.stdin.readline()  # waits here until it is killed
    return found
spectra.write_spectra = write
spectra.measure_spectra(sys.argv[1:], spectra.Measure(), chunk=4)"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed otherwise here")
def test_killed_program_resumes_and_its_lock_is_free(files):
    command = [sys.executable, "-c", KILLED, *map(str, files)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "written\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    begun = time.monotonic()
    assert measure_spectra(files, Measure()).measured == 8
    assert time.monotonic() - begun < 10


def test_two_threads_do_not_measure_twice(files):
    from concurrent.futures import ThreadPoolExecutor

    with warnings.catch_warnings(), ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("ignore")  # one of them may have to wait and says so
        both = list(pool.map(lambda _: measure_spectra(files, Measure("chroma"), chunk=4), range(2)))
    assert sum(found.measured for found in both) == 12 and torch.equal(both[0][7], both[1][7])


def test_several_measures_of_one_reading_are_those_of_each_alone(files, monkeypatch):
    several = [Measure(kind, deltas=1) for kind in KINDS]
    read, real = [], spectra.read_sound
    monkeypatch.setattr(spectra, "read_sound", lambda *given: read.append(given[0]) or real(*given))
    together = measure_several(files, several, chunk=5)
    assert sorted(read) == sorted(files) and [found.measured for found in together] == [12] * 4
    for measure, found in zip(several, together):
        assert found.measure == measure and measure_spectra(files, measure).measured == 0
        alone = measure_spectra(files, measure, cache=False)
        assert all(torch.equal(a, b) for a, b in zip(found, alone))


def test_of_several_measures_only_what_is_missing_is_measured(files, monkeypatch):
    measure_spectra(files[:3], Measure())
    measure_spectra(files[2:5], Measure("mfcc"))
    read, real = [], spectra.read_sound
    monkeypatch.setattr(spectra, "read_sound", lambda *given: read.append(given[0]) or real(*given))
    both = measure_several(files[:6], [Measure("mfcc"), Measure()])
    assert [found.measured for found in both] == [3, 3] and sorted(read) == [*files[:2], *files[3:6]]
    assert both[0][0].shape[0] == 40 and both[1][0].shape[0] == 64
    for measure, found in zip((Measure("mfcc"), Measure()), both):
        assert all(torch.equal(a, b) for a, b in zip(found, measure_spectra(files[:6], measure, cache=False)))


@pytest.mark.parametrize(("measures", "told"), [
    ([], "are none, or one of them twice"), ([Measure(), Measure(size=64)], "one of them twice"), ("mfcc", "is no Measure"),
    ([Measure(), "mfcc"], "is no Measure"), ([Measure(), Measure("mfcc", hop=80)], "differ in rate, window or hop"),
    (None, "is no Measure"),
])  # fmt: skip
def test_measures_that_do_not_go_together_are_refused(files, measures, told):
    with pytest.raises(InputError, match=told):
        measure_several(files[:1], measures)


def test_mfcc_of_another_log_mel_are_not_made_of_the_one_beside_them():
    samples = torch.from_numpy(voice()).double()[None]
    others = [Measure("mfcc", 13, bands=40), Measure("mfcc", 13, low=80), Measure("mfcc", 13, bands=80)]
    centres = spectra.centres_of(samples.shape[1], Measure())
    together = spectra.spectra_at(samples, [Measure(), Measure(size=80), *others], centres)
    for measure, found in zip(others, together[2:]):
        assert torch.equal(found[0], spectra_of(samples[0], measure))


def test_threads_work_side_by_side_in_order_and_not_far_ahead():
    asked = []

    def tasks():
        for k in range(50):
            asked.append(k)
            yield k

    before = torch.get_num_threads()
    results = spectra.abreast(lambda k: (k, torch.get_num_threads()), tasks(), 2)
    assert [next(results) for _ in range(3)] == [(0, 1), (1, 1), (2, 1)] and len(asked) <= 3 + 5
    results.close()
    assert len(asked) <= 3 + 5 and torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        list(spectra.abreast(lambda k: 1 / k, [1, 0, 2], 2))
    assert torch.get_num_threads() == before


# --- bad recordings ----------------------------------------------------------------------------------------------


def test_bad_recordings_are_refused_or_skipped(files, tmp_path):
    mute = write_sound(tmp_path / "mute.wav", np.zeros(16_000), 16_000)
    brief = write_sound(tmp_path / "brief.wav", voice(1.0)[4000:4400], 16_000)
    text = tmp_path / "text.wav"
    text.write_text("no sound", encoding="utf-8")
    bad = {mute: "is silent", brief: "is too short: 0.025 s of sound, and 0.032 s are needed", text: "cannot be read",
           tmp_path / "gone.wav": "does not exist"}  # fmt: skip
    for path, told in bad.items():
        with pytest.raises(MediaError, match=told if path.name != "text.wav" else "is not a sound or video file"):
            measure_spectra([*files[:2], path], Measure())
    with pytest.warns(UserWarning, match="4 of 6 recordings were skipped"):
        found = measure_spectra([*bad, *files[:2]], Measure(), on_error="skip")
    assert list(found.names) == [str(path) for path in files[:2]] and set(found.failed) == {str(path) for path in bad}
    assert torch.equal(found[0], measure_spectra(files[:1], Measure())[0]) and "4 failed" in repr(found)
    with pytest.warns(UserWarning, match="1 of 1 recordings were skipped"):
        assert len(measure_spectra([mute], Measure(), on_error="skip")) == 0


def test_good_recordings_of_a_load_are_kept_when_a_bad_one_stops_it(files, tmp_path):
    mute = write_sound(tmp_path / "mute.wav", np.zeros(16_000), 16_000)
    with pytest.raises(MediaError):
        measure_spectra([*files[:4], mute], Measure())
    assert measure_spectra(files[:4], Measure()).measured == 0


def test_a_clip_of_a_window_is_long_enough_and_the_window_counts(files, tmp_path):
    path = write_sound(tmp_path / "a.wav", voice(1.0)[3000:3512], 16_000)
    assert measure_spectra([path], Measure(), trim=False).frames.tolist() == [4]
    with pytest.raises(MediaError, match="0.064 s are needed"):
        measure_spectra([path], Measure(window=1024))


@pytest.mark.parametrize(("given", "told"), [
    ({"sounds": []}, "an empty list"), ({"sounds": 5}, "neither a corpus nor"), ({"measure": "mfcc"}, "is no Measure"),
    ({"on_error": "ignore"}, "on_error 'ignore'"), ({"chunk": 0}, "chunk=0"), ({"speed": 3}, "speed 3"),
    ({"speed": float("nan")}, "speed nan"),
])  # fmt: skip
def test_measure_spectra_refuses(files, given, told):
    with pytest.raises(InputError) as error:
        measure_spectra(**{"sounds": files[:1], "measure": Measure()} | given)
    assert told in str(error.value)


# --- distortions -------------------------------------------------------------------------------------------------

CHANGES = [add_noise, change_gain, add_room, filter_tilt, distort]


@pytest.mark.parametrize("change", CHANGES)
def test_same_seed_same_bits_and_nothing_else_is_touched(change):
    sound = voice()
    before, state = sound.copy(), np.random.get_state()[1].copy()
    first, second, other = (change(sound, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert first.dtype == np.float32 and first.shape == sound.shape and np.isfinite(first).all()
    assert np.array_equal(sound, before) and np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("n", [1, 2, 16_001])
def test_silence_stays_silence(change, n):
    for seed in range(5):
        assert not change(np.zeros(n, np.float32), np.random.default_rng(seed)).any()
        assert np.isfinite(change(np.full(n, 0.1, np.float32), np.random.default_rng(seed))).all()


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("snr", [-5, 10, 30])
def test_noise_is_as_strong_as_asked(colour, snr):
    sound = voice(1.0)
    noise = add_noise(sound, np.random.default_rng(0), (snr, snr), colour).astype(np.float64) - sound
    assert abs(10 * np.log10(np.mean(sound.astype(np.float64) ** 2) / np.mean(noise**2)) - snr) < 0.5


def test_pink_noise_is_equally_strong_in_octaves_and_white_is_not():
    for colour, slope in {"white": 3.0, "pink": 0.0}.items():
        noise = add_noise(tone(3, seconds=8) * 1e-3, np.random.default_rng(0), (-60, -60), colour)
        power, hz = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(len(noise), 1 / 16_000)
        octaves = [10 * np.log10(power[(hz >= low) & (hz < 2 * low)].sum()) for low in (125, 250, 500, 1000, 2000)]
        assert abs(np.polyfit(range(5), octaves, 1)[0] - slope) < 0.3


def test_draws_stay_within_limits():
    sound = voice()
    gains = [
        20 * np.log10(np.abs(change_gain(sound, np.random.default_rng(k), (-3, 6))).max() / np.abs(sound).max())
        for k in range(60)
    ]
    assert -3 <= min(gains) < -1 and 4 < max(gains) <= 6
    assert np.abs(change_gain(np.ones(5, np.float32), np.random.default_rng(0), (6, 6))).max() > 1  # nothing is clipped


def test_room_keeps_length_and_direct_sound_and_fades_as_asked():
    click = np.zeros(16_000, np.float32)
    click[100] = 1.0
    for length in (0.1, 0.5):
        heard = add_room(click, np.random.default_rng(1), (length, length), (3, 3))
        assert heard.shape == click.shape and abs(heard[100] - 1) < 1e-5 and np.abs(heard[:100]).max() < 1e-6
        assert abs(10 * np.log10(np.sum(heard[101:] ** 2)) + 3) < 0.01
        energy = np.cumsum(heard[:100:-1].astype(np.float64) ** 2)[::-1]  # Schroeder's backward integral
        stretch = slice(0, int(0.4 * length * 16_000))
        slope = np.polyfit(np.arange(stretch.stop) / 16_000, 10 * np.log10(energy[stretch]), 1)[0]
        assert abs(-60 / slope / length - 1) < 0.1
    assert add_room(voice(0.05), np.random.default_rng(0), (2, 2)).shape == voice(0.05).shape


def test_tilt_stays_within_its_gains_and_moves_nothing_in_time():
    click = np.zeros(16_000, np.float32)
    click[8_000] = 1.0
    heard = filter_tilt(click, np.random.default_rng(0), (-6, 6))
    gains = 20 * np.log10(np.abs(np.fft.rfft(heard)))
    assert gains.min() > -6.1 and gains.max() < 6.1 and np.ptp(gains) > 2
    assert np.abs(heard).argmax() == 8_000 and np.allclose(heard[7_000:8_000], heard[9_000:8_000:-1], atol=1e-5)
    assert np.abs(filter_tilt(click, np.random.default_rng(0), (0, 0)) - click).max() < 1e-6


def test_distort_applies_what_was_named():
    sound, seed = voice(), np.random.default_rng
    assert np.array_equal(distort(sound, seed(0), chance=0), sound) and np.array_equal(
        distort(sound, seed(0), []), sound
    )
    only = seed(3)
    only.random()
    assert np.array_equal(distort(sound, seed(3), "gain", chance=1), change_gain(sound, only))
    changed = sum(not np.array_equal(distort(sound, seed(k), ["gain"], chance=0.3), sound) for k in range(300))
    assert 60 < changed < 120
    assert distort(sound, seed(0), [*spectra.DISTORTIONS], 1, rate=8_000).shape == sound.shape


def peak(picture):
    return int(picture.mean(1).argmax()) * 10


FINE = Measure("magnitude", window=1600)  # bins of 10 Hz


@pytest.mark.parametrize(
    ("semitones", "tempo", "hertz"),
    [(0, 1, 220), (12, 1, 440), (-12, 1, 110), (12, 2, 440), (0, 0.5, 220), (7, 1, 330)],
)
def test_pitch_moves_the_peak_and_tempo_the_length(semitones, tempo, hertz):
    picture = pitch_and_tempo(tone(220), FINE, semitones, tempo)
    assert peak(picture) == hertz and picture.shape == (801, round(101 / tempo))


@pytest.mark.parametrize("n", [1, 511, 8_000, 12_345])
def test_pitch_and_tempo_give_the_promised_frames_and_leave_time_alone(n):
    sound = voice(1.0)[:n]
    count = frames_of(n, Measure())
    for semitones in (-12, -5.5, -1, 0, 0.3, 4, 12):
        for tempo in (0.5, 0.9, 1, 1.7, 2):
            if n > 1 or semitones == 0:
                assert pitch_and_tempo(sound, Measure(), semitones, tempo).shape == (64, max(1, round(count / tempo)))
    assert torch.equal(
        pitch_and_tempo(sound, Measure(deltas=1)), spectra_of(torch.from_numpy(sound), Measure(deltas=1))
    )
    if n == 8_000:  # a click stays where it is
        click = np.zeros(n, np.float32)
        click[4_000:4_020] = 0.5
        for semitones in (-7, 0, 7):
            assert abs(int(pitch_and_tempo(click, Measure(), semitones).mean(0).argmax()) - 25) <= 1


def test_silence_has_no_pitch():
    assert (pitch_and_tempo(np.zeros(8_000, np.float32), Measure(), 3, 1.2) == -100).all()


# --- real recordings ---------------------------------------------------------------------------------------------


def test_ravdess_equals_librosa_and_is_measured_once(ravdess):
    some = ravdess.subset(np.arange(0, 1440, 120))
    for path in some.paths[:4]:
        samples = read_sound(path).samples
        for kind in KINDS:
            measure = Measure(kind, deltas=1)
            assert_equal(spectra_of(torch.from_numpy(samples), measure), by_librosa(samples, measure), measure)
    found, again = (measure_spectra(some, Measure()) for _ in range(2))
    assert (found.measured, again.measured) == (12, 0) and list(again.names) == list(some.table["file"])
    assert 50 < again.frames.min() and again.frames.max() < 600
