"""Protocols on real and broken corpora; scores against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from mtep.core import InputError, ProtocolError
from mtep.corpora import load
from mtep.evaluation import (
    ACTOR_FOLDS,
    applicable,
    audit,
    bootstrap,
    confusion,
    cross_validate,
    folds,
    normalise_by_speaker,
    scores_of,
)


@pytest.fixture(scope="module")
def toy():
    return load("synthetic")


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = list("abcdefgh")
    truth, guess = rng.choice(labels, 500, p=np.arange(1, 9) / 36), rng.choice(labels, 500)
    ours = scores_of(confusion(truth, guess, labels))
    assert ours["uar"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert ours["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert ours["war"] == pytest.approx((truth == guess).mean())


def test_interval_resamples_speakers_reproducibly():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"speaker": np.repeat(range(6), 50), "truth": rng.choice(list("ab"), 300)})
    frame["predicted"] = rng.choice(list("ab"), 300)
    assert bootstrap(frame, "ab") == bootstrap(frame.sample(frac=1, random_state=3), "ab")


def test_unknown_protocol_names_the_nearest(toy):
    with pytest.raises(InputError, match="did you mean 'luna5'"):
        folds(toy, "luna")


@pytest.mark.parametrize("protocol", ["luna5", "emobox6"])
def test_actor_lists_are_refused_elsewhere(toy, protocol):
    with pytest.raises(ProtocolError, match="is defined for ravdess only; use one of: speakers5"):
        folds(toy, protocol)


def test_one_speaker_allows_only_the_random_split(toy):
    alone = toy.subset(np.flatnonzero(toy.table.speaker == toy.speakers[0]))
    assert "speakers5" not in applicable(alone)
    with pytest.raises(ProtocolError, match="needs more speakers"):
        folds(alone, "leave-one-speaker-out")


def test_no_speaker_on_both_sides_and_every_clip_tested_once(toy):
    for protocol in ("speakers5", "leave-one-speaker-out"):
        parts = folds(toy, protocol)
        speaker = toy.table.speaker
        assert all(not set(speaker.iloc[f.train]) & set(speaker.iloc[f.test]) for f in parts)
        assert sorted(np.concatenate([f.test for f in parts])) == list(range(len(toy)))


def test_features_of_another_length_are_refused(toy):
    with pytest.raises(InputError, match="do not match"):
        cross_validate(object, pd.DataFrame(np.zeros((3, 2))), toy, "speakers5", "none")


def test_a_feature_that_stands_still_stays_finite():
    table = pd.DataFrame({"a": [1.0, 1.0, 2.0, 3.0], "b": [0.0] * 4})
    assert np.isfinite(normalise_by_speaker(table, ["x", "x", "y", "y"]).to_numpy()).all()


def test_ravdess_protocols(ravdess):
    assert applicable(ravdess) == ["luna5", "emobox6", "speakers5", "leave-one-speaker-out", "random80"]
    for protocol, actors in ACTOR_FOLDS.items():
        for fold, tested in zip(folds(ravdess, protocol), actors, strict=True):
            assert set(ravdess.table.speaker.iloc[fold.test]) == {f"{actor:02d}" for actor in tested}
            assert len(fold.test) == 60 * len(tested)
    assert all(len(fold.test) == 288 for fold in folds(ravdess, "random80"))


def test_ravdess_leaks_under_the_random_split_only(ravdess):
    found = audit(ravdess, contents=ravdess.digests())
    assert found.loc["random80", "speaker in training"] == 1.0
    assert found.loc["random80", "twin in training"] > 0.95
    assert (found.drop("random80")[["speaker in training", "twin in training", "identical in training"]] == 0).all(axis=None)


def test_a_missing_actor_is_named(ravdess):
    partial = ravdess.subset(np.flatnonzero(ravdess.table.speaker != "05"))
    with pytest.raises(ProtocolError, match="needs all 24 actors, and 05 are missing"):
        folds(partial, "luna5")
