"""Quality: loudness by the book, faults that were put there are found, distances are nothing for the same."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

pytest.importorskip("pyworld", reason="the vocoder is in the extra speech")
pytest.importorskip("pyloudnorm", reason="loudness is in the extra speech")
from mtep.cli import app  # noqa: E402
from mtep.core import InputError, load_package  # noqa: E402
from mtep.media import Sound, write_sound  # noqa: E402
from mtep.speech.quality import (  # noqa: E402
    FOUR,
    Acquainted,
    agreed,
    agreement,
    aligned,
    click_places,
    clipped_share,
    compare,
    correlation,
    faults,
    loudness,
    to_loudness,
)
from mtep.speech.style import Change, carry  # noqa: E402
from mtep.speech.synthesis import Synthesiser  # noqa: E402

load_package("mtep.cli_language")
TEXT = "Балалар есіктің жанында сөйлесіп тұр."


@pytest.fixture(scope="module")
def plain():
    return Synthesiser.load().say(TEXT, "kk", "m3").sound


def tone(hertz=997.0, seconds=2.0, rate=48_000, size=1.0):
    return Sound((size * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32), rate)


def test_loudness_of_the_standards_own_tone():
    assert loudness(tone()) == pytest.approx(-3.01, abs=0.05)  # BS.1770: a sine of 997 Hz at full scale in one channel
    assert loudness(tone(size=0.1)) == pytest.approx(-23.01, abs=0.05)


@pytest.mark.parametrize("wanted", [-30.0, -23.0])
def test_made_as_loud_as_was_asked_for(plain, wanted):
    assert loudness(to_loudness(plain, wanted)) == pytest.approx(wanted, abs=0.05)
    loud = to_loudness(plain, 0.0, peak=-2.0)
    assert 20 * np.log10(np.abs(loud.samples).max()) == pytest.approx(-2.0, abs=0.01)


def test_what_has_no_loudness():
    with pytest.raises(InputError, match="from 0.4 s on"):
        loudness(tone(seconds=0.35))
    with pytest.raises(InputError, match="too quiet"):
        to_loudness(Sound(2e-4 * np.sign(tone(seconds=1.0, size=1.0).samples), 48_000))


def test_clipping_is_found_where_it_is():
    clean = tone(200.0, 1.0, 16_000, 0.9)
    assert clipped_share(clean.samples) == 0
    share = clipped_share(np.clip(2 * clean.samples, -1, 1))
    assert share == pytest.approx(np.mean(np.abs(2 * clean.samples) >= 1), abs=0.03)


@pytest.mark.parametrize("size", [0.3, 0.6])
def test_clicks_are_counted(plain, size):
    samples = plain.samples.copy()
    assert len(click_places(plain)) == 0
    places = [9_000, 20_000, 33_000]
    samples[places] += size
    found = click_places(Sound(samples, plain.rate))
    assert len(found) == 3 and np.abs(found - places).max() <= 3


def test_a_voice_is_no_row_of_clicks():
    pulses = np.zeros(16_000)
    pulses[::100] = 1.0
    voice = np.convolve(pulses, np.exp(-np.arange(60) / 12) * np.sin(np.arange(60) * 0.6))[:16_000]
    assert len(click_places(Sound(voice.astype(np.float32) * 0.4, 16_000))) == 0


def test_offset_and_peak():
    found = faults(Sound(tone(200.0, 1.0, 16_000, 0.5).samples + 0.1, 16_000))
    assert found.offset == pytest.approx(0.1, abs=1e-3) and found.peak == pytest.approx(20 * np.log10(0.6), abs=0.02)


def test_a_recording_is_no_distance_from_itself(plain):
    same = compare(plain, plain)
    assert same.mcd == 0 and same.f0_rmse == 0 and same.voicing == 0 and same.seconds == 1
    assert same.f0_correlation == pytest.approx(1) and same.energy == pytest.approx(1)
    louder = compare(plain, Sound(plain.samples * 0.3, plain.rate))
    assert louder.mcd < 0.6  # loudness is no distortion


def test_distances_say_what_was_done(plain):
    slower, lower = (compare(plain, carry(plain, change).sound) for change in (Change(pace=0.8), Change(f0=-3)))
    assert slower.seconds == pytest.approx(1.25, abs=0.06) and slower.f0_rmse < 1
    assert lower.f0_rmse == pytest.approx(3, abs=0.5) and lower.seconds == pytest.approx(1, abs=0.03)


def test_warping_begins_and_ends_together():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(20, 3))
    pairs = aligned(first, np.repeat(first, 2, axis=0))
    assert pairs[0].tolist() == [0, 0] and pairs[-1].tolist() == [19, 39] and (np.diff(pairs, axis=0) >= 0).all()
    assert np.isnan(correlation(np.ones(9), np.arange(9)))


def test_agreement_counts_emotions_alike():
    told = pd.DataFrame({"text": ["a"] * 5, "meant": ["sad", "sad", "sad", "angry", "happy"], "heard": ["sad", "sad", "sad", "sad", "sad"]})
    share, low, high = agreed(told)
    assert share == pytest.approx(1 / 3) and low <= share <= high
    grid = agreement(told)
    assert list(grid.columns) == list(FOUR) and grid.loc["angry", "sad"] == 1 and grid.loc["neutral"].sum() == 0


def test_command(tmp_path, plain):
    one = str(tmp_path / "a.wav")
    write_sound(one, plain)
    told = CliRunner().invoke(app, ["quality", one, "--against", one, "--json"])
    row = json.loads(told.stdout)["files"][0]
    assert told.exit_code == 0 and row["mcd"] == 0 and row["clicks"] == 0 and row["lufs"] < 0
    assert CliRunner().invoke(app, ["quality", str(tmp_path / "no.wav")]).exit_code == 2


# --- listeners who know the voice
@pytest.fixture(params=["forest", "voice"])
def friend(request, monkeypatch):
    monkeypatch.setattr(load_package("mtep.emotion.recogniser").Emotion, "load", lambda *_: SimpleNamespace(model=None))
    return Acquainted(request.param)


def clips_of_someone(offset, seed, still=False):
    "Vectors in which each emotion moves a number of its own; the fifth may be the same in all."
    rng, moods = np.random.default_rng(seed), [*FOUR] * 30
    noise = rng.normal(size=(120, 5)) * ([1, 1, 1, 1, 0] if still else 1)
    return np.stack([np.eye(5)[FOUR.index(mood)] * 3 for mood in moods]) + noise + offset, np.array(moods)


def test_a_voice_is_heard_against_its_usual(friend, monkeypatch):
    people = [clips_of_someone(offset, seed) for seed, offset in enumerate((0, 9, -9))]
    friend.learn(np.concatenate([vectors for vectors, _ in people]), np.repeat(["a", "b", "c"], 120), np.concatenate([moods for _, moods in people]))
    monkeypatch.setattr(Acquainted, "vectors", lambda self, sounds: np.stack(sounds))
    for still in (False, True):  # a machine may not move a number at all
        own, (new, moods) = clips_of_someone(5, 7, still)[0], clips_of_someone(5, 8)
        heard = np.array(friend.hear(list(new), list(own)))
        assert np.mean(heard == moods) > 0.75 and set(heard) <= set(FOUR)


def test_a_listener_has_learned_and_knows_the_voice(friend, monkeypatch):
    vectors, moods = clips_of_someone(0, 0)
    monkeypatch.setattr(Acquainted, "vectors", lambda self, sounds: np.stack(sounds))
    with pytest.raises(InputError, match="has learned nothing"):
        friend.hear(list(vectors), list(vectors))
    friend.learn(vectors, ["a"] * 120, moods)
    with pytest.raises(InputError, match="4 recordings of the voice"):
        friend.hear(list(vectors), list(vectors[:4]))
    with pytest.raises(InputError, match="are not the four"):
        friend.learn(vectors, ["a"] * 120, ["sad"] * 120)


def test_nothing_can_not_be_heard(friend):
    with pytest.raises(InputError, match="no recordings"):
        friend.vectors(iter([]))


def test_only_known_listeners_become_acquainted():
    with pytest.raises(InputError, match="'cnn'"):
        Acquainted("cnn")
