"""Voices: colour, acting, conversion, overlap-add, prints; and what cannot be measured is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

pytest.importorskip("pyworld", reason="the vocoder is in the extra speech")
torch = pytest.importorskip("torch", reason="networks need torch")
from mtep.cli import app  # noqa: E402
from mtep.core import InputError, MtepError, PackageError, load_package  # noqa: E402
from mtep.media import Sound, resample, write_sound  # noqa: E402
from mtep.speech.style import Change, coloured, read_profile, spoken_frames, style_of, take_apart  # noqa: E402
from mtep.speech.synthesis import Synthesiser, speak_transcript  # noqa: E402
from mtep.speech.transcripts import Segment, Transcript  # noqa: E402
from mtep.speech.voice import (  # noqa: E402
    ACTED,
    BANDS,
    ROUTES,
    Acting,
    Actor,
    Colour,
    Prints,
    act,
    acting_table,
    apart_in_colour,
    band_levels,
    carry_quick,
    change_of,
    colour_of,
    convert,
    convert_by_neighbours,
    enlivened,
    equal_error_rate,
    farther,
    frame_powers,
    liveliness,
    read_acting,
    recoloured,
    register_of,
    roomy,
    tiny_prints,
    voice_of,
    warp_of,
)

load_package("mtep.cli_language")
TEXT = "Балалар есіктің жанында сөйлесіп тұр."
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


@pytest.fixture(scope="module")
def speaker():
    return Synthesiser.load()


@pytest.fixture(scope="module")
def plain(speaker):
    return speaker.say(TEXT, "kk", "m3").sound


@pytest.fixture(scope="module")
def hers(speaker):
    return speaker.say("Неге келмедің? Мен сені көп күттім.", "kk", "f2").sound


def noise(seconds=1.0, rate=16_000):
    return Sound((0.1 * np.random.default_rng(0).normal(size=int(seconds * rate))).astype(np.float32), rate)


NO_VOICE = {
    "silent": (Sound(np.zeros(16_000, np.float32), 16_000), "is silent"),
    "short": (Sound(np.ones(3_000, np.float32), 16_000), "at least 0.3 s"),
    "breath": (noise(), "of voice"),
    "broken": (Sound(np.full(16_000, np.nan, np.float32), 16_000), "is no number"),
}


def test_colour_does_not_depend_on_loudness_or_rate(plain):
    louder, slower = Sound(plain.samples * 0.1, plain.rate), Sound(resample(plain.samples, plain.rate, 16_000), 16_000)
    assert np.abs(colour_of(louder).mean - colour_of(plain).mean).mean() < 0.5
    assert np.abs(colour_of(slower).mean - colour_of(plain).mean)[:35].mean() < 2.5
    assert band_levels(take_apart(plain)).shape[1] == BANDS


def test_recolouring_by_nothing_changes_nothing(plain, hers):
    parts = take_apart(plain)
    assert np.allclose(recoloured(parts, colour_of(hers), share=0).spectrum, parts.spectrum)
    once, twice = (apart_in_colour(colour_of(recoloured(parts, colour_of(hers), rounds=rounds)), colour_of(hers)) for rounds in (1, 2))
    assert twice < once < apart_in_colour(colour_of(parts), colour_of(hers)) / 3


@pytest.mark.parametrize("directed", [False, True])
def test_the_table_of_acting_is_whole(directed):
    acting = read_acting(directed=directed)
    assert set(acting) == {(register, emotion) for register in ("high", "low") for emotion in EMOTIONS}
    for register in ("high", "low"):
        quiet, loud = acting[register, "sad"], acting[register, "angry"]
        assert loud.style["level"] > quiet.style["level"] + 5 and loud.style["f0"] > acting[register, "neutral"].style["f0"]
        assert directed or loud.style["f0"] > quiet.style["f0"]  # one speaker's sadness may be higher than another's anger
        assert loud.colour.mean[20:30].mean() > quiet.colour.mean[20:30].mean()  # overtones


def test_medians_are_of_speakers_and_not_of_clips():
    flat = {"mean": np.zeros(BANDS), "spread": np.ones(BANDS), "register": "low", "emotion": "sad"}
    clips = [flat | {"speaker": "a"} | dict.fromkeys(ACTED, 1.0)] * 9 + [flat | {"speaker": name} | dict.fromkeys(ACTED, 5.0) for name in "bc"]
    table = acting_table(pd.DataFrame(clips))
    assert table.loc[("low", "sad"), "f0"] == 5.0 and table.loc[("low", "sad"), "speakers"] == 3


def test_an_acting_table_without_a_column_is_refused(tmp_path):
    (tmp_path / "acting.tsv").write_text("register\temotion\tf0\nlow\tsad\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column range"):
        read_acting(tmp_path / "acting.tsv")
    with pytest.raises(MtepError):
        read_acting(tmp_path / "nothing.tsv")


def test_going_farther_by_nothing_stays():
    begin = Acting(dict(f0=1.0, range=5.0, level=-40.0, pace=4.0), Colour(np.zeros(BANDS), np.ones(BANDS)))
    end = Acting(dict(f0=6.0, range=10.0, level=-30.0, pace=5.0), Colour(np.ones(BANDS), 2 * np.ones(BANDS)))
    nothing = farther(begin, end, {"numbers": 0.0, "colour": 0.0})
    still = change_of(begin, nothing)
    assert still.f0 == 0 and still.range == still.pace == 1 and np.allclose(nothing.colour.spread, 1)
    there = farther(begin, end, {"numbers": 1.0, "colour": 2.0})
    whole, colour = change_of(begin, there), there.colour
    assert (whole.f0, whole.range, whole.level) == (5.0, 2.0, 10.0) and np.allclose(colour.spread, 4) and np.allclose(colour.mean, 2)
    lively = farther(replace(begin, liveliness=6.0), replace(end, liveliness=8.0), {"numbers": 1.0, "colour": 1.0})
    assert lively.liveliness == pytest.approx(8.0) and there.liveliness is None


def test_levels_move_as_much_as_is_wanted(plain):
    parts = take_apart(plain)
    frames = spoken_frames(parts)  # what becomes too soft to count afterwards counts here
    for times in (0.8, 1.3):
        moved = frame_powers(enlivened(parts, liveliness(parts) * times))[frames]
        assert moved.std() == pytest.approx(liveliness(parts) * times, rel=0.12)
    assert np.allclose(enlivened(parts, liveliness(parts)).spectrum, parts.spectrum)


def test_chosen_rows_stand_in_for_medians():
    medians, chosen = read_acting(directed=False), read_acting()
    assert set(medians) == set(chosen) and all(one.liveliness is None for one in medians.values())
    assert chosen["low", "fearful"].style == medians["low", "fearful"].style
    directed = {key for key, one in chosen.items() if one.liveliness is not None}
    assert directed == {(register, emotion) for register in ("high", "low") for emotion in ("neutral", "happy", "sad", "angry")}


@pytest.mark.parametrize("voice", ["m1", "f2"])
def test_acted_emotions_are_in_the_order_of_actors(speaker, voice):
    plain = speaker.say(TEXT, "kk", voice).sound
    assert register_of(style_of(plain), read_acting()) == ("low" if voice == "m1" else "high")
    done = {emotion: act(plain, emotion, acting=read_acting(directed=False)).got for emotion in ("neutral", "sad", "angry")}
    assert done["angry"].f0 > done["sad"].f0 > done["neutral"].f0
    assert done["angry"].level > done["sad"].level + 3 and done["angry"].alpha > done["neutral"].alpha
    assert done["sad"].seconds > done["neutral"].seconds


@pytest.mark.parametrize("name", NO_VOICE)
@pytest.mark.parametrize("do", [lambda sound: act(sound, "sad"), voice_of, lambda sound: carry_quick(sound, Change(f0=1))], ids=["act", "voice_of", "carry_quick"])
def test_what_holds_no_voice_is_refused(name, do):
    sound, why = NO_VOICE[name]
    with pytest.raises(InputError, match=why):
        do(sound)


@pytest.mark.parametrize("strength", [-0.1, 1.5, True])
def test_strength_is_a_share(plain, hers, strength):
    for do in (lambda: act(plain, "sad", strength), lambda: convert(plain, hers, strength), lambda: carry_quick(plain, Change(f0=2), strength)):
        with pytest.raises(InputError, match="strength"):
            do()


def test_conversion_takes_height_range_and_colour(plain, hers):
    voice = voice_of([hers, hers])
    done = convert(plain, voice)
    assert abs(done.got.f0 - voice.f0) < 0.6 and abs(done.got.range / voice.range - 1) < 0.2
    half = convert(plain, voice, 0.5)
    assert style_of(plain).f0 < half.got.f0 < done.got.f0
    assert len(done.sound.samples) == pytest.approx(len(plain.samples), rel=0.01) and done.sound.rate == plain.rate


def test_the_reference_may_have_another_rate(plain, hers):
    other = Sound(resample(hers.samples, hers.rate, 44_100), 44_100)
    assert abs(convert(plain, other).got.f0 - convert(plain, hers).got.f0) < 0.5


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_throats_are_told_apart(hers, factor):
    parts = take_apart(hers)
    assert warp_of(parts, colour_of(coloured(parts, 0.0, factor))) == pytest.approx(factor, abs=0.051)


def test_one_is_ones_own_neighbour(plain, tmp_path):
    encoders = load_package("mtep.encoders")
    encoder = encoders.load_encoder(encoders.tiny_checkpoint("whisper", tmp_path, layers=4))
    done = convert_by_neighbours(plain, plain, encoder)
    assert abs(done.got.f0 - style_of(plain).f0) < 0.6
    assert np.abs(colour_of(done.sound).mean - colour_of(plain).mean).mean() < 2.5


def test_the_quick_way_needs_its_package(plain, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "parselmouth", None)
    with pytest.raises(PackageError, match="parselmouth"):
        carry_quick(plain, Change(f0=1))


def test_the_quick_way_arrives(plain):
    pytest.importorskip("parselmouth", reason="overlap-add is in the extra praat")
    own, got = style_of(plain), style_of(carry_quick(plain, Change(f0=-2, range=0.7, pace=0.85, level=-4)))
    assert abs(got.f0 - own.f0 + 2) < 0.6 and 0.55 < got.range / own.range < 0.85
    assert abs(got.seconds / own.seconds * 0.85 - 1) < 0.05 and abs(got.level - own.level + 4) < 0.7


def test_a_profile_with_room_only_becomes_softer():
    profile = roomy(read_profile())
    assert max(change.level for change in profile.values()) == 0
    assert profile["angry"].level > profile["neutral"].level and profile["angry"].f0 == read_profile()["angry"].f0


@pytest.mark.parametrize("route", ROUTES)
def test_an_actor_keeps_words_in_their_places(speaker, route):
    if route == "quick":
        pytest.importorskip("parselmouth", reason="overlap-add is in the extra praat")
    said = Synthesiser(Actor("sad", route=route)).say(TEXT, "kk", "m3")
    plain = speaker.say(TEXT, "kk", "m3")
    assert [word.text for word in said.words] == [word.text for word in plain.words]
    assert said.seconds > plain.seconds and said.words[-1].end <= said.seconds + 0.05
    assert all(a.end <= b.start + 1e-6 for a, b in zip(said.words, said.words[1:]))


def test_an_actor_leaves_what_is_too_short(speaker):
    said = Actor("angry").say("А", "kk", "m3")
    assert said.seconds > 0 and (not said.notes or "left as it was said" in said.notes[-1])
    with pytest.raises(InputError, match="'bored'"):
        Actor("bored")


def test_an_actor_speaks_subtitles_at_their_times():
    lines = (Segment(0.0, 2.5, "Неге келмедің?"), Segment(3.0, 6.0, "Мен сені көп күттім."))
    said = speak_transcript(Synthesiser(Actor("sad", route="profile")), Transcript(lines, language="kk"), voice="m3")
    assert said.words[0].start < 0.5 and any(abs(word.start - 3.0) < 0.6 for word in said.words)


def test_prints_are_directions_and_the_same_for_the_same(tmp_path, plain, hers):
    network = Prints(tiny_prints(tmp_path / "tiny.pt"))
    prints = network.of([plain, plain, hers])
    assert prints.shape == (3, 256) and np.allclose(np.linalg.norm(prints, axis=1), 1, atol=1e-5)
    assert np.allclose(prints[0], prints[1]) and not np.allclose(prints[0], prints[2])
    short = network.of([Sound(plain.samples[: plain.rate // 2], plain.rate)])
    assert np.isfinite(short).all()


def test_the_network_of_prints_is_checked_before_it_is_read(tmp_path, monkeypatch):
    chapter = load_package("mtep.speech.voice")
    monkeypatch.setattr(chapter, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match="not installed"):
        Prints()
    (tmp_path / "pretrained.pt").write_bytes(b"other weights")
    monkeypatch.setattr(chapter, "find_spec", lambda name: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}))
    with pytest.raises(PackageError, match="is not the file"):
        Prints()
    with pytest.raises(InputError, match="no network of voices"):
        Prints(tmp_path / "pretrained.pt")


def test_error_rates_of_perfect_and_of_useless_prints():
    who = np.repeat(["a", "b", "c"], 4)
    perfect = np.eye(3)[np.repeat([0, 1, 2], 4)]
    assert equal_error_rate(perfect, who) == 0
    with pytest.raises(InputError, match="one speaker"):
        equal_error_rate(perfect, ["a"] * 12)


def test_commands(tmp_path, plain, hers):
    one, two, out = (str(tmp_path / name) for name in ("a.wav", "b.wav", "c.wav"))
    write_sound(one, plain), write_sound(two, hers)
    run = lambda *words: CliRunner().invoke(app, [*words])
    done = run("style", one, "--voice", two, "-o", out, "--json")
    assert done.exit_code == 0 and {row["number"] for row in json.loads(done.stdout)["style"]} >= {"f0", "range"}
    assert run("style", one, "--voice", two, "--emotion", "sad", "-o", out).exit_code == 2
    done = run("speak", TEXT, "--lang", "kk", "--emotion", "sad", "--way", "profile", "-o", out)
    assert done.exit_code == 0
    assert run("speak", TEXT, "--lang", "kk", "--emotion", "sad", "--way", "sung", "-o", out).exit_code == 2


def test_a_sound_with_two_channels_is_read_as_one(plain):
    both = Sound(np.stack([plain.samples, plain.samples], axis=1), plain.rate)
    assert np.allclose(colour_of(both).mean, colour_of(plain).mean, atol=0.1)


def test_parts_of_one_utterance_stay_of_one_length(plain):
    parts = take_apart(plain)
    assert replace(parts, spectrum=recoloured(parts, colour_of(parts)).spectrum).spectrum.shape == parts.spectrum.shape
