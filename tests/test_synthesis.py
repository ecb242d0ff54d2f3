"""Synthesis: what is said, by whom, at which time, and what nobody can say."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mtep.cli import app
from mtep.core import InputError, MtepError, load_package
from mtep.media import Word
from mtep.speech.synthesis import (
    LONGEST,
    MANNERS,
    Espeak,
    Manner,
    Spoken,
    Synthesiser,
    Vits,
    clearly,
    fitted,
    joined,
    louder,
    manner_of,
    on_timeline,
    parts_of,
    ready,
    speak_file,
    speak_transcript,
    tiny_vits,
    told_speech_language,
    voices,
    write_spoken,
)
from mtep.speech.transcripts import Segment, Transcript
from mtep.translation import tiny_translation_checkpoint

load_package("mtep.cli_language")


@pytest.fixture(scope="module")
def synthesiser():
    return Synthesiser.load()


# --- what is said
@pytest.mark.parametrize(("text", "language", "said"), [
    ("Сағат 7-де кел.", "kk", "Сағат жетіде кел."),
    ("<i>Сәлем</i> &amp; қош!", "kk", "Сәлем & қош!"),
    ("Sälem, bala!", "kk", "Сәлем, бала!"),
    ("I have 2 dogs.", "en", "I have 2 dogs."),
    ("25", "kk", "жиырма бес"),
])  # fmt: skip
def test_texts_are_made_ready(text, language, said):
    assert ready(text, language)[0] == said


@pytest.mark.parametrize(("text", "language", "words"), [
    ("", "kk", "holds nothing to say"), ("  \n", "kk", "holds nothing to say"), ("😀 — …", "en", "holds nothing to say"),
    ("你好", "kk", "has no letters of the language 'kk'"), ("Привет", "en", "has no letters of the language 'en'"),
    ("hello", "ru", "has no letters of the language 'ru'"),
])  # fmt: skip
def test_what_can_not_be_said(text, language, words):
    with pytest.raises(InputError, match=words):
        ready(text, language)


@pytest.mark.parametrize(("text", "words"), [("", "holds nothing to say"), ("?!", "holds nothing to say"), ("12", "name it with language")])
def test_a_language_is_asked_for_only_where_there_is_something_to_say(synthesiser, text, words):
    with pytest.raises(InputError, match=words):
        synthesiser.stream(text)


@pytest.mark.parametrize("how", [
    dict(language="kz"), dict(voice="nobody"), dict(emotion="bored"), dict(strength=2), dict(strength=-0.1), dict(strength=True),
])  # fmt: skip
def test_wrong_calls_are_refused_before_anything_is_said(synthesiser, how):
    with pytest.raises(InputError):
        synthesiser.stream("Сәлем!", **{"language": "kk", **how})


def test_a_language_that_can_not_be_told():
    assert told_speech_language("Балалар есіктің жанында сөйлесіп тұр.") == "kk"
    with pytest.raises(InputError, match="name it with language"):
        told_speech_language("123 456")


@pytest.mark.parametrize("text", ["сөз " * 3000, "сөз, " * 3000, "ә" * 2000, "Бір сөйлем. " * 900])
def test_long_texts_are_cut_and_nothing_is_lost(text):
    parts = parts_of(text.strip())
    assert max(map(len, parts)) <= LONGEST and "".join("".join(parts).split()) == "".join(text.split())


def test_ten_thousand_letters_are_streamed(synthesiser):
    stream = synthesiser.stream("Бүгін ауа райы өте жақсы. " * 400, "kk")
    first = next(stream)
    assert first.text == "Бүгін ауа райы өте жақсы." and np.array_equal(first.samples, next(stream).samples)


# --- how it is said
def test_the_same_call_gives_the_same_bytes_whatever_came_before(synthesiser):
    one = synthesiser.say("Сәлем, Айгүл!", "kk", "f2", emotion="sad", seed=3)
    synthesiser.say("What a day it was!", "en", "croak", emotion="angry", seed=9)
    assert np.array_equal(one.samples, synthesiser.say("Сәлем, Айгүл!", "kk", "f2", emotion="sad", seed=3).samples)


@pytest.mark.parametrize("emotion", list(MANNERS))
def test_no_manner_clips_and_zero_strength_is_neutral(synthesiser, emotion):
    said = synthesiser.say("Балалар есіктің жанында сөйлесіп тұр.", "kk", emotion=emotion)
    assert np.abs(said.samples).max() < 1 and len(said.words) == 5 and abs(said.samples.mean()) < 0.01
    assert manner_of(emotion, 0) == Manner()


def test_manners_do_what_they_say(synthesiser):
    text = "Балалар есіктің жанында сөйлесіп тұр."
    said = {emotion: synthesiser.say(text, "kk", emotion=emotion) for emotion in ("neutral", "sad", "angry")}
    level = {emotion: np.sqrt(np.mean(each.samples**2)) for emotion, each in said.items()}
    assert said["sad"].seconds > said["neutral"].seconds > said["angry"].seconds and level["sad"] < level["neutral"] < level["angry"]


def test_louder_is_monotone_and_bounded():
    ramp = np.linspace(-1, 1, 1001, dtype=np.float32)
    loud = louder(ramp, 2.0)
    assert (np.diff(loud) >= 0).all() and np.abs(loud).max() <= 1 and np.allclose(loud[450:551], 2 * ramp[450:551])


def test_voices_have_kinds():
    table = voices("kk")
    assert list(table.kind[:13]) == ["man"] * 8 + ["woman"] * 5 and "whisper" in set(table.voice)
    with pytest.raises(InputError, match="language to speak 'kz'"):
        voices("kz")


def test_words_move_with_their_pieces():
    piece = Spoken(np.ones(100, np.float32), 100, (Word("а", 0.1, 0.9),), "а", "kk", ("n",))
    whole = joined([piece, piece, piece], 0.5)
    assert whole.seconds == 4.0 and [word.start for word in whole.words] == pytest.approx([0.1, 1.6, 3.1]) and whole.notes == ("n",)
    line = on_timeline([(0.0, piece), (2.0, piece)], 5.0)
    assert line.seconds == pytest.approx(5, abs=0.02) and line.words[1].start == pytest.approx(2.1) and not line.samples[110:190].any()


# --- subtitles
def film(*lines, seconds=None):
    return Transcript(tuple(Segment(*line) for line in lines), "kk", seconds=seconds)


def test_lines_are_spoken_at_their_times(synthesiser):
    said = speak_transcript(synthesiser, film((1.0, 3.0, "Сәлем!"), (4.0, 6.0, "Қош бол!"), seconds=10))
    assert said.seconds == pytest.approx(10, abs=0.01) and not said.notes
    assert [round(word.start) for word in said.words] == [1, 4, 4] or said.words[0].start == pytest.approx(1, abs=0.1)


def test_long_lines_are_spoken_faster_and_late_ones_are_told(synthesiser):
    text = "Бүгін біз қалаға барып, жаңа мұражайды көріп, кешке үйге қайтамыз."
    free = synthesiser.say(text, "kk").seconds
    quick = fitted(synthesiser, text, 0.85 * free, Manner(), language="kk")
    assert quick.seconds <= 0.86 * free
    assert fitted(synthesiser, text, 0.2 * free, Manner(), language="kk").seconds > 0.5 * free  # nobody could follow
    said = speak_transcript(synthesiser, film((0.0, 1.0, text), (1.0, 2.0, "Жақсы."), (20.0, 21.0, "Иә.")))
    assert "1 of 3 lines begin late" in said.notes[0]
    starts = [word.start for word in said.words]
    assert starts == sorted(starts) and said.words[-1].start == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("lines", [[], [(0.0, 1.0, "…")]])
def test_subtitles_without_words(synthesiser, lines):
    with pytest.raises(InputError, match="holds nothing to say"):
        speak_transcript(synthesiser, film(*lines))


def test_files(synthesiser, tmp_path):
    (tmp_path / "a.txt").write_text("Сәлем!\n\nҚош бол!\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("  \n", encoding="utf-8")
    assert len(speak_file(synthesiser, tmp_path / "a.txt", language="kk").words) == 3
    with pytest.raises(InputError, match="is empty"):
        speak_file(synthesiser, tmp_path / "b.txt")
    place = write_spoken(speak_file(synthesiser, tmp_path / "a.txt", language="kk"), tmp_path / "a.flac", 16_000)
    from mtep.media import read_sound

    assert read_sound(place).rate == 16_000
    with pytest.raises(MtepError, match="a.xyz"):
        write_spoken(speak_file(synthesiser, tmp_path / "a.txt", language="kk"), tmp_path / "a.xyz")


# --- a checkpoint
def test_a_checkpoint_speaks_the_same_for_the_same_seed(tmp_path):
    vits = Vits(tiny_vits(tmp_path / "net"))
    one, two = vits.say("сәлем әлем", "kk", seed=1), vits.say("сәлем әлем", "kk", seed=2)
    assert np.array_equal(one.samples, vits.say("сәлем әлем", "kk", seed=1).samples) and not np.array_equal(one.samples, two.samples)
    slow = vits.say("сәлем әлем", "kk", manner=manner_of("sad"), seed=1)
    assert "knows no pitch" in slow.notes[0] and vits.licence == "cc0-1.0"
    (tmp_path / "net" / "README.md").unlink()
    assert Vits(tmp_path / "net").licence.startswith("not stated")
    said = Synthesiser.load(tmp_path / "net").say("Сәлем! Қош бол!", "kk")
    assert said.rate == 16_000 and said.words == ()


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="holds no weights"):
        Vits(tmp_path)
    other = tiny_translation_checkpoint(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be read as a VITS checkpoint"):
        Vits(other)


def test_espeak_knows_its_words():
    assert [word.text for word in Espeak().say("Иттер есіктің жанында отыр.", "kk").words] == ["Иттер", "есіктің", "жанында", "отыр"]


# --- the command
def run(*words, given=None):
    return CliRunner().invoke(app, ["speak", *map(str, words)], input=given)


def test_the_command_writes_and_tells(tmp_path):
    ended = run("Сәлем, Айгүл!", "--lang", "kk", "-e", "happy", "-o", tmp_path / "a.wav", "--json")
    assert ended.exit_code == 0 and json.loads(ended.stdout)["language"] == "kk" and (tmp_path / "a.wav").stat().st_size > 10_000
    (tmp_path / "f.srt").write_text("1\n00:00:02,000 --> 00:00:04,000\nСәлем!\n", encoding="utf-8")
    ended = run(tmp_path / "f.srt", "--lang", "kk", "-o", tmp_path / "f.wav", "--samplerate", 16000, "--json")
    assert json.loads(ended.stdout)["words"][0]["start"] >= 2
    assert run("-", "--lang", "kk", "-o", tmp_path / "p.wav", given="Сәлем!\nҚош!\n").exit_code == 0


def test_clear_speech_takes_its_time(tmp_path, synthesiser):
    line = "She put the letter on the kitchen table."
    plain, clear = synthesiser.say(line, "en-us"), synthesiser.say(line, "en-us", manner=clearly(manner_of("neutral")))
    assert 1.2 < clear.seconds / plain.seconds < 1.7
    lengths = {}
    for words in (("-e", "sad"), ("-e", "sad", "--clear")):
        told = json.loads(run(line, "--lang", "en-us", *words, "-o", tmp_path / "a.wav", "--json").stdout)
        lengths[words] = told["seconds"]
    assert max(lengths, key=lengths.get)[-1] == "--clear"
    (tmp_path / "f.srt").write_text(f"1\n00:00:02,000 --> 00:00:09,000\n{line}\n", encoding="utf-8")
    said = [json.loads(run(tmp_path / "f.srt", "--lang", "en-us", *more, "-o", tmp_path / "f.wav", "--json").stdout) for more in ((), ("--clear",))]
    assert said[1]["words"][-1]["start"] > said[0]["words"][-1]["start"] + 0.3


@pytest.mark.parametrize("words", [("",), ("Сәлем", "-e", "bored"), ("Сәлем", "--lang", "kz"), ("Сәлем", "-o", "a.xyz"), ("no-such-file.srt", "--lang", "kk")])
def test_the_command_refuses(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    ended = run(*words)
    assert ended.exit_code == 2 and not list(tmp_path.iterdir())


def test_ssml_is_spoken_as_it_stands(synthesiser):
    plain = synthesiser.say("Сәлем, бүгін ауа райы қандай?", "kk")
    slow = synthesiser.say('<speak>Сәлем, <break time="800ms"/> <prosody rate="60%">бүгін ауа райы қандай?</prosody></speak>', "kk")
    assert slow.seconds > plain.seconds + 0.8 and "<" not in slow.text
    with pytest.raises(InputError, match="nothing to say"):
        synthesiser.say("<speak> </speak>", "kk")


def test_ssml_is_for_espeak_alone(tmp_path):
    with pytest.raises(InputError, match="holds SSML"):
        Synthesiser.load(tiny_vits(tmp_path / "vits")).say("<speak>Сәлем</speak>", "kk")
