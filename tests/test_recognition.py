"""Speech to text: bad input, windows in constant memory, languages, checks, and checkpoints of the hub."""

import inspect
import json
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest

from mtep.core import InputError, MediaError, OfflineError, PackageError
from mtep.media import Sound, read_sound, resample, speak, write_sound
from mtep.speech import recognition
from mtep.speech.recognition import (
    LONGEST,
    RATE,
    Embedded,
    Heard,
    HubCTC,
    HubWhisper,
    Listening,
    Once,
    Recogniser,
    Voices,
    Window,
    attention_times,
    cannot,
    ctc_letters,
    ctc_words,
    decide,
    doubt,
    in_order,
    language_code,
    listed_corpus,
    listed_files,
    moved,
    notes_of,
    open_engine,
    places_for,
    runs,
    snap,
    spaced,
    speech_windows,
    spoken_clips,
    take,
    tiny_ctc,
    tiny_whisper,
    token_words,
    transcribe_files,
    two_doubts,
    whisper_languages,
)
from mtep.speech.transcripts import Segment, Transcript, Word, score
from mtep.weights import where

pytest.importorskip("faster_whisper", reason="faster-whisper is not installed: its detector of voices is needed")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed: nobody can speak for the tests")
have_whisper = pytest.mark.skipif(
    not (where("whisper-base") and find_spec("faster_whisper")), reason="Whisper base's weights are not on this machine"
)
CALM = np.zeros(RATE, np.float32)


@pytest.fixture(scope="module")
def talk():
    "A sentence in espeak-ng's voice, SYNTHETIC."
    said = speak("Kids are talking by the door.", language="en-us")
    return resample(said.samples, said.rate, RATE)


@pytest.fixture(scope="module")
def whisper():
    "The embedded recogniser."
    return Recogniser.load(threads=1)


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory):
    "A CTC checkpoint with random weights."
    return tiny_ctc(tmp_path_factory.mktemp("ctc"))


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    "A Whisper checkpoint with random weights."
    return tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def ctc(ctc_folder):
    "A random recogniser."
    return Recogniser.load(ctc_folder)


# bad input


@pytest.mark.parametrize("language", ["qq", "klingon", "e", "", "en ru", 7])
def test_unknown_languages(language):
    with pytest.raises(InputError, match="language"):
        language_code(language, whisper_languages())


@pytest.mark.parametrize("beam", [0, -1, 2.5, True, "5", 1000])
def test_wrong_beams(beam):
    with pytest.raises(InputError, match="beam="):
        open_engine("auto", beam=beam)


def test_models_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="weights 'whisper-bace' is not known"):
        Recogniser.load("whisper-bace")
    with pytest.raises(InputError, match="is not there"):
        Recogniser.load(tmp_path / "nothing")
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    with pytest.raises(OfflineError, match="owner/never-fetched"):
        Recogniser.load("owner/never-fetched")


def test_a_checkpoint_that_recognises_nothing(tmp_path):
    from mtep.encoders import tiny_checkpoint

    folder = tiny_checkpoint("wav2vec2", tmp_path / "encoder")
    with pytest.raises(InputError, match="is no recogniser of speech"):
        Recogniser.load(folder)


def test_a_checkpoint_without_its_tokenizer(tmp_path, ctc_folder):
    import shutil

    folder = tmp_path / "ctc"
    shutil.copytree(ctc_folder, folder)
    for name in ("vocab.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="holds no complete recogniser"):
        Recogniser.load(folder)


def test_a_checkpoint_with_code_of_its_own_is_not_run(tmp_path, ctc_folder):
    import shutil

    folder, mark = tmp_path / "ctc", tmp_path / "ran"
    shutil.copytree(ctc_folder, folder)
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about["auto_map"] = {"AutoModelForCTC": "own.Model", "AutoConfig": "own.Config"}
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
    Recogniser.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "sound",
    [(np.zeros(0, np.float32), RATE), (np.zeros((5, 2), np.float32), RATE), (np.full(RATE, np.nan, np.float32), RATE)],
    ids=["empty", "stereo", "not numbers"],
)
def test_sound_that_is_none(ctc, sound):
    with pytest.raises(MediaError, match="is empty, has several channels"):
        ctc.transcribe(sound)


