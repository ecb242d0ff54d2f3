"""Tuning a checkpoint of the hub: one's own pairs, what is frozen, a training that goes on, and sources made by a machine."""

import json

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
from mtep.core import CorpusError, InputError, MtepError  # noqa: E402
from mtep.texts import key_of  # noqa: E402
from mtep.translation import Candidate, Hub, tiny_translation_checkpoint  # noqa: E402
from mtep.translation_tuning import (  # noqa: E402
    Told,
    back_translate,
    freeze_part,
    named_pairs,
    read_pairs,
    save_tuned,
    side_by_side,
    tune,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_translation_checkpoint(tmp_path_factory.mktemp("tiny") / "net")


@pytest.fixture(scope="module")
def pairs():
    table = named_pairs(["phrasebook"])
    return table[table.split == "train"].iloc[:16]


@pytest.mark.parametrize(("name", "content", "error", "words"), [
    ("a.tsv", "en\tkk\nHi\tСәлем\n", CorpusError, "no column src, tgt"),
    ("a.csv", "src,tgt,split\nHi.,Сәлем.,holdout\n", InputError, "holdout"),
    ("a.tsv", None, MtepError, "a.tsv"),
])  # fmt: skip
def test_tables_that_are_none(tmp_path, name, content, error, words):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(error, match=words):
        read_pairs(tmp_path / name)


def test_a_table_of_ones_own(tmp_path):
    place = tmp_path / "own.csv"
    place.write_text('src,tgt,split\n"Well, go.","Ал, бар.",train\nOpen it.,Аш.,test\nSame,Same,train\n', encoding="utf-8")
    table = read_pairs(place)
    assert table.src.tolist() == ["Well, go.", "Open it."] and table.split.tolist() == ["train", "test"] and table.attrs["dropped"] == 1
    with pytest.raises(InputError, match="language 'xx'"):
        read_pairs(place, "xx")


def test_what_is_held_out_in_one_is_not_learned_from_another(tmp_path):
    book = named_pairs(["phrasebook"])
    held = book[book.split == "test"].iloc[0]
    (tmp_path / "leak.tsv").write_text(f"src\ttgt\tsplit\n{held.src}\t{held.tgt}\ttrain\n", encoding="utf-8")
    table = named_pairs(["phrasebook", str(tmp_path / "leak.tsv")])
    inside = table[table.split == "train"]
    assert key_of(held.src) not in {*map(key_of, inside.src)} and "leak" not in {*table.corpus}


def test_languages_stand_before_both_sides(tiny, pairs):
    hub = Hub(tiny)
    names = hub.tokenizer.convert_ids_to_tokens
    row = Told(hub, pairs.assign(language="ru"))[0]
    assert names(row["input_ids"])[0] == "rus_Cyrl" and names(row["labels"])[0] == "kaz_Cyrl" and names(row["labels"])[-1] == "</s>"
    batch = side_by_side([row, Told(hub, pairs)[1]], hub)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and batch["labels"].shape == batch["decoder_input_ids"].shape
    assert not (batch["decoder_input_ids"] == -100).any() and (batch["labels"] == -100).any()
    assert batch["decoder_input_ids"][0, 1:].tolist()[: len(row["labels"]) - 1] == row["labels"][:-1]


def test_what_is_frozen_stays(tiny, pairs, tmp_path):
    hub = Hub(tiny)
    before = {name: weights.clone() for name, weights in hub.net.state_dict().items()}
    tune(hub, pairs, tmp_path, epochs=1, batch=8, rate=1e-2, freeze="encoder")
    changed = {name for name, weights in hub.net.state_dict().items() if not torch.equal(weights, before[name])}
    assert changed and all("decoder" in name for name in changed)
    with pytest.raises(InputError, match="part to freeze"):
        freeze_part(hub, "everything")


def test_a_training_goes_on_where_it_stopped(tiny, pairs, tmp_path):
    whole = Hub(tiny)
    log = tune(whole, pairs, tmp_path / "whole", epochs=2, batch=8, rate=5e-3, freeze="nothing")
    again = Hub(tiny)
    assert tune(again, pairs, tmp_path / "whole", epochs=2, batch=8, rate=5e-3, freeze="nothing")[-1]["step"] == log[-1]["step"]
    assert all(torch.equal(a, b) for a, b in zip(whole.net.state_dict().values(), again.net.state_dict().values()))
    assert json.loads((tmp_path / "whole" / "log.json").read_text(encoding="utf-8"))
    kept = Hub(save_tuned(whole, tmp_path / "kept"))
    texts = pairs.src.tolist()[:3]
    assert kept.candidates(texts, "en", "kk") == whole.candidates(texts, "en", "kk")
    with pytest.raises(InputError, match="0 pairs"):
        tune(whole, pairs.iloc[:0], tmp_path / "none")


class Machine:
    "Says what it was asked, with a word before it; copies what it finds too short."

    def candidates(self, texts, language, to):
        assert language == "kk"
        return [[Candidate(text if len(text) < 5 else f"{to} of {len(text)} letters", 0.5, 1.0)] for text in texts]


def test_sources_that_a_machine_made():
    made = back_translate(Machine(), ["Бүгін ауа райы өте жақсы 30", "Иә", "", "Бүгін ауа райы өте жақсы 30", "Ол үйге 20 адаммен келді."], ["en", "ru"])
    assert set(made.language) <= {"en", "ru"} and set(made.split) <= {"train"} and set(made.corpus) <= {"back-translated"}
    assert "Иә" not in set(made.tgt)  # it was copied, and Бүгін … 30 has other numbers than its source
    assert back_translate(Machine(), [], ["en"]).empty
    with pytest.raises(InputError, match="language 'xx'"):
        back_translate(Machine(), ["Сәлем"], ["xx"])
