"""Style: what is measured is what was made, what is asked for comes out, and what can't be measured is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mtep.cli import app
from mtep.core import InputError, MtepError, load_package
from mtep.media import Sound, write_sound
from mtep.speech.style import (
    BOUNDS,
    FRAME,
    Change,
    Style,
    carry,
    carry_like,
    change_between,
    coloured,
    effects_of,
    melody_shape,
    moved_melody,
    of_strength,
    plot_effects,
    profile_of,
    put_together,
    read_effects,
    read_profile,
    semitones,
    stretched,
    style_of,
    style_table,
    take_apart,
    within_bounds,
)
from mtep.speech.synthesis import Synthesiser
from mtep.weights import assets_folder

load_package("mtep.cli_language")
TEXT = "Балалар есіктің жанында сөйлесіп тұр."


@pytest.fixture(scope="module")
def speaker():
    return Synthesiser.load()


@pytest.fixture(scope="module")
def plain(speaker):
    return speaker.say(TEXT, "kk").sound


@pytest.fixture(scope="module")
def own(plain):
    return style_of(plain)


def buzz(hertz, seconds=1.0, rate=16_000):
    "A voice-like tone: pulses at a frequency that may move; a whole number of samples apart, or a lower tone is heard in it."
    steps = np.cumsum(np.broadcast_to(hertz, int(seconds * rate)) / rate)
    pulses = np.zeros(len(steps))
    pulses[np.flatnonzero(np.diff(np.floor(steps)) > 0)] = 1
    return Sound(np.convolve(pulses, np.exp(-np.arange(80) / 12) * np.sin(np.arange(80) / 3), mode="same").astype(np.float32) * 0.3, rate)


# --- measuring
@pytest.mark.parametrize("hertz", [80, 160, 250, 400])
def test_the_mean_is_that_of_the_tone(hertz):
    found = style_of(buzz(hertz))
    assert found.f0 == pytest.approx(float(semitones(np.array(hertz))), abs=0.1) and found.range < 0.3 and abs(found.slope) < 1


def test_a_glide_has_its_range_and_slope():
    found = style_of(buzz(150 * 2 ** np.linspace(0, 0.5, 32_000), 2.0))  # six semitones in two seconds
    assert found.slope == pytest.approx(3, abs=0.3) and found.range == pytest.approx(0.8 * 6, abs=0.4)


def test_half_as_loud_is_six_decibels_less(plain, own):
    found = style_of(Sound(plain.samples * 0.5, plain.rate))
    assert found.level - own.level == pytest.approx(-6.02, abs=0.05) and found.f0 == pytest.approx(own.f0, abs=0.05)


def test_silence_around_changes_nothing_but_silence_inside_is_a_pause(plain, own):
    still = np.zeros(plain.rate // 2, np.float32)
    around = style_of(Sound(np.concatenate([still, plain.samples, still]), plain.rate))
    assert around.seconds == pytest.approx(own.seconds, abs=0.05) and around.pauses == pytest.approx(own.pauses, abs=0.03)
    inside = style_of(Sound(np.concatenate([plain.samples, still, plain.samples]), plain.rate))
    assert inside.pauses > own.pauses + 0.08 and inside.level == pytest.approx(own.level, abs=0.3)


@pytest.mark.parametrize(("sound", "words"), [
    (Sound(np.zeros(16_000, np.float32), 16_000), "is silent"), (Sound(np.full(16_000, np.nan, np.float32), 16_000), "no number"),
    (Sound(np.ones(100, np.float32), 16_000), "at least 0.3 s"), (Sound(np.zeros(0, np.float32), 16_000), "at least 0.3 s"),
])  # fmt: skip
def test_what_can_not_be_measured(sound, words):
    with pytest.raises(InputError, match=words):
        style_of(sound)


def test_noise_has_no_voice():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="of voice"):
        style_of(Sound((0.1 * rng.normal(size=24_000)).astype(np.float32), 16_000))


def test_a_missing_file(tmp_path):
    with pytest.raises(MtepError, match="nowhere"):
        style_of(tmp_path / "nowhere.wav")


# --- taking apart and putting together
def test_parts_make_the_sound_again(plain, own):
    again = style_of(put_together(take_apart(plain)))
    assert again.f0 == pytest.approx(own.f0, abs=0.3) and again.level == pytest.approx(own.level, abs=1.5) and again.seconds == pytest.approx(own.seconds, abs=0.05)


@pytest.mark.parametrize("pace", [0.7, 1.0, 1.5])
def test_time_is_stretched_as_told(plain, pace):
    parts = take_apart(plain)
    found = stretched(parts, pace, 1 / pace)
    assert len(found.f0) == pytest.approx(len(parts.f0) / pace, abs=2) and found.length == round(len(found.f0) * FRAME * parts.rate)
    assert (found.noise >= 0).all() and (found.noise <= 1).all() and (found.spectrum > 0).all()


def test_a_melody_moves_and_widens_and_what_is_not_voiced_stays():
    f0 = np.array([0, 100, 200, 0, 100.0])
    found = moved_melody(f0, 12, 0.5)
    assert (found == 0).tolist() == [True, False, False, True, False]
    assert semitones(found[found > 0]).mean() == pytest.approx(12 + 4, abs=1e-6) and np.ptp(semitones(found[found > 0])) == pytest.approx(6)


def test_peaks_move_without_the_melody(plain, own):
    parts = take_apart(plain)
    hertz = np.linspace(0, plain.rate / 2, parts.spectrum.shape[1])
    centre = lambda rows: float((rows.mean(0) * hertz).sum() / rows.mean(0).sum())
    moved = coloured(parts, 0.0, 1.2)
    assert centre(moved.spectrum) > 1.1 * centre(parts.spectrum) and np.array_equal(moved.f0, parts.f0)
    assert centre(coloured(parts, 3.0, 1.0).spectrum) > centre(parts.spectrum)


# --- changes
def test_a_change_there_and_back(own):
    other = own._replace(f0=own.f0 + 3, range=own.range * 2, level=own.level - 4, pace=own.pace * 1.2)
    there, back = change_between(own, other), change_between(other, own)
    assert there.f0 == -back.f0 and there.range * back.range == pytest.approx(1) and there.pace * back.pace == pytest.approx(1)
    assert of_strength(there, 1) == pytest.approx(there) and of_strength(there, 0) == Change()


@pytest.mark.parametrize("name", list(BOUNDS))
def test_bounds_are_told(name):
    low, high = BOUNDS[name]
    for value, edge in ((low - 1, low), (high + 1, high)):
        kept, notes = within_bounds(Change()._replace(**{name: value}))
        assert getattr(kept, name) == edge and name in notes[0]
    assert within_bounds(Change()._replace(**{name: high})) == (Change()._replace(**{name: high}), [])


@pytest.mark.parametrize("strength", [-0.1, 1.1, True])
def test_strength_is_a_share(strength):
    with pytest.raises(InputError, match="strength"):
        of_strength(Change(), strength)


# --- carrying
@pytest.mark.parametrize(("voice", "change"), [
    ("", Change(f0=3, range=1.5, level=3, pace=1.15, alpha=3)), ("f2", Change(f0=-3, range=0.6, level=-6, pace=0.8, pauses=1.3, alpha=-4)),
    ("m3", Change(f0=4, range=0.7, level=0, pace=1.25)), ("f4", Change()),
])  # fmt: skip
def test_what_is_asked_for_comes_out(speaker, voice, change):
    done = carry(speaker.say(TEXT, "kk", voice).sound, change)
    got, wanted = done.got, done.wanted
    assert abs(2 ** ((got.f0 - wanted.f0) / 12) - 1) < 0.03 and abs(got.range / wanted.range - 1) < 0.15
    assert abs(got.level - wanted.level) < 1 and abs(got.seconds / wanted.seconds - 1) < 0.03
    assert np.abs(done.sound.samples).max() <= 1 and abs(float(done.sound.samples.mean())) < 0.01


def test_the_same_call_gives_the_same_samples(plain):
    one, two = carry(plain, Change(f0=2, pace=1.1)), carry(plain, Change(f0=2, pace=1.1))
    assert np.array_equal(one.sound.samples, two.sound.samples) and one.got == two.got


def test_extremes_are_cut_and_told(plain):
    done = carry(plain, Change(f0=40, pace=9))
    assert len(done.notes) == 2 and done.wanted.pace == pytest.approx(style_of(plain).pace * BOUNDS["pace"][1])


def test_like_another_voice_keeps_ones_own_height(speaker, plain, own):
    model, usual = (speaker.say("Неге келмедің?", "kk", "f2", emotion=emotion).sound for emotion in ("sad", "neutral"))
    alone, relative = carry_like(plain, model), carry_like(plain, model, usual)
    assert alone.wanted.f0 == own.f0 and relative.wanted.f0 == pytest.approx(own.f0 + style_of(model).f0 - style_of(usual).f0)
    with pytest.raises(InputError, match="melody"):
        carry_like(plain, model, melody=2)
    shape = melody_shape(model)
    assert len(shape) == 100 and abs(shape.mean()) < 1e-6 and shape.std() == pytest.approx(1, abs=1e-3)


# --- profiles
def test_a_profile_is_relative_and_counts_speakers_once():
    rows = []
    for speaker, base, count in (("a", 0.0, 1), ("b", 12.0, 9), ("c", 5.0, 1)):
        style = dict(zip(Style._fields, (base, 4.0, 0.0, -20.0, 4.0, 0.1, -5.0, 0.5, 2.0)))
        rows.append({"speaker": speaker, "text": "x", "emotion": "neutral", **style})
        up = {"a": 2.0, "b": 6.0, "c": 3.0}[speaker]
        rows += [{"speaker": speaker, "text": "x", "emotion": "angry", **style, "f0": base + up, "level": -15.0}] * count
    rows.append({**rows[0], "speaker": "d", "emotion": "angry"})  # nobody knows this one's neutral
    found = profile_of(pd.DataFrame(rows))
    assert found.loc["angry", "f0"] == 3 and found.loc["angry", "level"] == 5 and found.loc["angry", "speakers"] == 3
    assert found.loc["neutral", ["f0", "level", "alpha"]].tolist() == [0, 0, 0]


def test_profiles_from_files(tmp_path):
    (tmp_path / "p.tsv").write_text("# somebody\nemotion\tf0\trange\tlevel\tpace\tpauses\talpha\nsad\t-1\t0.8\t-3\t0.9\t1.2\t-2\n", encoding="utf-8")
    assert read_profile(tmp_path / "p.tsv")["sad"] == Change(-1, 0.8, -3, 0.9, 1.2, -2)
    (tmp_path / "q.tsv").write_text("emotion\tf0\nsad\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column range"):
        read_profile(tmp_path / "q.tsv")
    with pytest.raises(MtepError, match="nowhere.tsv"):
        read_profile(tmp_path / "nowhere.tsv")


def test_the_profile_that_ships():
    known = read_profile()
    assert known["neutral"] == pytest.approx(Change()) and known["angry"].f0 > 2 and known["angry"].level > 5
    assert known["sad"].level < known["happy"].level and known["fearful"].f0 > known["calm"].f0
    assert {"calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"} <= {*known}


def test_recordings_without_voice_are_empty_rows(tmp_path, plain):
    write_sound(tmp_path / "a.wav", plain)
    write_sound(tmp_path / "b.wav", Sound(np.zeros(16_000, np.float32), 16_000))
    table = style_table([tmp_path / "a.wav", tmp_path / "b.wav"])
    assert table.notna().all(axis=1).tolist() == [True, False]


# --- the command
def run(*words):
    return CliRunner().invoke(app, ["style", *map(str, words)])


def test_the_command(tmp_path, speaker, plain):
    write_sound(tmp_path / "a.wav", plain)
    write_sound(tmp_path / "b.wav", speaker.say("Неге келмедің?", "kk", "f2", emotion="sad").sound)
    write_sound(tmp_path / "n.wav", speaker.say("Неге келмедің?", "kk", "f2").sound)
    out = tmp_path / "c.wav"
    ended = run(tmp_path / "a.wav", "--like", tmp_path / "b.wav", "--neutral", tmp_path / "n.wav", "--melody", 0.5, "-o", out, "--json")
    assert ended.exit_code == 0 and out.is_file()
    rows = {row["number"]: row for row in json.loads(ended.stdout)["style"]}
    assert rows["seconds"]["measured"] == pytest.approx(rows["seconds"]["asked"], rel=0.05)
    assert run(tmp_path / "a.wav", "--emotion", "sad", "--strength", 0.5, "-o", out).exit_code == 0
    assert run(tmp_path / "a.wav", "--pitch", 4, "--formants", 1.1, "-o", out).exit_code == 0
    for words in (("--like", tmp_path / "b.wav", "-e", "sad"), ("--neutral", tmp_path / "n.wav"), ("-e", "bored"), ("--melody", 0.5), ("-e", "sad", "--strength", 3)):
        assert run(tmp_path / "a.wav", *words, "-o", tmp_path / "no.wav").exit_code == 2
    assert run(tmp_path / "nowhere.wav", "-e", "sad").exit_code == 2 and not (tmp_path / "no.wav").exists()


def test_the_profile_is_that_of_its_run(root):
    kept = list(root.glob("reports/style/*/profile.tsv"))
    if not kept:
        pytest.skip("no run of style is here")
    assert any(path.read_bytes() == (assets_folder() / "prosody" / "profile.tsv").read_bytes() for path in kept)


# --- the features behind the profile
def table_of(rows):
    return pd.DataFrame(rows, columns=["speaker", "text", "emotion"])


def test_effects_are_relative_to_the_same_words():
    clips = table_of([("x", "a", "neutral"), ("x", "a", "sad"), ("x", "b", "neutral"), ("x", "b", "sad"), ("y", "a", "neutral"), ("y", "a", "sad"), ("y", "b", "sad")])
    pitch = pd.DataFrame({"F0semitoneFrom27.5Hz_sma3nz_amean": [10.0, 9.0, 20.0, 17.0, 30.0, 26.0, 99.0]})
    found = effects_of(pitch, clips).loc["sad"].iloc[0]
    assert (found.family, found.change, found.agreeing, found.speakers) == ("frequency", -3.0, 1.0, 2)  # x: -1 and -3, so -2; y: -4, b was never said neutral
    assert found.effect == pytest.approx(-3 / np.sqrt(2))


def test_a_feature_that_nobody_moves_has_no_effect():
    clips = table_of([(who, "a", mood) for who in "xy" for mood in ("neutral", "angry", "sad")])
    found = effects_of(pd.DataFrame({"jitterLocal_sma3nz_amean": [1.0] * 6}), clips)
    alike = effects_of(pd.DataFrame({"jitterLocal_sma3nz_amean": [1.0, 2.0, 2.0] * 2}), clips)
    assert alike.change.tolist() == [1.0, 1.0] and alike.effect.isna().all()  # all move by as much: there is no spread to compare with
    assert found.effect.tolist() == [0.0, 0.0] and list(found.index.get_level_values("emotion")) == ["angry", "sad"]


def test_effects_need_somebody_neutral():
    one = pd.DataFrame({"jitterLocal_sma3nz_amean": [1.0]})
    for rows in ([("x", "a", "sad")], [("x", "a", "neutral")]):
        with pytest.raises(InputError, match="nobody who said the same words 'neutral'"):
            effects_of(one, table_of(rows))
    with pytest.raises(InputError, match="1 rows of features are not of 2 clips"):
        effects_of(one, table_of([("x", "a", "sad")] * 2))


def test_effects_are_drawn():
    plt = load_package("matplotlib.pyplot")
    figure, ax = plt.subplots()
    plot_effects(ax, read_effects(), most=5)
    assert len(ax.get_yticklabels()) == 5 and [label.get_text() for label in ax.get_xticklabels()][0] == "angry"
    assert len(set(label.get_text() for label in ax.get_yticklabels())) == 5
    plt.close(figure)


def test_the_table_that_ships_has_all_features_and_emotions(tmp_path):
    table = read_effects()
    assert table.groupby(level="emotion").size().tolist() == [88] * 7 and (table.speakers == 24).all()
    assert table.agreeing.between(0, 1).all() and table.notna().all(axis=None)
    loudness = table.xs("loudness_sma3_amean", level="feature").effect
    assert loudness["angry"] > loudness["happy"] > loudness["sad"] > loudness["calm"]
    (tmp_path / "other.tsv").write_text("emotion\tfeature\nsad\tx\n")
    with pytest.raises(InputError, match="has no column family"):
        read_effects(tmp_path / "other.tsv")


def test_the_features_behind_are_those_of_a_run(root):
    kept = list(root.glob("reports/style/*/egemaps.tsv"))
    if not kept:
        pytest.skip("no run of style has them yet")
    assert any(path.read_bytes() == (assets_folder() / "prosody" / "egemaps.tsv").read_bytes() for path in kept)
