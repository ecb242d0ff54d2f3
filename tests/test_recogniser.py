"""Emotion of any recording: models there and not there, bad input, windows, pauses, enrolment, what is written."""

import json
import shutil
import threading
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from mtep import weights
from mtep.core import InputError, MediaError, MtepError, OfflineError, PackageError
from mtep.emotion import recogniser
from mtep.emotion.forest import Forest, save_forest, write_output
from mtep.emotion.recogniser import (
    Emotion,
    Hearing,
    Recorder,
    conclude,
    csv_line,
    cut,
    load_model,
    pauses,
    plan_windows,
    plot_timeline,
    ravdess_line,
    reduce_proba,
    reduction,
    save_picture,
    stretches,
    text_grid,
    verdict_grid,
)
from mtep.media import Sound, read_sound, recordings_in, stream_sound, write_sound

RATE = 16_000


class Loudness:
    "A model to test with: the louder a clip is, the angrier; eight labels."

    labels = ["angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"]
    card = {"corpus": "no corpus", "licence": "none"}

    def __init__(self, refuse=None, nothing=None):
        self.refuse, self.nothing, self.sizes = refuse, nothing, []

    def vectors(self, clips):
        self.sizes.append(len(clips))
        for clip in clips:
            if self.refuse and abs(len(clip) / RATE - self.refuse) < 0.01:
                raise MediaError("a clip", "is odd", "leave it out")
        return np.array([[20 * np.log10(np.abs(clip).max() + 1e-9), len(clip) / RATE] for clip in clips])

    def proba(self, vectors, own=None):
        usual = -20.0 if own is None else own[:, 0].mean()
        angry = 1 / (1 + np.exp(-(vectors[:, :1] - usual) / 3))
        found = np.hstack([angry, (1 - angry) * [0.1, 0.1, 0.1, 0.05, 0.5, 0.1, 0.05]])
        if self.nothing:
            found[np.abs(vectors[:, 1] - self.nothing) < 0.01] = np.nan
        return found


def tone(seconds, height=0.3, rate=RATE, pitch=220.0):
    "A tone with harmonics."
    t = np.arange(round(seconds * rate)) / rate
    return (height * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3)) / 1.8).astype(np.float32)


def write_video(path, frames=10):
    "A film without sound."
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for k in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * k % 255, np.uint8), format="rgb24")
            for packet in stream.encode(picture):
                film.mux(packet)
        for packet in stream.encode(None):
            film.mux(packet)
    return path


