"""A small translator: pairs that are none, training that is stopped, and what is kept of it."""

import json

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
from mtep.core import InputError, settings  # noqa: E402
from mtep.texts import key_of  # noqa: E402
from mtep.translation import Translator, load_parallel  # noqa: E402
from mtep.translator import (  # noqa: E402
    NETWORK,
    Pairs,
    Small,
    export_translator,
    gather,
    good_pair,
    padded,
    pairs_of,
    piece_model,
    read_names,
    small_network,
    train_pieces,
    train_translator,
    without_litter,
)


@pytest.fixture(scope="module")
def pairs():
    table = gather(["phrasebook"])
    return table[table.split == "train"].sample(150, random_state=0)


@pytest.fixture(scope="module")
def content(pairs):
    return train_pieces([*pairs.src, *pairs.tgt], 300)


@pytest.fixture(scope="module")
def small(pairs, content, tmp_path_factory):
    home = tmp_path_factory.mktemp("translator")
    net = train_translator(pairs, content, home / "begun", 32, 1, epochs=1, batch=50)
    return export_translator(net, content, home / "kept", {"languages": ["en", "ru"], "pairs": len(pairs)})


@pytest.mark.parametrize(("source", "target"), [
    ("", "Сәлем"), ("Hello", ""), ("Hello", "Hello"), ("Call 112", "113-ке қоңырау шалыңыз"), ("A short one", "Бұл сөйлем " * 30),
    ("Hello", "Привет world only latin letters here"), ("word " * 80, "сөз " * 80),
])  # fmt: skip
def test_what_is_no_pair(source, target):
    assert not good_pair(source, target)


def test_pairs_are_held_out_by_family_and_never_twice():
    table = gather(["phrasebook"])
    held = {key_of(text) for text in (*table[table.split != "train"].src, *table[table.split != "train"].tgt)}
    inside = table[table.split == "train"]
    assert not held & {key_of(text) for text in (*inside.src, *inside.tgt)}
    assert not pd.DataFrame({"a": table.src.map(key_of), "b": table.tgt.map(key_of)}).duplicated().any()
    with pytest.raises(Exception, match="was not found"):
        pairs_of("nowhere.en-kk")


def test_pairs_turned_round_are_the_same_pairs():
    into, out = (pairs_of("phrasebook", to) for to in ("kk", "en"))
    into, out = into[into.language == "en"], out[out.language == "kk"]
    assert into[["src", "tgt", "split"]].to_numpy().tolist() == out[["tgt", "src", "split"]].to_numpy().tolist()
    with pytest.raises(InputError, match="'de'"):
        pairs_of("phrasebook", "de")


def test_names_come_in_three_languages():
    table = read_names().set_index("en")
    assert len(table) > 1200 and table.index.is_unique
    assert table.loc["Japan"].tolist() == ["Жапония", "Япония"] and table.loc["London"].tolist() == ["Лондон", "Лондон"]


def test_tests_are_taken_out_of_training():
    if not (settings().data / "parallel").is_dir():
        pytest.skip("the parallel texts are not here: set MTEP_DATA")
    table = gather(["tatoeba.en-kk", "tatoeba.ru-kk"], ["flores200_devtest.en-kk"])
    assert set(table.split) == {"train", "dev", "test"} and set(table.language) == {"en", "ru"}
    inside, banned = table[table.split == "train"], load_parallel("flores200_devtest.en-kk")
    assert not {*map(key_of, inside.tgt)} & {*map(key_of, banned.tgt), *map(key_of, table[table.split == "test"].tgt)}


def test_pieces_are_cut_anew_and_join_to_the_same(pairs, content):
    cutter = piece_model(content)
    rows = Pairs(pairs, cutter, sample=0.2)
    drawn = {tuple(rows[0]["labels"]) for _ in range(20)}
    assert len(drawn) > 1 and {cutter.decode(list(one[:-1])) for one in drawn} == {pairs.iloc[0].tgt}
    assert Pairs(pairs, cutter)[3] == Pairs(pairs, cutter)[3] and Pairs(pairs, cutter)[3]["input_ids"][-1] == 0


