"""Films: corpora with a voice, words and a face, read from folders of their authors' layout with made-up content."""

import numpy as np
import pytest

from mtep.core import CorpusError
from mtep.corpora import RECIPES, find, load, validate
from mtep.evaluation import folds
from mtep.films import MELD_PARTS, parse_iemocap, parse_meld, parse_ravdess_film
from mtep.media import write_sound
from mtep.texts import mend

HUM = (0.1 * np.sin(np.arange(16_000) / 20)).astype(np.float32)
HEAD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))


def film(path):
    "Sound under a film's name."
    return write_sound(path.with_suffix(".wav"), HUM, 16_000).rename(path)


@pytest.fixture
def iemocap(tmp_path):
    root = tmp_path / "data" / "IEMOCAP_full_release"
    for session in (1, 2, 3):
        here, dialogue = root / f"Session{session}", f"Ses0{session}F_script01_1"
        turns = {"F000": "neu", "M000": "exc", "F001": "xxx", "M001": "fru", "F002": "ang", "M002": "oth"}
        lines, words = [], []
        for k, (turn, code) in enumerate(turns.items()):
            write_sound(here / "sentences" / "wav" / dialogue / f"{dialogue}_{turn}.wav", HUM, 16_000)
            lines.append(f"[{k}.0 - {k}.9]\t{dialogue}_{turn}\t{code}\t[2.5, 3.0, 4.0]\nA-E1:\tval 3; act 3;\n")
            words.append(f"{dialogue}_{turn} [00{k}.0-00{k}.9]: Turn {k}: well, [LAUGHTER] yes.")
        for folder, text in (("EmoEvaluation", "% header\n\n" + "\n".join(lines)), ("transcriptions", "\n".join(words) + "\nM: aside\n")):
            (here / "dialog" / folder).mkdir(parents=True)
            (here / "dialog" / folder / f"{dialogue}.txt").write_text(text, encoding="utf-8")
            (here / "dialog" / folder / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07 a Mac was here")
        write_sound(here / "dialog" / "wav" / f"{dialogue}.wav", HUM, 16_000)
    return root


def test_iemocap_meets_sound_words_and_label_by_the_turns_name(iemocap):
    corpus = load("iemocap", iemocap)
    assert len(corpus) == 15 and corpus.speakers == ["1F", "1M", "2F", "2M", "3F", "3M"]
    row = corpus.table[corpus.table.file.str.endswith("Ses02F_script01_1_M000.wav")].iloc[0]
    assert (row.speaker, row.gender, row.emotion, row.session, row.scripted) == ("2M", "male", "excited", 2, True)
    assert row.text == "Turn 1: well, [LAUGHTER] yes." and (row.valence, row.activation, row.dominance) == (2.5, 3.0, 4.0)
    assert row.seconds == 1.0 and row.dialogue == "Ses02F_script01_1" and row.begin == 1.0
    assert set(corpus.left_out.values()) == {"annotators do not agree"} and len(corpus.left_out) == 3
    assert {"neutral", "excited", "frustrated", "angry", "other"} == set(corpus.table.emotion)


def test_iemocap_in_four_counts_excited_as_happy(iemocap):
    corpus = load("iemocap:four", iemocap)
    assert corpus.table.emotion.value_counts().to_dict() == {"neutral": 3, "happy": 3, "angry": 3}
    assert RECIPES["iemocap"].counts["happy"] + RECIPES["iemocap"].counts["excited"] == 1636
    assert sum(RECIPES["iemocap"].counts[name] for name in ("happy", "excited", "sad", "angry", "neutral")) == 5531
    assert len(folds(load("iemocap", iemocap), "speakers5")) == 5


def test_a_turn_without_sound_is_left_out_and_a_broken_one_told(iemocap):
    sounds = sorted(iemocap.rglob("sentences/wav/*/*.wav"))
    sounds[0].unlink()
    sounds[3].write_bytes(b"RIFF")
    with pytest.raises(CorpusError, match='on_error="skip"'):
        load("iemocap", iemocap)
    corpus = load("iemocap", iemocap, on_error="skip")
    assert len(corpus) == 13 and list(corpus.left_out.values()).count("no sound file") == 1


def test_what_is_no_unpacked_corpus_is_told(tmp_path, iemocap):
    (tmp_path / "full.tar.gz").write_bytes(b"x")
    for name in ("iemocap", "meld", "ravdess-video"):
        with pytest.raises(CorpusError, match="is an archive"):
            load(name, tmp_path / "full.tar.gz")
        with pytest.raises(CorpusError, match="does not exist"):
            load(name, tmp_path / "gone")
    for name in ("iemocap", "ravdess-video"):
        with pytest.raises(CorpusError, match="holds no clip of this corpus"):
            load(name, tmp_path / "data" / "IEMOCAP_full_release" / "Session1" / "dialog")


@pytest.mark.parametrize(("stem", "speaker"), [
    ("Ses01F_impro01_F000", "1F"), ("Ses05M_script03_2_M045", "5M"), ("Ses03F_script01_1_FXX0", "3F"),
    ("Ses04M_impro02b_M010", "4M"), ("Ses06F_impro01_F000", None), ("Ses01F_impro01", None), ("03-01-01-01-01-01-01", None),
])  # fmt: skip
def test_names_of_turns(stem, speaker):
    found = parse_iemocap(stem)
    assert (found and found["speaker"]) == speaker


@pytest.fixture
def meld(tmp_path):
    root = tmp_path / "data" / "MELD.Raw"
    for part, (table, folders) in MELD_PARTS.items():
        film(root / folders[-1] / "dia0_utt0.mp4")
        rows = [
            f'1,"{part}: it\x92s you, Joey",Ross,joy,positive,0,0,4,7,a,b',
            "2,NA,A Waiter,Neutral,neutral,0,1,4,7,a,b", "3,Why?,Monica,anger,negative,1,0,4,7,a,b",
        ]  # fmt: skip
        (root / table).write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_meld_keeps_its_parts_apart(meld):
    corpus = load("meld", meld)
    assert corpus.table.split.tolist() == ["dev", "test", "train"] and corpus.table.file.nunique() == 3
    assert corpus.table.text.tolist() == [f"{part}: it’s you, Joey" for part in ("dev", "test", "train")]
    assert set(corpus.table.emotion) == {"happy"} and set(corpus.table.gender) == {"male"}
    assert len(corpus.left_out) == 6 and "train/dia1_utt0.mp4" in corpus.left_out
    (meld / "test_sent_emo.csv").unlink()
    with pytest.raises(CorpusError, match=r"holds no test_sent_emo\.csv"):
        load("meld", meld)


def test_meld_counts_are_those_published():
    assert sum(RECIPES["meld"].counts.values()) == 9989 + 1109 + 2610
    assert sum(RECIPES["iemocap"].counts.values()) == 10039 - 2507
    assert parse_meld("dia12_utt3") == {"dialogue": 12, "turn": 3} and parse_meld("final_dia1_utt1") is None
    assert mend("I\x92d\x97well\x85") == "I’d—well…"


def test_ravdess_films(tmp_path):
    root = tmp_path / "data" / "ravdess-video" / "Actor_01"
    root.mkdir(parents=True)
    for stem in ("01-01-03-01-01-01-01", "02-01-03-01-01-01-01", "01-02-03-01-01-01-01", "01-01-05-02-02-02-01", "holiday"):
        film(root / f"{stem}.mp4")
    corpus = load("ravdess-video", root.parent)
    assert corpus.table.emotion.tolist() == ["happy", "angry"] and corpus.table.text[0].startswith("Kids")
    assert sorted(corpus.left_out.values()) == ["film without sound", "song"]
    assert parse_ravdess_film("01-01-01-02-01-01-01") is None  # neutral has no strong intensity


def test_they_are_found_by_name_and_checked(tmp_path, iemocap, meld, monkeypatch):
    monkeypatch.setenv("MTEP_DATA", str(tmp_path / "data"))
    assert find("iemocap") == iemocap and find("meld") == meld and find("ravdess-video") is None
    assert not validate(load("iemocap")).ok  # three turns are not the 10 039
