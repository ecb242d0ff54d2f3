"""Corpora of texts: readers and their bad input, labels, splits, copies; what was published, where it is at hand."""

import gzip

import numpy as np
import pandas as pd
import pytest

from mtep.core import CorpusError, InputError
from mtep.corpora import in_order
from mtep.texts import (
    EKMAN,
    TEXT_MAPS,
    TEXT_RECIPES,
    TextCorpus,
    find_texts,
    hashed_split,
    key_of,
    load_texts,
    mend,
    overlap,
    read_lines,
    relabelled,
    text_names,
    with_labels,
    without_copies,
)


def corpus(labels=(("joy",), ("fear",), ()), multilabel=True, **columns):
    "A few rows."
    n = len(labels)
    rows = {"id": [f"r{k}" for k in range(n)], "text": [f"text {k}" for k in range(n)], "language": ["en"] * n}
    rows |= {"split": ["train"] * n} | columns
    names = tuple(sorted({label for have in labels for label in have}))
    return TextCorpus("few", with_labels(pd.DataFrame(rows), list(labels)), names, "CC0", "none", multilabel)


def put(folder, name, content):
    "A file, compressed if its name says so."
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"text": ["a", "  ", "c"]}, "text 1 of 'few' is empty"),
        ({"text": ["a", None, "c"]}, "text 1 of 'few' is empty or no text"),
        ({"id": ["x", "y", "x"]}, "id 'x' of 'few' stands twice"),
        ({"split": ["train", "valid", "test"]}, "split 'valid' of 'few' is not known"),
    ],
)
def test_rows_that_would_spoil_a_figure(columns, message):
    with pytest.raises(CorpusError, match=message):
        corpus(**columns)


def test_tables_without_what_is_needed():
    whole = corpus()
    with pytest.raises(CorpusError, match="has no column split"):
        TextCorpus("few", whole.table.drop(columns="split"), whole.labels, "", "")
    with pytest.raises(CorpusError, match="label 'joy' of 'few' is not on its list"):
        TextCorpus("few", whole.table, ("fear",), "", "")
    with pytest.raises(CorpusError, match="holds no text"):
        TextCorpus("few", whole.table.iloc[:0], whole.labels, "", "")
    only = TextCorpus("few", whole.table.drop(columns="labels"), whole.labels, "", "")
    assert only.table["labels"].tolist() == [("joy",), ("fear",), ()]


@pytest.mark.parametrize("which", [[0, 0], [3], [-1], [], [0.5], [True, False], [[0, 1]]])
def test_subsets_that_are_none(which):
    with pytest.raises(InputError, match="is neither a mask of 3 values nor positions"):
        corpus().subset(np.array(which))


def test_parts_labels_and_digests():
    few = corpus(split=["train", "dev", "test"])
    assert few.part("dev").texts == ["text 1"]
    assert few.subset([True, False, True]).labels == few.labels
    assert few.digest() != corpus(split=["train", "dev", "dev"]).digest()
    assert few.digest() == corpus(split=["train", "dev", "test"]).digest()
    assert few.matrix().tolist() == [[False, True], [True, False], [False, False]]
    with pytest.raises(InputError, match="choose one of"):
        few.part("validation")
    assert "| dev | 1 | 0 | 1 |" in few._repr_markdown_() and "several labels" in few._repr_markdown_()


def test_label_maps():
    assert set(TEXT_MAPS["ekman"].values()) == set(EKMAN)
    assert set(TEXT_MAPS["five"].values()) == {"neutral", "happy", "sad", "angry", "surprised"}
    assert in_order(iter(["positive", "negative"])) == ("negative", "positive")
    assert in_order(iter(["2", "0"])) == ("0", "2")
    few = corpus([("joy", "love"), ("fear",), (), ("joy", "fear")])
    seven = [("happy",), ("fearful",), ("neutral",), ("happy", "fearful")]
    assert few.relabel("ekman").table["labels"].tolist() == seven
    assert few.relabel("five").table["labels"].tolist() == [("happy",), ("neutral",), ("happy",)]
    custom = few.relabel({"joy": "good", "love": "good", "fear": None})
    assert custom.table["labels"].tolist() == [("good",), (), ("good",)] and custom.labels == ("good",)
    assert few.relabel("ekman").relabel("five").title == "few:ekman:five"
    assert few.single().multilabel is False and few.single().texts == ["text 1"]
    with pytest.raises(InputError, match="label map"):
        few.relabel("six")
    with pytest.raises(CorpusError, match="has no text left"):
        relabelled(few, {"joy": None, "love": None, "fear": None})


def test_encodings(tmp_path):
    assert mend("Ð¡Ð°Ð»ÐµÐ¼ â€” naïve €5, “quoted”") == "Салем — naïve €5, “quoted”"
    assert mend("Қазақша, émoji 😀, ÀÉ") == "Қазақша, émoji 😀, ÀÉ"
    assert read_lines(put(tmp_path, "a.txt", b"\xef\xbb\xbfbom")) == "bom"
    assert read_lines(put(tmp_path, "b.txt.gz", "сәлем")) == "сәлем"
    assert read_lines(put(tmp_path, "c.txt", "it’s".encode("cp1252"))) == "it’s"
    with pytest.raises(CorpusError, match="is not a text file"):
        read_lines(put(tmp_path, "d.txt", "abc".encode("utf-16")))
    torn = put(tmp_path, "e.txt.gz", "сәлем" * 200)
    torn.write_bytes(torn.read_bytes()[:-12])
    with pytest.raises(CorpusError, match="is not a whole gzip file"):
        read_lines(torn)