def test_what_fills_up_is_not_learned(pairs, content):
    rows = [Pairs(pairs, piece_model(content))[k] for k in range(3)]
    side = padded(rows, 300)
    lengths = [len(row["labels"]) for row in rows]
    assert side["labels"].shape == (3, max(lengths)) and (side["labels"] == -100).sum() == 3 * max(lengths) - sum(lengths)
    assert (side["decoder_input_ids"][:, 0] == 300).all() and torch.equal(side["attention_mask"].bool(), side["input_ids"] != 300)
    for row, begun, wanted in zip(rows, side["decoder_input_ids"], side["labels"]):
        assert begun[1 : len(row["labels"])].tolist() == row["labels"][:-1] and wanted[: len(row["labels"])].tolist() == row["labels"]


def test_the_same_seed_gives_the_same_network(content):
    first, second = small_network(300, 32, 2, seed=3), small_network(300, 32, 2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert first.lm_head.weight is first.model.shared.weight or torch.equal(first.lm_head.weight, first.model.shared.weight)


def test_the_engine_says_what_the_network_says(pairs, content, tmp_path):
    net = train_translator(pairs, content, tmp_path / "begun", 32, 2, epochs=6, batch=25)
    small, cutter = Small(export_translator(net, content, tmp_path / "kept", {"languages": ["en", "ru"]})), piece_model(content)
    text = pairs.iloc[0].src
    assert not net.model.shared.weight[-1].any()
    inputs = torch.tensor([[*cutter.encode(text), 0]])
    with torch.no_grad():
        told = net.generate(input_ids=inputs, num_beams=1, do_sample=False, max_new_tokens=8, no_repeat_ngram_size=4, suppress_tokens=[300])[0, 1:].tolist()
    ours = small.engine.translate_batch([[*cutter.encode(text, out_type=str), "</s>"]], beam_size=1, max_decoding_length=8, no_repeat_ngram_size=4)
    same = [cutter.piece_to_id(piece) for piece in ours[0].hypotheses[0]]
    assert same[:5] == [k for k in told if k][:5]


def test_a_kept_translator_works_behind_the_memory(small):
    translator = Translator.load(small)
    known, strange = translator.translate(["Dogs are sitting by the door.", "Enzymes are proteins."], language="en", count=2)
    assert known.origin == "memory" and strange.origin == "model" and len(strange.candidates) == 2 and 0 <= strange.confidence <= 1
    assert translator.hub.candidates([], "en") == []
    with pytest.raises(InputError, match="language 'de' is not known"):
        translator.translate("Das ist gut.", language="de")


def test_changed_files_are_refused(small, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in small.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / NETWORK).write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.ct2"):
        Small(folder)
    assert json.loads((small / "translator.json").read_text(encoding="utf-8"))["card"]["languages"] == ["en", "ru"]
    assert np.isfinite(sum(path.stat().st_size for path in small.iterdir()))


def test_pages_lose_their_litter():
    long = "О том, что было сказано на совещании, сообщила пресс-служба " * 2
    given = pd.DataFrame({
        "src": ["Символы</seg>", "Дом<br />и <b class='x'>двор</b>", "Чай&nbsp;и хлеб", long + "…", "Ну…", "5 < 7 и 8 > 3"],
        "tgt": ["Рәміздер</seg>", "Үй мен аула", "Шай мен нан", "Бұл туралы мәжілісте айтылды", "Ал…", "5 < 7 және 8 > 3"],
        "source": ["page"] * 6,
    })  # fmt: skip
    told = without_litter(given)
    assert told.src.tolist() == ["Символы", "Дом и двор", "Чай и хлеб", "Ну…", "5 < 7 и 8 > 3"]
    assert told.tgt.iloc[0] == "Рәміздер" and list(told) == ["src", "tgt", "source"]
    assert list(without_litter(given.iloc[:0])) == ["src", "tgt", "source"]