@pytest.fixture
def clips(tmp_path):
    "Two clips and seven kinds of trouble."
    folder = tmp_path / "clips"
    write_sound(folder / "a_loud.wav", tone(2, 0.9), RATE)
    write_sound(folder / "b_soft.wav", tone(2, 0.01), RATE)
    write_sound(folder / "c_off.wav", np.zeros(RATE), RATE)
    write_sound(folder / "d_blink.wav", tone(0.1), RATE)
    write_video(folder / "e_mute.mp4")
    (folder / "f_text.wav").write_text("no sound", encoding="utf-8")
    (folder / "g_empty.wav").write_bytes(b"")
    whole = (folder / "a_loud.wav").read_bytes()
    (folder / "h_cut.wav").write_bytes(whole[: len(whole) // 2])
    return folder


# ------------------------------------------------------------------------------------------------ models


def test_auto_takes_the_first_that_can_be_had_and_says_so(monkeypatch):
    def missing(device):
        raise OfflineError("weights", "are not here", "run: something")

    monkeypatch.setattr(recogniser, "MODELS", {"voice": missing, "forest": lambda device: Loudness()})
    emotion = Emotion.load()
    assert emotion.name == "forest" and emotion.predict(Sound(tone(2), RATE)).attrs["model"] == "forest"
    assert any("Chosen because there is no voice model: weights are not here" in note for note in emotion.notes)


def test_without_any_model_the_error_says_what_each_lacks(monkeypatch):
    def missing(device):
        raise PackageError("package 'x'", "is not installed", "run: pip install x")

    monkeypatch.setattr(recogniser, "MODELS", {"voice": missing, "forest": missing})
    with pytest.raises(OfflineError, match=r"no voice model: package 'x'.*no forest model.*mtep\[offline\]"):
        Emotion.load()


def test_a_damaged_model_is_no_reason_to_take_another(monkeypatch):
    def damaged(device):
        raise InputError("model.bin", "has other bytes than it should", "get it again")

    monkeypatch.setattr(recogniser, "MODELS", {"voice": damaged, "forest": lambda device: Loudness()})
    with pytest.raises(InputError, match="other bytes"):
        Emotion.load()


def test_the_network_comes_between_voice_and_forest_and_warns(monkeypatch, network):
    assert list(recogniser.MODELS) == ["voice", "cnn", "forest"]

    def missing(device):
        raise OfflineError("weights", "are not here", "run: something")

    monkeypatch.setitem(recogniser.MODELS, "voice", missing)
    monkeypatch.setitem(recogniser.MODELS, "forest", missing)
    monkeypatch.setattr(weights, "assets_folder", lambda: network.parent)
    for model, name in (("auto", "cnn"), ("cnn", "cnn"), ("emotion-cnn", "cnn"), (network, str(network))):
        emotion = Emotion.load(model)
        assert emotion.name == name and "the last resort where no encoder can be had" in emotion.notes[0]
    assert Emotion.load().notes[1].startswith("Chosen because there is no voice model")
    shutil.rmtree(network)
    with pytest.raises(OfflineError, match="weights 'emotion-cnn' are not here"):
        Emotion.load("cnn")
    with pytest.raises(OfflineError, match="no voice model.*no cnn model: weights 'emotion-cnn' are not here.*no forest"):
        Emotion.load()
    monkeypatch.setitem(recogniser.MODELS, "forest", lambda device: Loudness())
    assert Emotion.load().name == "forest", "without the network the search goes on"


def test_no_forest_is_trained_on_synthetic_speech(monkeypatch, tmp_path):
    monkeypatch.setattr(recogniser, "find", lambda name: None)
    with pytest.raises(MtepError, match="has no corpus to learn from; run: mtep data get ravdess"):
        recogniser.load_forest_voice()


def test_model_folders(tmp_path):
    with pytest.raises(InputError, match="holds no readable config.json"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="model 'wav2vec' is not known"):
        load_model("wav2vec")
    (tmp_path / "config.json").write_text('{"type": "a neighbour"}', encoding="utf-8")
    with pytest.raises(MtepError):
        load_model(tmp_path)


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    "A forest for two emotions, in a folder, from tones."
    from mtep.features import extract

    folder = tmp_path_factory.mktemp("forest")
    pitches = [110, 120, 130, 300, 320, 340]
    paths = [write_sound(folder / f"{p}.wav", tone(1, 0.3, pitch=p), RATE) for p in pitches]
    model = Forest(trees=10).fit(extract(paths, jobs=1), ["sad"] * 3 + ["happy"] * 3)
    return save_forest(model, folder / "model")


def test_forest_from_its_folder(forest, tmp_path):
    emotion = Emotion.load(forest)
    found = emotion.predict({"low": Sound(tone(1, pitch=115), RATE), "long": Sound(tone(13, pitch=330), RATE)})
    assert list(found.best) == ["sad", "happy"] and len(found.verdicts["long"].windows) > 3
    short = emotion.predict({"short": Sound(tone(0.25), RATE)}, on_error="skip")
    assert len(short) + len(short.failed) == 1
    own = emotion.enrol([Sound(tone(1), RATE)] * 6)
    assert own.vectors is None and "no use for it" in own.note
    with pytest.raises(InputError, match="needs neutral, angry, and the model knows happy, sad"):
        Emotion.load(forest, labels="four")


@pytest.fixture
def network(tmp_path):
    "A network on spectra that has learned nothing, kept as the package would ship it."
    from mtep.emotion.spectrogram import NETWORKS, SoundModel, save_sound_model

    untaught = SoundModel(NETWORKS["compact"](4), "compact", ["sad", "angry", "neutral", "happy"], card={"corpus": "made"})
    return save_sound_model(untaught, tmp_path / "assets" / "emotion-cnn")


def test_network_from_its_folder(network):
    emotion = Emotion.load(network, labels="four")
    sounds = {"short": Sound(tone(0.25), RATE), "long": Sound(tone(13, pitch=330), RATE), "off": Sound(tone(1, 0), RATE)}
    found = emotion.predict(sounds)
    assert not found.failed and found.best["off"] == "silence" and len(found.verdicts["long"].windows) > 3
    assert np.allclose(found.table.loc[["short", "long"]].sum(axis=1), 1, atol=1e-5)
    assert list(found.table.columns) == ["neutral", "happy", "sad", "angry"], "in the order of all tables"
    own = emotion.enrol([Sound(tone(1), RATE)] * 6)
    assert own.vectors is None and "no use for it" in own.note
    assert emotion.predict(sounds, enrol=own).table.equals(found.table)
    with pytest.raises(InputError, match="needs surprised, and the model knows"):
        Emotion.load(network, labels="five")


@pytest.mark.parametrize("name", ["config.json", "net.safetensors"])
def test_a_network_that_was_changed(network, name):
    (network / name).write_bytes((network / name).read_bytes() + b" ")
    with pytest.raises(MtepError, match=f"{name}: "):
        load_model(network)


def test_the_shipped_network(ravdess):
    if not (weights.assets_folder() / "emotion-cnn").is_dir():
        pytest.skip("mtep/assets/emotion-cnn is not part of this checkout")
    some = ravdess.subset(np.arange(0, 60, 6))
    found = Emotion.load("cnn").predict(some)
    assert len(found.labels) == 8 and np.allclose(found.table.sum(axis=1), 1)
    assert (found.best.to_numpy() == some.table["emotion"].to_numpy()).mean() > 0.5, "it has learned from these"


def test_the_shipped_voice_model(ravdess):
    try:
        emotion = Emotion.load("voice")
    except (OfflineError, PackageError) as error:
        pytest.skip(f"no voice model: {error}")
    some = ravdess.subset(np.arange(0, 60, 6))
    found = emotion.predict(some)
    assert len(found.labels) == 8 and np.allclose(found.table.sum(axis=1), 1)
    assert (found.best.to_numpy() == some.table["emotion"].to_numpy()).mean() > 0.5, "it has learned from these"


# ------------------------------------------------------------------------------------------------ labels


def test_reduced_labels_are_conditional_probabilities():
    labels, matrix = reduction(Loudness.labels, "four")
    assert labels == ("neutral", "happy", "sad", "angry")
    rows = np.random.default_rng(0).dirichlet(np.ones(8), 50)
    found, dropped = reduce_proba(rows, matrix)
    assert np.allclose(found.sum(axis=1), 1) and np.allclose(dropped, rows[:, [2, 3, 7]].sum(axis=1), atol=1e-6)
    assert np.allclose(found[:, 0] * (1 - dropped), rows[:, 1] + rows[:, 5], atol=1e-6), "calm counts as neutral"


def test_labels_left_alone_come_in_the_order_of_all_tables():
    labels, matrix = reduction(Loudness.labels)
    assert labels[:3] == ("neutral", "calm", "happy") and matrix.sum() == 8


def test_nothing_left_is_no_opinion():
    found, dropped = reduce_proba(np.eye(8)[[3]], reduction(Loudness.labels, "four")[1])
    assert np.allclose(found, 0.25) and dropped[0] == 1
    _, dropped = reduce_proba(np.eye(8, dtype=np.float32), reduction(Loudness.labels)[1])
    assert (dropped == 0).all()


def test_own_label_maps_and_unknown_ones():
    labels, _ = reduction(["angry", "bored", "sad"], {"angry": "loud", "bored": "dull", "sad": "dull"})
    assert labels == ("dull", "loud")
    for wanted, words in (("six", "is not known"), ({"glad": "happy"}, "needs happy"), ({}, "needs a label")):
        with pytest.raises(InputError, match=words):
            Emotion(Loudness(), wanted)


def test_a_large_dropped_share_is_remarked_on():
    class Fear(Loudness):
        def proba(self, vectors, own=None):
            return np.tile([0.1, 0.0, 0.0, 0.9, 0, 0, 0, 0], (len(vectors), 1))

    verdict = next(Emotion(Fear(), "four").predict_iter(Sound(tone(2), RATE)))
    assert verdict.emotion == "angry" and verdict.dropped == pytest.approx(0.9)
    assert "more than half of the probability lay on emotions outside" in verdict.notes[0]


# ------------------------------------------------------------------------------------------------ sound in blocks


@pytest.mark.parametrize("name, rate, channels", [
    ("a.wav", 16_000, 1), ("b.wav", 8_000, 1), ("c.flac", 44_100, 2), ("d.ogg", 22_050, 1), ("e.mp3", 48_000, 2),
])  # fmt: skip
@pytest.mark.parametrize("seconds", [0.7, 10.0])
def test_blocks_are_what_is_read_at_once(tmp_path, name, rate, channels, seconds):
    sound = np.stack([tone(3.21, 0.3, rate)] * channels, axis=1)
    write_sound(tmp_path / name, sound, rate)
    blocks = list(stream_sound(tmp_path / name, RATE, seconds))
    assert all(len(block.samples) == round(seconds * RATE) for block in blocks[:-1])
    joined, whole = np.concatenate([block.samples for block in blocks]), read_sound(tmp_path / name).samples
    assert len(joined) == len(whole) and np.abs(joined - whole).max() < 1e-6


def test_blocks_through_ffmpeg(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.m4a"), "w") as file:
        stream = file.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(tone(3, 0.3, 44_100)[None], format="fltp", layout="mono")
        frame.rate = 44_100
        for part in (frame, None):
            for packet in stream.encode(part):
                file.mux(packet)
    joined = np.concatenate([block.samples for block in stream_sound(tmp_path / "film.m4a", RATE, 0.5)])
    assert np.abs(joined - read_sound(tmp_path / "film.m4a").samples).max() < 1e-6


def test_blocks_refuse_what_whole_reading_refuses(clips, tmp_path):
    np.save(tmp_path / "numbers.wav", np.zeros(3))
    import soundfile

    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    write_sound(tmp_path / "head.wav", tone(1), RATE)
    paths = [clips / name for name in ("e_mute.mp4", "f_text.wav", "g_empty.wav", "h_cut.wav")]
    for path in [*paths, clips, clips / "nowhere.wav", tmp_path / "numbers.wav", tmp_path / "nan.wav"]:
        with pytest.raises(MediaError):
            read_sound(path)
        with pytest.raises(MediaError):
            list(stream_sound(path))


@pytest.mark.parametrize("seconds", [0.3, 4.0, 4.1, 5.9, 6.0, 11.0])
@pytest.mark.parametrize("block", [0.25, 1.0, 10.0])
def test_windows_cover_everything_once_cut(seconds, block):
    plan, sound = plan_windows(), np.arange(round(seconds * RATE), dtype=np.float32)
    pieces = list(cut(np.array_split(sound, max(1, int(seconds / block))), plan))
    covered = np.zeros(len(sound), bool)
    for start, samples in pieces:
        assert np.array_equal(samples, sound[start : start + len(samples)])
        assert len(samples) == min(plan.size, len(sound))
        covered[start : start + len(samples)] = True
    assert covered.all() and len({start for start, _ in pieces}) == len(pieces)
    edges = stretches([s / RATE for s, _ in pieces], [(s + len(x)) / RATE for s, x in pieces], seconds)
    assert edges[0] == 0 and edges[-1] == seconds and (np.diff(edges) > 0).all()


@pytest.mark.parametrize("wrong", [
    {"windows": 0}, {"windows": 31}, {"windows": "4"}, {"windows": True}, {"hop": 5}, {"hop": 0}, {"windows_over": 3},
    {"windows_over": 40}, {"windows": float("nan")}, {"batch": 0}, {"jobs": 0},
])  # fmt: skip
def test_impossible_windows_are_refused_before_anything_is_read(wrong):
    with pytest.raises(InputError):
        Emotion(Loudness()).predict_iter("nowhere.wav", **wrong)


# ------------------------------------------------------------------------------------------------ bad input


def test_one_bad_file_does_not_stop_the_rest(clips):
    found = Emotion(Loudness()).predict(clips, on_error="skip")
    best = {path.replace("\\", "/").split("/")[-1]: label for path, label in found.best.items()}
    assert best == {"a_loud.wav": "angry", "b_soft.wav": "neutral", "c_off.wav": "silence"}
    words = {path.replace("\\", "/").split("/")[-1]: str(error) for path, error in found.failed.items()}
    assert "is too short: 0.10 s of sound, and 0.2 s are needed" in words["d_blink.wav"]
    assert "is a video without a sound track" in words["e_mute.mp4"]
    assert "is not a sound or video file" in words["f_text.wav"]
    assert "is empty" in words["g_empty.wav"] and "is truncated" in words["h_cut.wav"]
    assert set(found.attrs["failed"]) == set(found.failed)
    with pytest.raises(MediaError, match="d_blink.wav is too short"):
        Emotion(Loudness()).predict(clips)


def test_silence_is_said_and_has_no_probabilities(clips):
    found = Emotion(Loudness()).predict([clips / "c_off.wav"])
    assert list(found.best) == ["silence"] and found.table.isna().all(axis=None) and found.confidence.isna().all()
    assert list(found.segments.emotion) == ["silence"] and not found.failed
    hiss = Sound(np.random.default_rng(0).normal(size=RATE).astype(np.float32) * 10 ** (-80 / 20), RATE)
    assert Emotion(Loudness()).predict(hiss).best.iloc[0] == "silence"
    long = Sound(np.zeros(30 * RATE, np.float32), RATE)
    assert list(Emotion(Loudness()).predict(long).segments.emotion) == ["silence"]


def test_a_fifth_of_a_second_is_judged_with_a_remark():
    verdict = next(Emotion(Loudness()).predict_iter(Sound(tone(0.2), RATE)))
    assert verdict.emotion and verdict.notes == ("shorter than 1 s: unreliable",)


def test_telephone_sound_is_judged_with_a_remark(tmp_path):
    write_sound(tmp_path / "call.wav", tone(2, 0.3, 8_000), 8_000)
    found = Emotion(Loudness()).predict(tmp_path / "call.wav")
    assert len(found) == 1 and "recorded at 8000 Hz: nothing above 4 kHz" in found.notes[-1]


def test_what_is_no_recording(tmp_path):
    emotion = Emotion(Loudness())
    for wrong, words in (
        ([], "an empty list"), ({}, "an empty list"), ([3], "item 1"), (tmp_path, "holds no audio and no video"),
        (["a.wav", "a.wav"], "listed more than once"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            emotion.predict(wrong)
    with pytest.raises(MediaError, match="does not exist"):
        emotion.predict("nowhere.wav")
    for samples in (np.zeros((5, 2)), np.zeros(0), np.full(RATE, np.nan)):
        with pytest.raises(MediaError):
            emotion.predict(Sound(samples, RATE))
    with pytest.raises(InputError, match="on_error 'ignore'"):
        emotion.predict("nowhere.wav", on_error="ignore")


def test_folders_are_searched_for_films_too(clips):
    (clips / ".hidden.wav").write_bytes(b"x")
    (clips / "notes.txt").write_text("x", encoding="utf-8")
    (clips / "inner").mkdir()
    (clips / "f_text.wav").rename(clips / "inner" / "film.MPG")
    names = [path.name for path in recordings_in(clips)]
    assert "film.MPG" in names and "notes.txt" not in names and ".hidden.wav" not in names


def test_a_clip_that_the_model_refuses_spoils_no_other():
    sounds = {f"clip {k}": Sound(tone(1 + k / 10), RATE) for k in range(6)}
    found = Emotion(Loudness(refuse=1.3)).predict(sounds, on_error="skip")
    assert set(found.failed) == {"clip 3"} and "is odd" in str(found.failed["clip 3"])
    found = Emotion(Loudness(nothing=1.3)).predict(sounds, on_error="skip")
    assert set(found.failed) == {"clip 3"} and "left the model without an answer" in str(found.failed["clip 3"])


def test_an_error_of_ours_is_not_hidden():
    class Broken(Loudness):
        def vectors(self, clips):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Emotion(Broken()).predict(Sound(tone(1), RATE), on_error="skip")


def test_a_file_that_breaks_off_half_way_is_a_failure_and_no_half_answer(tmp_path):
    write_sound(tmp_path / "talk.flac", np.random.default_rng(0).normal(size=40 * RATE).astype(np.float32) / 10, RATE)
    whole = (tmp_path / "talk.flac").read_bytes()
    (tmp_path / "talk.flac").write_bytes(whole[: len(whole) // 2])
    write_sound(tmp_path / "well.wav", tone(2), RATE)
    found = Emotion(Loudness()).predict(tmp_path, on_error="skip", batch=2)
    assert [path.endswith("talk.flac") for path in found.failed] == [True] and len(found) == 1


# ------------------------------------------------------------------------------------------------ order, memory


def test_order_and_answers_do_not_depend_on_batches_and_threads():
    heights = np.random.default_rng(0).uniform(0.01, 0.9, 12)
    sounds = {f"{k}": Sound(tone(25 if k % 5 == 2 else 1 + k / 7, h), RATE) for k, h in enumerate(heights)}
    first = Emotion(Loudness()).predict(sounds, batch=1, jobs=1)
    for how in ({"batch": 3}, {"batch": 100, "jobs": 4}):
        again = Emotion(Loudness()).predict(sounds, **how)
        assert list(again.table.index) == list(sounds) and np.allclose(again.table, first.table)
        assert again.timeline.equals(first.timeline)


def test_windows_go_to_the_model_together():
    model = Loudness()
    Emotion(model).predict([Sound(tone(1), RATE)] * 40, batch=16)
    assert model.sizes == [16, 16, 8]


def test_results_come_before_the_last_clip_is_read(monkeypatch):
    read, first_part, before = [], recogniser.first_part, threading.active_count()
    monkeypatch.setattr(recogniser, "first_part", lambda clip, limit: read.append(clip.name) or first_part(clip, limit))
    coming = Emotion(Loudness()).predict_iter([Sound(tone(0.5), RATE)] * 200, batch=4)
    next(coming)
    assert len(read) <= 4 + recogniser.AHEAD + 2
    coming.close()
    assert threading.active_count() <= before + recogniser.AHEAD


def peak_of(path):
    tracemalloc.start()
    verdict = next(Emotion(Loudness()).predict_iter(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return verdict, peak


def test_memory_does_not_grow_with_a_recording(tmp_path):
    import soundfile

    peaks = []
    for minutes in (1, 12):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(tone(60))
        verdict, peak = peak_of(tmp_path / f"{minutes}.wav")
        assert verdict.seconds == 60 * minutes and len(verdict.windows) == 30 * minutes - 1
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 3e6, "eleven minutes more of samples are 42 MB"


# ------------------------------------------------------------------------------------------------ long recordings


def talk():
    "Loud for 12 s, nothing for 5 s, soft for 12 s, with a hum below it all."
    parts = [tone(12, 0.9), np.zeros(5 * RATE, np.float32), tone(12, 0.03)]
    sound = np.concatenate(parts)
    return Sound(sound + 1e-4 * np.sin(np.arange(len(sound)) / 20).astype(np.float32), RATE)


def test_a_long_recording_has_a_timeline_and_pauses():
    found = Emotion(Loudness(), "four").predict({"talk": talk()})
    segments = found.segments
    assert list(segments.emotion) == ["angry", "silence", "neutral"]
    assert np.allclose(segments.start, [0, 12, 17], atol=0.06) and segments.end.iloc[-1] == pytest.approx(29)
    assert np.allclose(segments.start[1:], segments.end[:-1])
    spoken = found.timeline[found.timeline.emotion != "silence"]
    assert np.allclose(spoken[list(found.labels)].sum(axis=1), 1)
    assert found.table.loc["talk", "angry"] == pytest.approx(0.5, abs=0.12), "half of its speech is angry"


def test_windows_on_request_and_whole_clips_otherwise():
    emotion, six = Emotion(Loudness()), Sound(tone(6), RATE)
    assert len(emotion.predict(six).timeline) == 1
    assert len(emotion.predict(six, windows=2).timeline) == 5
    assert len(emotion.predict(six, windows=2, hop=0.5).timeline) == 9
    assert len(emotion.predict(six, windows=8).timeline) == 1
    assert len(emotion.predict(Sound(tone(12), RATE), windows_over=15.0).timeline) == 1


def test_breaths_are_no_pauses_and_clicks_end_none():
    levels = np.full(200, -20.0)
    levels[20:30] = -80  # half a second
    levels[100:150] = -80  # two and a half, with a click
    levels[120:122] = -20
    found = pauses(levels)
    assert not found[:100].any() and found[100:150].all() and not found[150:].any()
    assert pauses(np.full(40, -90.0)).all() and not pauses(np.full(40, -30.0)).any()


def test_overall_is_weighted_by_sound_and_not_by_time():
    heard = Hearing("x", samples=12 * RATE, spans=[(k * RATE, (k + 4) * RATE) for k in (0, 4, 8)])
    heard.levels = [np.repeat([-20.0, -80.0, -20.0], 80)]
    heard.levels[0][:70] = -80.0  # little is said at the beginning
    heard.found = {0: np.eye(2)[0], 1: np.array([0.5, 0.5]), 2: np.eye(2)[1]}
    verdict = conclude(heard, ("happy", "sad"), np.eye(2))
    assert list(verdict.windows.emotion) == ["happy", "silence", "sad"]
    assert verdict.proba[0] == pytest.approx(10 / 90)


# ------------------------------------------------------------------------------------------------ enrolment


def test_enrolment_uses_five_or_more_and_reports_what_it_cannot_read(tmp_path):
    folder = tmp_path / "own"
    for k in range(5):
        write_sound(folder / f"{k}.wav", tone(1, 0.02), RATE)
    write_sound(folder / "off.wav", np.zeros(RATE), RATE)
    (folder / "bad.wav").write_bytes(b"x")
    emotion, raised = Emotion(Loudness()), Sound(tone(2, 0.06), RATE)
    assert emotion.predict(raised).best.iloc[0] == "neutral"
    found = emotion.predict(raised, enrol=folder)
    assert found.best.iloc[0] == "angry" and found.own.count == 5
    assert any(note.startswith("Enrolled: 5 of") for note in found.notes)
    assert any(note.startswith("Could not be enrolled") and "bad.wav" in note for note in found.notes)
    (folder / "4.wav").unlink()
    few = emotion.predict(raised, enrol=folder)
    assert few.best.iloc[0] == "neutral" and any("4 usable clips, and 5 are needed" in note for note in few.notes)


def test_a_long_recording_of_the_speaker_counts_as_many_clips():
    own = Emotion(Loudness()).enrol(Sound(tone(60), RATE))
    assert own.count == 6 and own.vectors.shape == (6, 2)


def test_own_clips_are_read_once_for_several_predictions():
    model = Loudness()
    emotion = Emotion(model)
    own = emotion.enrol([Sound(tone(1, 0.02), RATE)] * 5)
    before = len(model.sizes)
    assert next(emotion.predict_iter(Sound(tone(1, 0.06), RATE), enrol=own)).emotion == "angry"
    assert len(model.sizes) == before + 1


# ------------------------------------------------------------------------------------------------ what is written


def test_a_corpus_keeps_its_names(tmp_path):
    class Corpus:
        table = pd.DataFrame({"file": ["Actor_01/a.wav"]})
        paths = [write_sound(tmp_path / "a.wav", tone(1), RATE)]

    found = Emotion(Loudness()).predict(Corpus())
    assert list(found.table.index) == ["Actor_01/a.wav"] and "| Actor_01/a.wav |" in found._repr_markdown_()


def test_ravdess_lines_are_those_of_the_forest(tmp_path):
    verdict = next(Emotion(Loudness()).predict_iter({"clip": Sound(tone(1, 0.1), RATE)}))
    table = pd.DataFrame([verdict.proba], columns=list(verdict.labels), index=["clip"])
    expected = write_output(table, tmp_path / "output.txt").read_text(encoding="utf-8")
    assert recogniser.RAVDESS_HEAD + ravdess_line("clip", verdict) == expected


def test_csv_survives_any_name():
    assert csv_line(['a "b", c', float("nan"), 0.5, "Қаз\nақ"]) == '"a ""b"", c",,0.5000,"Қаз\nақ"\n'


def grid_of(text):
    "Intervals of a TextGrid in long text format, read by a parser of a few lines."
    tiers = []
    for part in text.split('class = "IntervalTier"')[1:]:
        numbers = [line.split("=", 1)[1].strip() for line in part.splitlines() if "xmin" in line or "xmax" in line]
        texts = [line.split("=", 1)[1].strip() for line in part.splitlines() if line.strip().startswith("text =")]
        spans = list(zip(map(float, numbers[2::2]), map(float, numbers[3::2]), strict=True))
        tiers.append(list(zip(spans, texts, strict=True)))
    return tiers


def test_textgrid_intervals_follow_each_other():
    verdict = next(Emotion(Loudness()).predict_iter({"talk": talk()}))
    emotions, probabilities = grid_of(verdict_grid(verdict))
    assert [text for _, text in emotions] == ['"angry"', '"silence"', '"neutral"']
    assert probabilities[1][1] == '""'
    assert len({line.strip() for line in verdict_grid(verdict).splitlines() if "xmax = 29" in line}) == 1
    for (_, end), (start, _) in zip([span for span, _ in emotions], [span for span, _ in emotions][1:]):
        assert start == end


def test_praat_reads_the_textgrid(tmp_path):
    parselmouth = pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed")
    grid = text_grid({"сезім": [(0, 1.25, 'she said "қайғы"'), (1.25, 2, "")], "p": [(0, 2, "0.5")]})
    (tmp_path / "a.TextGrid").write_text(grid, encoding="utf-8")
    call, found = parselmouth.praat.call, parselmouth.read(str(tmp_path / "a.TextGrid"))
    assert call(found, "Get number of tiers") == 2 and call(found, "Get number of intervals", 1) == 2
    assert call(found, "Get label of interval", 1, 1) == 'she said "қайғы"'
    assert call(found, "Get end time of interval", 1, 1) == 1.25


def test_pictures_are_drawn_and_repeatable(tmp_path):
    verdicts = {"talk": talk(), "short": Sound(tone(1), RATE), "off": Sound(np.zeros(20 * RATE, np.float32), RATE)}
    for verdict in Emotion(Loudness(), {"angry": "loud", "neutral": "rest"}).predict_iter(verdicts):
        first = save_picture(plot_timeline(verdict), tmp_path / "a.svg").read_bytes()
        assert save_picture(plot_timeline(verdict), tmp_path / "b.svg").read_bytes() == first
        png = save_picture(plot_timeline(verdict), tmp_path / f"{verdict.clip}.png").read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) < 150_000


def test_recorder_names_files_and_keeps_ids_apart(tmp_path):
    emotion, names = Emotion(Loudness()), ["a/x.wav", "b/x.wav"]
    record = Recorder(emotion, names, "textgrid", tmp_path / "grids", [tmp_path / "t.png", tmp_path / "t.json"])
    for verdict in emotion.predict_iter({name: Sound(tone(1), RATE) for name in names}):
        record.add(verdict)
    record.close()
    assert [path.name for path in record.written] == ["a-x.TextGrid", "t-a-x.png", "b-x.TextGrid", "t-b-x.png"]
    about = record.about(seconds={"size": 4.0})
    assert [clip["clip"] for clip in about["clips"]] == names
    json.dumps(about, allow_nan=False)
    with pytest.raises(InputError, match="needs a file for each of 2 clips"):
        Recorder(emotion, names, "textgrid")


# ---------------------------------------------------------------------------------------------------- words beside sound


@pytest.mark.parametrize(("name", "content", "clips", "told"), [
    ("a.csv", "clip,text\na.wav,I am glad\nx/b.wav,No\n", ["x/a.wav", "x/b.wav"], {"x/a.wav": "I am glad", "x/b.wav": "No"}),
    ("a.tsv", "clip\ttext\na\tI am, well, glad\n", ["x/a.wav"], {"x/a.wav": "I am, well, glad"}),
    ("a.json", '{"a.wav": "Қайырлы таң"}', ["a.wav", "b.wav"], {"a.wav": "Қайырлы таң"}),
    ("a.txt", "\ufeffTwo\nlines\n", ["x/a.wav"], {"x/a.wav": "Two lines"}),
    ("a.srt", "1\n00:00:01,000 --> 00:00:02,500\n<i>I am</i>\nglad.\n\n2\n00:00:03,000 --> 00:00:04,000\nSo!\n", ["a"], {"a": "I am glad. So!"}),
    ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.500\nI am\n", ["a"], {"a": "I am"}),
    ("a.vtt", "WEBVTT\n\nNOTE nobody says this\n\n00:01.000 --> 00:02.500\n42\n", ["a"], {"a": "42"}),
    ("a.srt", "1\n00:00:03,000 --> 00:00:02,000\nSo!\n", ["a"], {"a": "So!"}),  # wrong times don't matter to the words
    ("a.json", '{"segments": [{"start": 0, "end": 1, "text": "I am glad."}]}', ["a"], {"a": "I am glad."}),
    ("a.TextGrid", text_grid({"said": [(0, 1, "I am"), (1, 2, ""), (2, 3, "glad.")]}), ["a"], {"a": "I am glad."}),
])  # fmt: skip
def test_transcripts_of_every_kind(tmp_path, name, content, clips, told):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert recogniser.read_transcripts(tmp_path / name, clips) == told


@pytest.mark.parametrize(("name", "content", "clips", "told"), [
    ("a.csv", "file,words\na,b\n", ["a"], "has no columns clip and text"), ("a.csv", "", ["a"], "has no columns"),
    ("a.csv", "clip,text\nc.wav,b\n", ["a.wav"], "'c.wav' names no recording here"),
    ("a.csv", "clip,text\na,b\n", ["x/a.wav", "y/a.wav"], "'a' names several recordings here"),
    ("a.json", "[1]", ["a"], "is no JSON of names and texts"), ("a.txt", "words", ["a", "b"], "words of one recording, and there are 2"),
    ("a.pdf", "words", ["a"], "kind of transcript"), ("gone.txt", None, ["a"], "gone.txt"), ("a.txt", b"\xff\xfeA\x00", ["a"], "not written in UTF-8"),
])  # fmt: skip
def test_transcripts_that_are_refused(tmp_path, name, content, clips, told):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(MtepError) as error:
        recogniser.read_transcripts(tmp_path / name, clips)
    assert told in str(error.value)


def test_labels_that_two_models_share():
    shared = recogniser.shared_labels(["neutral", "calm", "happy", "fearful"], ["neutral", "happy", "love"])
    assert shared == {"neutral": "neutral", "calm": "neutral", "happy": "happy", "fearful": None, "love": None}
    assert recogniser.shared_labels(["calm", "sad"], ["calm", "sad"])["calm"] == "calm"