def test_goemotions_lines(tmp_path):
    put(tmp_path, "labels.txt", "joy\nfear\nneutral")
    for split in ("train", "dev", "test"):
        put(tmp_path, f"{split}.tsv", f"Nice\t0,1\tid{split}\nOh\t2\tjd{split}\n")
    whole = load_texts("goemotions", tmp_path)
    assert whole.table["labels"].tolist()[:2] == [("joy", "fear"), ("neutral",)] and len(whole) == 6
    put(tmp_path, "dev.tsv", "Nice\t0,7\tid9\n")
    with pytest.raises(CorpusError, match="line 1 of .*dev.tsv is not text, labels and id"):
        load_texts("goemotions", tmp_path)
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(CorpusError, match="holds no dev.tsv"):
        load_texts("goemotions", tmp_path)


def test_meld_brighter_and_kazsandra_rows(tmp_path):
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    for split in ("train", "dev", "test"):
        rows = "1,It\u0092s  me,Joey,joy,positive,3,4\n2, ,Joey,joy,positive,3,5\n"
        put(tmp_path, f"{split}_sent_emo.csv", head + rows)
        put(tmp_path, f"track_a/{split}/tat.csv", f'id,text,anger,joy\n{split}1,"сэлам, дус",0,1\n{split}2,ни,0,\n')
        rows = f'custom_id,text,label,domain\n{split},"жақсы\nғой",1,market\n'
        put(tmp_path, f"03_pc_{split.replace('dev', 'valid')}.csv.gz", rows)
    meld = load_texts("meld-text:sentiment", tmp_path)
    assert meld.table["text"][0] == "It’s me" and meld.labels == ("negative", "neutral", "positive")
    assert meld.table[["id", "dialogue", "turn"]].iloc[0].tolist() == ["train-dia3-utt4", "train-3", 4]
    assert meld.left_out == {"no text": 3}
    tatar = load_texts("brighter-tt", tmp_path)
    assert tatar.languages == ("tt",) and tatar.left_out == {"no text, or no labels": 3}
    kazakh = load_texts("kazsandra:polarity", tmp_path)
    assert kazakh.table["label"].tolist() == ["positive"] * 3 and "\n" in kazakh.texts[0]
    assert load_texts("kazsandra", tmp_path).title == "kazsandra:polarity"
    put(tmp_path, "dev_sent_emo.csv", "Utterance\nHi\n")
    with pytest.raises(CorpusError, match="has no column Emotion"):
        load_texts("meld-text", tmp_path)


def test_names_and_places(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_DATA", str(tmp_path))
    assert {"dair", "goemotions:ekman", "brighter-tt", "xed-fr", "kazsandra:score"} <= {*text_names()}
    assert find_texts("dair") is None and find_texts("synthetic-texts") is None
    with pytest.raises(CorpusError, match="was not found in"):
        load_texts("brighter-ru")
    for wrong in ("brighter", "brighter-kk", "xed:ekman", "", "dair:polarity"):
        with pytest.raises(InputError):
            load_texts(wrong)
    with pytest.raises(InputError, match="write kazsandra:score first"):
        load_texts("kazsandra:ekman:score")
    with pytest.raises(CorpusError, match="is not a folder"):
        load_texts("dair", tmp_path / "nowhere")
    (tmp_path / "Dair-Emotion").mkdir()
    assert find_texts("dair:ekman").name == "Dair-Emotion"


def test_copies():
    texts = ["Oh, my God!", "oh my god", "no"]
    few = corpus([("joy",), ("fear",), ("joy",)], text=texts, split=["train", "dev", "test"])
    assert overlap(few).to_dict("index")["dev"] == {"texts": 1, "copies": 1, "share": 1.0, "same_labels": 0}
    assert overlap(few)["copies"].tolist() == [1, 0]
    assert without_copies(few).table["split"].tolist() == ["dev", "test"]
    assert key_of("😀 !") != key_of("😡 !") and key_of("Ё") == key_of("ё")
    assert hashed_split("A b.") == hashed_split("a B")
    assert {hashed_split(f"line {k}") for k in range(60)} == {"train", "dev", "test"}


def test_synthetic_texts_are_the_same_everywhere():
    toy = load_texts("synthetic-texts")
    assert toy.synthetic and toy.digest()[:12] == load_texts("synthetic-texts").digest()[:12]
    assert toy.balance().loc["test"].iloc[:7].tolist() == [18] * 7
    assert "SYNTHETIC" in toy._repr_markdown_() and "SYNTHETIC" in repr(toy)


PUBLISHED = {
    "dair": (16000, 2000, 2000), "goemotions:ekman": (43410, 5426, 5427), "meld-text": (9989, 1109, 2610),
    "brighter-tt": (1000, 200, 1000), "brighter-ru": (2679, 199, 1000),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_splits(name, data_folder):
    if find_texts(name) is None:
        pytest.skip(f"no {name} below MTEP_DATA={data_folder}")
    found = load_texts(name)
    assert tuple(found.balance()["texts"]) == PUBLISHED[name]
    assert not found.left_out and all(found.balance().loc["test"] > 0)


def test_kazsandra_as_published(data_folder):
    if find_texts("kazsandra") is None:
        pytest.skip(f"no KazSAnDRA below MTEP_DATA={data_folder}")
    found = load_texts("kazsandra:polarity")
    assert tuple(found.balance()["texts"])[1:] == (16796, 16797)
    assert found.balance().loc["test", "positive"] == 13804


def test_recipes_tell_their_terms():
    for recipe in TEXT_RECIPES.values():
        assert recipe.licence and recipe.citation and recipe.licence in recipe._repr_markdown_()