def test_files_that_are_broken(ctc, tmp_path, talk):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing")
    with pytest.raises(MediaError):
        ctc.transcribe(broken)
    with pytest.raises(MediaError, match="does not exist"):
        ctc.transcribe(tmp_path / "nothing.wav")
    good = write_sound(tmp_path / "good.wav", Sound(talk, RATE))
    content = good.read_bytes()
    (tmp_path / "short.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match="is truncated"):
        ctc.transcribe(tmp_path / "short.wav")
    outcomes = list(transcribe_files([broken, good], ctc, "en", on_error="skip"))
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    with pytest.raises(MediaError):
        list(transcribe_files([broken, good], ctc, "en"))


def test_requests_are_refused_before_work(tmp_path, ctc, talk):
    good = write_sound(tmp_path / "good.wav", Sound(talk, RATE))
    for how, complaint in (
        ({"form": "doc"}, "format 'doc' is not known"),
        ({"on_error": "ignore"}, "on_error 'ignore' is not known"),
        ({"language": "klingonese"}, "is not a code"),
    ):
        with pytest.raises(InputError, match=complaint):
            transcribe_files(good, ctc, **how)
    with pytest.raises(InputError, match="was given no file"):
        transcribe_files([], ctc)
    with pytest.raises(InputError, match="is one file for 2"):
        places_for([good, tmp_path / "b.wav"], tmp_path / "out.srt", "srt")


def test_no_source_is_written_over(tmp_path):
    (tmp_path / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nKids\n", encoding="utf-8")
    with pytest.raises(InputError, match="would be written over"):
        transcribe_files(tmp_path / "talk.srt", form="srt", output=tmp_path)


def test_names_are_used_once(tmp_path):
    from pathlib import Path

    files = [Path("a/talk.wav"), Path("b/talk.wav"), Path("b/talk.mp3"), Path("c/other.wav")]
    found = [place.name for place in places_for(files, tmp_path, "vtt")]
    assert found == ["talk.wav.vtt", "talk.wav-2.vtt", "talk.mp3.vtt", "other.vtt"]
    assert places_for(files, None, "vtt") == [None] * 4


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper.vad", None)
    with pytest.raises(PackageError, match=r'pip install "mtep\[speech\]"'):
        Voices()


# nobody speaks


def noises():
    "Sounds without speech."
    rng, time = np.random.default_rng(0), np.arange(6 * RATE) / RATE
    steps = 220 * 2 ** (np.repeat(rng.integers(0, 12, 12), RATE // 2) / 12)
    return {
        "silence": 0 * time, "one bit": rng.integers(0, 2, len(time)) / 32768, "loud noise": rng.normal(0, 0.1, len(time)),
        "melody": 0.3 * np.sin(2 * np.pi * np.cumsum(steps) / RATE), "click": 1.0 * (np.arange(len(time)) == RATE),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time), "constant": 0 * time + 0.5, "one sample": time[:1],
    }  # fmt: skip


@have_whisper
@pytest.mark.parametrize("name", sorted(noises()))
@pytest.mark.parametrize("language", ["en", None])
def test_nothing_is_invented(whisper, name, language):
    found = whisper.transcribe((noises()[name].astype(np.float32), RATE), language)
    assert (found.text, found.segments) == ("", ())
    assert "No speech was found" in found.notes[0]


def test_doubts():
    sure = Heard(0, 1, "Kids are talking.", (), -0.3, 0.01)
    assert doubt(sure) == two_doubts(sure, False, False) == two_doubts(sure, True, True) == ""
    weak = Heard(0, 1, "Thank you.", (), -0.8, 0.1)
    assert doubt(weak) == "" and two_doubts(weak, False, False) == ""
    assert "hardly a voice" in two_doubts(weak, True, False)
    assert "language" in two_doubts(weak, False, True)
    assert "nobody" in doubt(Heard(0, 1, "Thank you.", (), -1.2, 0.9))
    assert "unsure" in doubt(Heard(0, 1, "Thank you.", (), -1.2, None))
    assert "repeats" in doubt(Heard(0, 1, "la la " * 50, (), -0.1, None))


# windows


def test_windows_in_blocks_of_any_size(talk):
    whole = np.concatenate([CALM, talk, CALM, CALM, CALM, talk, CALM])
    wanted = [(w.start, len(w.samples)) for w in speech_windows([whole])]
    assert len(wanted) == 2
    for size in (100, 5000, 16000):
        blocks = [whole[k : k + size] for k in range(0, len(whole), size)]
        found = list(speech_windows(blocks))
        assert [(w.start, len(w.samples)) for w in found] == wanted
        for window in found:
            place = round(window.start * RATE)
            assert np.array_equal(window.samples, whole[place : place + len(window.samples)])


def test_somebody_who_never_pauses_is_cut_without_a_gap(talk):
    whole = np.tile(talk, 45)
    found = list(speech_windows(np.array_split(whole, 50), pause=5))
    assert len(found) >= 3
    assert all(len(window.samples) / RATE <= LONGEST + 1 for window in found)
    for one, other in zip(found, found[1:]):
        assert abs(one.end - other.start) < 0.001  # what is cut goes on in the next window
    assert found[-1].end > len(whole) / RATE - 1.0


def test_memory_does_not_grow_with_length(talk):
    def blocks(minutes):
        rng = np.random.default_rng(0)
        for _ in range(minutes * 6):
            part = np.concatenate([talk, rng.normal(0, 0.001, 10 * RATE - len(talk)).astype(np.float32)])
            yield part

    peaks, counts = [], []
    for minutes in (2, 8):
        tracemalloc.start()
        counts.append(sum(1 for _ in speech_windows(blocks(minutes))))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert counts == [12, 48]
    assert peaks[1] < 1.2 * peaks[0] < 30e6


def test_silence_is_not_kept():
    tracemalloc.start()
    assert not list(speech_windows(CALM for _ in range(300)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_runs_of_a_window():
    window = Window(5.0, np.zeros(3 * RATE, np.float32), np.repeat([0.9, 0.0, 0.9], [20, 30, 10]), 0.4)
    assert runs(window) == [pytest.approx((0.4, 1.04)), pytest.approx((2.0, 2.32))]
    assert len(runs(window, pause=1.0)) == 1
    assert runs(Window(0.0, CALM)) == []
    assert Window(0.0, CALM, np.full(99, 0.3)).faint


# times


def test_words_are_put_in_order():
    rng = np.random.default_rng(0)
    for _ in range(100):
        words = [Word(str(k), *rng.uniform(-1, 12, 2)) for k in range(rng.integers(0, 9))]
        found = in_order(words, 10.0)
        assert [word.text for word in found] == [word.text for word in words]
        edges = [edge for word in found for edge in (word.start, word.end)]
        assert edges == sorted(edges) and all(0 <= edge <= 10 for edge in edges)


def test_pauses_belong_to_no_word():
    window = Window(0.0, np.zeros(4 * RATE, np.float32), np.repeat([0.9, 0.0, 0.9], [30, 30, 30]), 0.0)
    one, other = snap([Word("a", 0.1, 1.9), Word("b", 1.9, 2.8)], window)
    assert one.end == pytest.approx(0.96 + 0.05, abs=0.05) and other.start == pytest.approx(1.9)
    assert snap([Word("c", 1.0, 1.8)], window) == [Word("c", 1.0, 1.8)]  # the detector has no better idea
    assert snap([], window) == []


def test_a_piece_moves_with_its_window():
    segment = moved(Heard(0, 9, "a", (Word("a", 0.5, 1.0, 0.5),), -0.5, 0.2), Window(100.0, CALM), "ru")
    assert (segment.start, segment.end, segment.language) == (100.5, 101.0, "ru")
    assert moved(Heard(-3, 99, "a", (), -0.5), Window(100.0, CALM)).end == 101.0


def test_bytes_of_one_letter_stay_together():
    raw = "Сөз by".encode()
    decode = lambda tokens: bytes(tokens).decode("utf-8", "replace")  # noqa: E731
    assert [word for word, _, _ in token_words(list(raw), decode)] == ["Сөз", "by"]
    assert token_words([], decode) == []
    assert spaced([(" a", 0, 1, 0.5), ("", 1, 1, 0.5)], "en")[0].text == "a"


def test_attention_of_one_token():
    assert attention_times(np.ones((2, 1, 30)), 0.02).tolist() == pytest.approx([0, 0.6])


def test_ctc_of_blanks_and_of_letters_without_end():
    blanks = np.log(np.tile([0.9, 0.05, 0.05], (8, 1)))
    assert ctc_letters(blanks, ["", "a", "|"], 0) == []
    letters = ctc_letters(np.roll(blanks, 1, axis=1), ["", "a", "|"], 0)
    assert [(word.text, round(word.start, 2), round(word.end, 2)) for word in ctc_words(letters, "|", 0.1)] == [
        ("a", 0, 0.8)
    ]
    assert ctc_letters(np.zeros((0, 3)), ["", "a", "|"], 0) == []
    assert ctc_words([], "|", 0.1) == ()


# languages


def test_languages_by_any_name():
    assert {language_code(name, whisper_languages()) for name in ("kk", "KK", "Kazakh", "kk-KZ", "kk_Cyrl")} == {"kk"}
    assert language_code("tlh") == "tlh"  # a CTC checkpoint may know it


@have_whisper
def test_kazakh_is_refused_with_a_checkpoint_that_can(whisper, talk):
    with pytest.raises(InputError, match="beyond whisper-base.*--model .*wav2vec2-large-xlsr-kazakh"):
        whisper.transcribe((talk, RATE), "Kazakh")
    assert cannot("openai/whisper-base@main", "kk") and not cannot("openai/whisper-large-v3", "kk")


@have_whisper
def test_kazakh_that_is_guessed_gives_a_note(whisper):
    said = speak("Бүгін ауа райы өте жақсы болып тұр, біз саябаққа барамыз.", language="kk")
    found = whisper.transcribe(said.sound)
    assert found.text == ""
    assert any("Kazakh" in note and "wav2vec2-large-xlsr-kazakh" in note for note in found.notes)


class Parrot:
    "An engine that takes loud for Russian and says its language."

    name, languages = "parrot", ["en", "ru", "kk"]

    def __init__(self, unsure=0.0):
        self.unsure = unsure

    def chances(self, samples, quick=False):
        loud = float(np.abs(samples).max() > 0.5)
        return {"en": (1 - loud) * (1 - self.unsure), "ru": loud * (1 - self.unsure), "kk": self.unsure / 2}

    def hear(self, samples, language):
        return [Heard(0.1, 0.9, f"said in {language}", (), -0.2, 0.0)]


def windows_of(*levels):
    "Windows with a level each, ten seconds apart."
    return [Window(10.0 * k, np.full(2 * RATE, level, np.float32), np.full(60, 0.9)) for k, level in enumerate(levels)]


def heard(state, windows):
    "What is known after all windows."
    for window in windows:
        take(state, window)
    if state.waiting:
        decide(state)
    return [segment.text for segment in state.segments], notes_of(state)


def test_a_second_language_is_noted():
    texts, notes = heard(Listening(Parrot()), windows_of(0.1, 0.1, 0.9))
    assert texts == ["said in en"] * 3
    assert "0:20–0:22 (ru, 1.00)" in notes[0] and "--lang each" in notes[0]


def test_each_window_in_its_own_language():
    texts, notes = heard(Listening(Parrot(), "each"), windows_of(0.1, 0.9, 0.1))
    assert texts == ["said in en", "said in ru", "said in en"] and notes == ()


def test_a_language_that_was_given_is_not_questioned():
    assert heard(Listening(Parrot(), "en"), windows_of(0.9, 0.9)) == (["said in en"] * 2, ())


def test_an_unsure_language_waits_for_three_windows():
    state = Listening(Parrot(unsure=0.55))
    for window, waiting in zip(windows_of(0.1, 0.9, 0.9), (1, 2, 0)):
        take(state, window)
        assert len(state.waiting) == waiting
    assert state.language == "ru" and len(state.segments) == 3
    assert "weak guess" in notes_of(state)[0]


def test_long_lists_of_notes_end():
    state = Listening(Parrot(), "en", refused=["0:00–0:01 (x)"] * 50, windows=1, faint=False)
    assert "and 45 more" in notes_of(state)[-1]


@have_whisper
def test_two_languages_in_one_file(whisper, data_folder):
    one, other = (
        read_sound(data_folder / "speech_misc" / name).samples for name in ("jfk_whisper.flac", "deepspeech_ru.flac")
    )
    both = (np.concatenate([one, np.zeros(3 * RATE, np.float32), other]), RATE)
    guessed = whisper.transcribe(both)
    assert guessed.language == "en" and any("(ru, " in note for note in guessed.notes)
    each = whisper.transcribe(both, "each")
    assert {segment.language for segment in each.segments} == {"en", "ru"}
    assert "country" in each.text and "месте" in each.text


# the embedded recogniser


def test_sound_is_encoded_once():
    seen = []
    once = Once(lambda features: seen.append(features.shape) or len(seen))
    one, other = np.zeros((80, 3000), np.float32), np.ones((80, 3000), np.float32)
    assert [once(one), once(one.copy()), once(other), once(one)] == [1, 1, 2, 3]
    once.frames = 1500
    assert once(one) == 4 and seen[-1] == (80, 1500)


@have_whisper
def test_words_times_and_confidence(whisper, talk):
    found = whisper.transcribe((np.concatenate([CALM, talk, CALM]), RATE), "en")
    assert found.text == "Kids are talking by the door."
    assert (found.language, found.language_confidence, found.model) == ("en", None, "whisper-base")
    assert found.seconds == pytest.approx(2 + len(talk) / RATE, abs=0.001)
    assert [word.text for word in found.words] == found.text.split()
    assert all(type(word.start) is float and 0 < word.confidence <= 1 for word in found.words)
    assert found.words[0].start == pytest.approx(1.0, abs=0.15)
    json.dumps(found.table.to_dict())


@have_whisper
def test_the_same_sound_gives_the_same_text_whatever_was_heard_before(whisper, talk):
    rng = np.random.default_rng(0)
    noisy = (talk + rng.normal(0, 0.1, len(talk)).astype(np.float32), RATE)
    first = whisper.transcribe(noisy)
    whisper.transcribe((talk, RATE))
    assert whisper.transcribe(noisy) == first


@have_whisper
def test_times_hold_across_windows(whisper, talk):
    gap = np.zeros(4 * RATE, np.float32)
    whole = np.concatenate([talk, gap, talk, gap, talk])
    found = whisper.transcribe((whole, RATE), "en")
    assert [segment.text.rstrip(".") for segment in found.segments] == ["Kids are talking by the door"] * 3
    starts = np.diff([segment.start for segment in found.segments])
    assert starts == pytest.approx([4 + len(talk) / RATE] * 2, abs=0.15)


@have_whisper
def test_rate_and_file_make_no_difference(whisper, talk, tmp_path):
    path = write_sound(tmp_path / "talk.flac", Sound(resample(talk, RATE, 44100), 44100))
    assert whisper.transcribe(path, "en").text == whisper.transcribe((talk, RATE), "en").text


@have_whisper
def test_quick_hears_the_same_here(talk):
    assert Recogniser.load(quick=True, threads=1).transcribe((talk, RATE), "en").text == "Kids are talking by the door."


@have_whisper
def test_segments_are_told_as_they_come(whisper, talk):
    told = []
    found = whisper.transcribe((np.concatenate([talk, np.zeros(4 * RATE, np.float32), talk]), RATE), "en", told.append)
    assert [segment.text for segment in told] == [segment.text for segment in found.segments]


@have_whisper
def test_english_of_people(whisper, data_folder):
    folder = data_folder / "speech_misc"
    table = listed_corpus(folder)
    table = table[table.language == "en"]
    found = score(list(table.text), [whisper.transcribe(path, "en") for path in table.path], "en")
    assert found.wer <= 0.08


@have_whisper
def test_video(whisper, data_folder):
    path = data_folder / "video_clips" / "ravdess" / "01-01-01-01-01-01-01.mp4"
    if not path.is_file():
        pytest.skip("no video clip of RAVDESS in MTEP_DATA")
    assert whisper.transcribe(path).text == "Kids are talking by the door."


def test_nobody_is_prompted():
    source = inspect.getsource(Embedded)
    assert not any(word in source for word in ("initial_prompt", "hotwords", "prefix="))


# checkpoints of the hub


@pytest.mark.parametrize("aligned", [True, False])
def test_a_whisper_of_the_hub(tmp_path, talk, aligned):
    engine = HubWhisper(tiny_whisper(tmp_path / "whisper", seed=1, aligned=aligned), beam=2)
    assert engine.languages == ["en", "kk", "ru"]
    chances = engine.chances(talk)
    assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
    for found in engine.hear(talk, "ru"):
        assert found.words and found.logprob <= 0 and 0 <= found.no_speech <= 1
        assert all(0 <= word.start <= word.end <= len(talk) / RATE + 0.02 for word in found.words)
        assert "<|" not in found.text


def test_a_whisper_of_the_hub_makes_a_transcript(whisper_folder, talk):
    recogniser = Recogniser.load(whisper_folder, beam=1)
    assert isinstance(recogniser.engine, HubWhisper)
    found = recogniser.transcribe((talk, RATE), "ru")
    assert isinstance(found, Transcript) and found.language == "ru"
    assert found.text or "made up" in " ".join(found.notes)  # random weights are refused by their own numbers
    with pytest.raises(InputError, match="language 'de' is not known"):
        recogniser.transcribe((talk, RATE), "de")


def test_a_ctc_of_the_hub(ctc, talk):
    assert isinstance(ctc.engine, HubCTC)
    found = ctc.transcribe((talk, RATE), "kk")
    assert found.language == "kk" and found.model == ctc.name
    again = ctc.engine.hear(talk, "kk")
    for piece in again:
        assert piece.text == " ".join(word.text for word in piece.words)
        assert not any(mark in piece.text for mark in ("<pad>", "<s>", "|"))
    assert ctc.transcribe((CALM, RATE)).text == ""


@have_whisper
@pytest.mark.timeout(300)
def test_whisper_base_through_the_hubs_code_hears_the_same(tmp_path, talk, whisper):
    folder = as_hub_checkpoint(tmp_path / "whisper")
    hub = Recogniser.load(folder)
    sound = (np.concatenate([CALM, talk]), RATE)
    one, other = whisper.transcribe(sound), hub.transcribe(sound)
    assert (one.text, one.language) == (other.text, other.language)
    assert np.allclose([w.start for w in one.words], [w.start for w in other.words], atol=0.1)
    assert one.confidence == pytest.approx(other.confidence, abs=0.1)


def as_hub_checkpoint(folder):
    "Whisper base's weights the way the hub has them."
    import transformers

    from mtep.encoders import read_tensor, tensor_table, whisper_weights
    from mtep.weights import resolve

    home = resolve("whisper-base")
    path, about = home / "model.bin", json.loads((home / "config.json").read_text(encoding="utf-8"))
    table, (sizes, encoder) = tensor_table(path), whisper_weights(path)
    state = {f"model.encoder.{name}": tensor for name, tensor in encoder.items()}

    def put(ours, theirs, parts):
        for mine, yours in parts.items():
            state[f"model.decoder.{ours}.{mine}"] = read_tensor(path, table[f"decoder/{theirs}/{yours}"]).float()

    def split(ours, theirs, names):
        for kind in ("weight", "bias"):
            for name, part in zip(
                names, read_tensor(path, table[f"decoder/{theirs}/{kind}"]).float().chunk(len(names))
            ):
                if (name, kind) != ("k_proj", "bias"):
                    state[f"model.decoder.{ours}.{name}.{kind}"] = part.clone()

    norm, line = {"weight": "gamma", "bias": "beta"}, {"weight": "weight", "bias": "bias"}
    put("embed_tokens", "embeddings", {"weight": "weight"})
    put("embed_positions", "position_encodings", {"weight": "encodings"})
    put("layer_norm", "layer_norm", norm)
    for k in range(6):
        for ours, theirs in (("self_attn", "self_attention"), ("encoder_attn", "attention")):
            put(f"layers.{k}.{ours}_layer_norm", f"layer_{k}/{theirs}/layer_norm", norm)
        split(f"layers.{k}.self_attn", f"layer_{k}/self_attention/linear_0", ["q_proj", "k_proj", "v_proj"])
        put(f"layers.{k}.self_attn.out_proj", f"layer_{k}/self_attention/linear_1", line)
        split(f"layers.{k}.encoder_attn", f"layer_{k}/attention/linear_0", ["q_proj"])
        split(f"layers.{k}.encoder_attn", f"layer_{k}/attention/linear_1", ["k_proj", "v_proj"])
        put(f"layers.{k}.encoder_attn.out_proj", f"layer_{k}/attention/linear_2", line)
        put(f"layers.{k}.final_layer_norm", f"layer_{k}/ffn/layer_norm", norm)
        put(f"layers.{k}.fc1", f"layer_{k}/ffn/linear_0", line)
        put(f"layers.{k}.fc2", f"layer_{k}/ffn/linear_1", line)
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    config = transformers.WhisperConfig(
        **sizes, vocab_size=51865, decoder_layers=6, decoder_attention_heads=8, decoder_ffn_dim=2048
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.load_state_dict(state)
    tokenizer = transformers.WhisperTokenizer.from_pretrained(str(home))
    number = lambda name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")  # noqa: E731
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=number("startoftranscript"), eos_token_id=number("endoftext"), pad_token_id=number("endoftext"),
        lang_to_id={f"<|{code}|>": number(code) for code in whisper_languages() if code != "yue"}, is_multilingual=True,
        task_to_id={"transcribe": number("transcribe"), "translate": number("translate")}, max_length=448,
        no_timestamps_token_id=number("notimestamps"), prev_sot_token_id=number("startofprev"),
        alignment_heads=about["alignment_heads"], suppress_tokens=about["suppress_ids"],
        begin_suppress_tokens=about["suppress_ids_begin"],
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


# files


def test_a_transcript_stands_in(tmp_path):
    (tmp_path / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nKids\n", encoding="utf-8")
    [found] = transcribe_files(tmp_path / "talk.srt", "no/such-model", "en", "json", tmp_path / "out")
    assert found.transcript.text == "Kids" and found.transcript.language == "en"
    assert json.loads(found.written.read_text(encoding="utf-8"))["text"] == "Kids"


def test_a_transcript_with_wrong_times_is_told_or_mended(tmp_path):
    path = tmp_path / "talk.srt"
    path.write_text("1\n00:00:02,000 --> 00:00:01,000\nKids\n", encoding="utf-8")
    [found] = transcribe_files(path, on_error="skip")
    assert "line 2" in str(found.error)
    [found] = transcribe_files(path, mend=True)
    assert found.text == "Kids\n"


def test_long_sentences_are_cut_for_screens_only(tmp_path):
    path = tmp_path / "talk.json"
    text = " ".join(["Kids are talking by the door, and"] * 6)
    path.write_text(json.dumps({"segments": [{"start": 0, "end": 20, "text": text}]}), encoding="utf-8")
    [shown] = transcribe_files(path, form="srt")
    [plain] = transcribe_files(path, form="txt")
    assert shown.text.count("-->") > 2 and plain.text.count("\n") == 1


def test_folders_are_searched(tmp_path, talk):
    write_sound(tmp_path / "b" / "talk.wav", Sound(talk, RATE))
    write_sound(tmp_path / "a.flac", Sound(talk, RATE))
    assert [file.name for file in listed_files(tmp_path)] == ["a.flac", "talk.wav"]


# the experiment's clips


def test_clips_are_spread_evenly(monkeypatch, tmp_path):
    table, synthetic = spoken_clips("synthetic", 10)
    assert synthetic and len(table) == 10 and table.speaker.nunique() == 10
    with pytest.raises(InputError, match="clips=-1"):
        spoken_clips("synthetic", -1)
    monkeypatch.setenv("MTEP_DATA", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "transcripts.tsv").write_text(
        "file\tlang\ttranscript\na.wav\ten\tKids\nb.wav\ten\t\n", encoding="utf-8"
    )
    table, synthetic = spoken_clips("mine")
    assert list(table.text) == ["Kids"] and not synthetic


def test_the_module_loads_nothing_heavy():
    import subprocess
    import sys

    heavy = "import sys, mtep.speech.recognition; print([m for m in ('torch', 'transformers', 'faster_whisper', 'jiwer') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
    assert recognition.Segment is Segment
