"""Voices: heads, enrolment, models that are kept, networks that are tuned, and every bad input."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

from typer.testing import CliRunner  # noqa: E402

from mtep import core  # noqa: E402
from mtep.core import (  # noqa: E402
    CorpusError,
    InputError,
    MediaError,
    MtepError,
    OfflineError,
    ProtocolError,
    StorageError,
    file_digest,
)
from mtep.corpora import Corpus  # noqa: E402
from mtep.emotion import wav2vec2  # noqa: E402
from mtep.emotion.recogniser import Emotion  # noqa: E402
from mtep.emotion.wav2vec2 import (  # noqa: E402
    FEWEST,
    KINDS,
    PRIOR,
    PRIOR_SPREAD,
    AttentiveHead,
    Discriminant,
    FrozenHead,
    Linear,
    ProbeHead,
    Usual,
    VoiceModel,
    VoiceNet,
    blank_frames,
    block_names,
    clip_batches,
    cross_validate_heads,
    cross_validate_nets,
    default_layers,
    enrol_at_random,
    enrolled_temperature,
    enrolment_curve,
    first_net,
    fit_enrolled,
    hear,
    load_voice_model,
    read_clip,
    save_voice_model,
    speaker_parts,
    stacked,
    temperature_of,
    train_net,
    train_voice,
    tuning_plan,
)
from mtep.encoders import fingerprint, load_encoder, tiny_checkpoint, trim_silence  # noqa: E402
from mtep.evaluation import best_temperature, folds, softmax  # noqa: E402
from mtep.media import Sound, read_sound, write_sound  # noqa: E402
from mtep.training import History, parameter_table, predict  # noqa: E402
from mtep.weights import SEAL, seal  # noqa: E402

RATE = 16_000
LABELS = ("neutral", "happy", "sad", "angry")
FAMILIES = ("wav2vec2", "hubert", "wavlm", "whisper")
each_family = pytest.mark.parametrize("kind", FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    "A folder with a tiny checkpoint of each family."
    folder = tmp_path_factory.mktemp("tiny")
    for kind in FAMILIES:
        tiny_checkpoint(kind, folder / kind)
    return folder


@pytest.fixture(scope="session")
def encoders(home):
    "Tiny encoders by family; nobody changes them."
    return {kind: load_encoder(home / kind, "cpu") for kind in FAMILIES}


def utterance(speaker, emotion, take, seconds, rate=RATE):
    "A hum whose pitch is the speaker's and whose colour is the emotion's, with breath and silence around it."
    rng = np.random.default_rng([speaker, emotion, take])
    t = np.arange(round(seconds * rate)) / rate
    pitch = 90 * 1.12**speaker * (1 + 0.3 * (emotion in (1, 3)) + 0.02 * rng.normal())
    slope = (1.0, 0.6, 2.0, 0.3)[emotion]
    hum = sum(np.sin(2 * np.pi * pitch * k * t) / k**slope for k in range(1, 12))
    hum = hum / np.abs(hum).max() * (1 + 0.5 * np.sin(2 * np.pi * (2 + 3 * emotion) * t)) / 3
    quiet = np.zeros(round(0.05 * rate))
    sound = np.concatenate([quiet, hum, quiet]) + 1e-3 * rng.normal(size=len(t) + 2 * len(quiet))
    return sound.astype(np.float32)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    "Six speakers, four emotions, three takes of 0.35 to 1 s, in an order that is not that of their lengths."
    root, rows = tmp_path_factory.mktemp("made"), []
    lengths = iter(np.random.default_rng(5).permutation(np.linspace(0.35, 1.0, 72)))
    for speaker in range(6):
        for number, emotion in enumerate(LABELS):
            for take in range(3):
                file, seconds = f"s{speaker}/{emotion}-{take}.wav", float(next(lengths))
                sound = utterance(speaker, number, take, seconds)
                write_sound(root / file, sound, RATE)
                gender = ("female", "male")[speaker % 2]
                rows.append([file, f"{speaker:02d}", gender, emotion, "normal", "ah", "none", len(sound) / RATE])
    columns = ["file", "speaker", "gender", "emotion", "intensity", "text", "language", "seconds"]
    return Corpus("made", pd.DataFrame(rows, columns=columns), LABELS, root, "none", "none", synthetic=True)


@pytest.fixture(scope="session")
def heard(corpus, encoders):
    "States at two speeds."
    return hear(corpus, encoders["wav2vec2"], speeds=(1.0, 0.9))


@pytest.fixture(scope="session")
def model(corpus, encoders):
    "A model of the whole corpus."
    return train_voice(corpus, encoders["wav2vec2"], speeds=(1.0, 0.9))


@pytest.fixture
def kept(model, tmp_path):
    "The same in a folder."
    return save_voice_model(model, tmp_path / "head")


@pytest.fixture(scope="session")
def sounds(corpus):
    return [read_sound(path).samples for path in corpus.paths[:10]]


def discriminant(shrinkage=0.5):
    return lambda: FrozenHead("discriminant", shrinkage)


def relabelled(corpus, rows, seed=0):
    "The corpus with the labels of some clips dealt anew."
    table, rng = corpus.table.copy(), np.random.default_rng(seed)
    table.loc[rows, "emotion"] = rng.permutation(table["emotion"].to_numpy()[rows])
    return replace(corpus, table=table)


# ------------------------------------------------------------------------------------------------ discriminant


@pytest.fixture(scope="module")
def points():
    "Standardised points of three classes: balanced, and not."
    rng = np.random.default_rng(1)
    found = []
    for counts in ([30, 30, 30], [10, 25, 55]):
        truth = np.repeat(["a", "b", "c"], counts)
        values = rng.normal(size=(90, 12)) @ rng.normal(size=(12, 12)) + np.repeat([[0], [1], [2]], counts, 0)
        found.append(((values - values.mean(0)) / values.std(0), truth))
    return found


@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 1.0])
def test_discriminant_agrees_with_scikit_learn(points, shrinkage):
    LinearDiscriminantAnalysis = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    for values, truth in points:
        ours = Discriminant(shrinkage).fit(values, truth)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(values, truth)
        assert list(ours.classes_) == list(theirs.classes_)
        assert np.allclose(ours.coef_, theirs.coef_)
        assert np.allclose(ours.intercept_, theirs.intercept_ - np.log(theirs.priors_)), "all classes weigh the same"


@pytest.mark.parametrize("shrinkage", [0.01, 0.3])
def test_discriminant_agrees_with_its_formula_where_clips_are_few(shrinkage):
    rng = np.random.default_rng(0)
    values, truth = rng.normal(size=(20, 50)).astype(np.float32), np.tile(np.arange(4), 5)
    ours = Discriminant(shrinkage).fit(values, truth)
    means = np.stack([values[truth == k].astype(float).mean(0) for k in range(4)])
    covariance = np.cov((values - means[truth]).T.astype(float), bias=True)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 50 * np.eye(50)
    directions = means @ np.linalg.inv(shrunk)
    assert np.allclose(ours.coef_, directions, rtol=1e-3, atol=1e-4 * np.abs(directions).max())
    assert np.allclose(ours.intercept_, -0.5 * (directions * means).sum(1), rtol=1e-3)


def test_discriminant_that_is_all_identity_finds_the_nearest_mean(points):
    values, truth = points[1]
    ours = Discriminant(1.0).fit(values, truth)
    told = (values @ ours.coef_.T + ours.intercept_).argmax(1)
    means = np.stack([values[truth == name].mean(0) for name in "abc"])
    assert (told == np.square(values[:, None] - means).sum(2).argmin(1)).all()


def test_discriminant_survives_what_never_changes():
    values = np.ones((6, 3), np.float32)
    ours = Discriminant().fit(values, np.array(list("aabbcc")))
    assert np.isfinite(values @ ours.coef_.T + ours.intercept_).all()


@pytest.mark.parametrize("shrinkage", [0, -0.1, 1.01, float("nan")])
def test_discriminant_refuses(shrinkage):
    with pytest.raises(InputError, match="is no share above 0 and up to 1"):
        Discriminant(shrinkage)


# ------------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize("kind", KINDS)
def test_heads_learn_and_do_not_depend_on_the_order_of_columns(corpus, heard, kind):
    table, emotion = heard[0], corpus.table["emotion"]
    head = FrozenHead(kind).fit(table, emotion)
    proba = head.predict_proba(table)
    assert head.labels == sorted(LABELS) and list(proba.columns) == head.labels and proba.index.equals(table.index)
    assert np.allclose(proba.sum(axis=1), 1) and (proba.idxmax(axis=1).to_numpy() == emotion).mean() > 0.7
    backwards = table[table.columns[::-1]].assign(more=np.nan)
    assert np.array_equal(head.scores(backwards), head.scores(table)), "columns go by name; others are not looked at"
    again = FrozenHead(kind).fit(table, emotion)
    assert np.array_equal(again.scores(table), head.scores(table))


@pytest.mark.parametrize("kind", KINDS)
def test_two_labels_have_two_scores(corpus, heard, kind):
    rows = np.flatnonzero(corpus.table["emotion"].isin(["sad", "angry"]))
    table, emotion = heard[0].iloc[rows], corpus.table["emotion"].iloc[rows]
    head = FrozenHead(kind).fit(table, emotion)
    assert head.labels == ["angry", "sad"] and head.scores(table).shape == (len(rows), 2)
    assert (head.predict_proba(table).idxmax(axis=1).to_numpy() == emotion).mean() > 0.7
    assert np.allclose(head.predict_proba(table).sum(axis=1), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_weigh_classes_alike(kind):
    rng, truth = np.random.default_rng(0), np.repeat(["rare", "usual"], [40, 360])
    table = pd.DataFrame(rng.normal(size=(400, 3)) + np.where(truth == "rare", 1.0, 0.0)[:, None])
    told = FrozenHead(kind).fit(table, truth).predict_proba(table).idxmax(axis=1).to_numpy()
    recalls = [(told[truth == name] == name).mean() for name in ("rare", "usual")]
    assert min(recalls) > 0.7, "the rare one is not given up"


def test_heads_refuse(corpus, heard):
    table, emotion = heard[0], corpus.table["emotion"]
    broken, endless = table.copy(), table.copy()
    broken.iloc[3, 7], endless.iloc[5, 0] = np.nan, np.inf
    with pytest.raises(InputError, match="classifier 'oak' is not known"):
        FrozenHead("oak")
    with pytest.raises(CorpusError, match="a corpus with the one label sad leaves nothing to tell apart"):
        FrozenHead().fit(table, ["sad"] * len(table))
    for wrong, name in ((broken, table.index[3]), (endless, table.index[5])):
        with pytest.raises(InputError, match=f"values of {name} are not finite numbers"):
            FrozenHead().fit(wrong, emotion)
    with pytest.raises(InputError, match="a table without clips leaves nothing"):
        FrozenHead().fit(table.iloc[:0], [])
    head = FrozenHead().fit(table, emotion)
    with pytest.raises(InputError, match=f"values of {table.index[3]} are not finite"):
        head.predict_proba(broken)
    with pytest.raises(InputError, match="column 1.mean.000 is missing, with 2 more; embed with"):
        head.scores(table.iloc[:, 3:])
    with pytest.raises(InputError, match="without clips"):
        head.scores(table.iloc[:0])
    with pytest.raises(InputError, match="is no share"):
        FrozenHead("discriminant", 0).fit(table, emotion)


def test_head_refuses_labels_that_are_not_one_a_clip(corpus, heard):
    for wrong in (corpus.table["emotion"][:-1], [*corpus.table["emotion"], "sad"]):
        with pytest.raises(InputError, match=f"{len(wrong)} labels do not fit {len(corpus)} clips"):
            FrozenHead().fit(heard[0], wrong)


def test_softmax_is_safe():
    found = softmax(np.array([[1e4, 0.0], [-1e4, -1e4], [0.0, np.log(3)]]))
    assert np.allclose(found, [[1, 0], [0.5, 0.5], [0.25, 0.75]])


def test_linear_is_the_head_without_standardisation(corpus, heard):
    for kind in ("discriminant", "logistic"):
        head = FrozenHead(kind).fit(heard[0], corpus.table["emotion"])
        proba = Linear.of(head, 2.0).proba(heard[0].to_numpy())
        assert np.allclose(proba, softmax(head.scores(heard[0]) / 2.0), atol=1e-4)
    with pytest.raises(InputError, match="a support vector machine has no weights"):
        Linear.of(FrozenHead("svm").fit(heard[0], corpus.table["emotion"]))
    two = np.where(corpus.table["emotion"] == "sad", "sad", "other")
    with pytest.raises(InputError, match="a head of two labels"):
        Linear.of(FrozenHead("logistic").fit(heard[0], two))


# ------------------------------------------------------------------------------------------------ hearing


def test_default_layers():
    class Sized:
        def __init__(self, layers):
            self.layers = layers

    found = {count: default_layers(Sized(count)) for count in (1, 2, 3, 6, 12, 24)}
    assert [(layers[0], layers[-1]) for layers in found.values()] == [(1, 1), (1, 1), (1, 2), (1, 4), (1, 8), (1, 16)]


@each_family
def test_hear_in_the_order_of_the_corpus(corpus, encoders, kind):
    few = corpus.subset([40, 3, 11])
    plain, slow = hear(few, encoders[kind], speeds=(1.0, 0.9))
    assert list(plain.index) == list(few.table["file"]) and list(slow.index) == list(plain.index)
    assert list(plain.columns[[0, -1]]) == ["1.mean.000", "2.std.031"] and plain.shape == (3, 2 * 2 * 32)
    assert np.abs(plain - slow).to_numpy().max() > 0.01
    again = hear(corpus, encoders[kind], [2])[0].iloc[[40, 3, 11]]
    assert np.allclose(again, plain[again.columns], atol=1e-4)


def test_hear_refuses(corpus, encoders):
    for speeds in ((), (0.9, 1.0), (0.9,)):
        with pytest.raises(InputError, match="do not begin with 1"):
            hear(corpus, encoders["wav2vec2"], speeds=speeds)
    with pytest.raises(InputError, match="speed 3"):
        hear(corpus, encoders["wav2vec2"], speeds=(1.0, 3))
    with pytest.raises(InputError, match="layer 9"):
        hear(corpus, encoders["wav2vec2"], [1, 9])
    with pytest.raises(InputError, match="layers="):
        hear(corpus, encoders["wav2vec2"], [])


def test_stacked_is_speed_by_speed(heard):
    rows = np.array([5, 2])
    found = stacked(heard, rows).to_numpy()
    assert np.array_equal(found, np.concatenate([heard[0].to_numpy()[rows], heard[1].to_numpy()[rows]]))


# ------------------------------------------------------------------------------------------------ folds


@pytest.fixture
def watched(corpus):
    "Tables that hold the number of each clip, and a head that writes down which it has seen."
    fits = []

    class Watching(FrozenHead):
        def fit(self, table, emotions):
            fits.append((table["row"].to_numpy().astype(int), np.asarray(emotions)))
            return super().fit(table, emotions)

    noise = np.random.default_rng(0).normal(size=(2, len(corpus), 3))
    tables = [pd.DataFrame(noise[k]).add_prefix("x").assign(row=np.arange(float(len(corpus)))) for k in range(2)]
    return tables, Watching, fits


@pytest.mark.parametrize("protocol", ["speakers5", "leave-one-speaker-out"])
@pytest.mark.parametrize("calibrate", [False, True])
def test_each_clip_is_tested_once_by_a_head_that_never_heard_its_speaker(corpus, watched, protocol, calibrate):
    tables, make, fits = watched
    found = cross_validate_heads(make, tables, corpus, protocol, "toy", calibrate)
    parts = folds(corpus, protocol)
    assert sorted(found["file"]) == sorted(corpus.table["file"]) and set(found["protocol"]) == {protocol}
    truth = corpus.table.set_index("file")["emotion"]
    assert (found["truth"].to_numpy() == truth[found["file"]].to_numpy()).all()
    assert np.allclose(found[list(LABELS)].sum(axis=1), 1)
    assert (found["predicted"] == found[list(LABELS)].idxmax(axis=1)).all() and set(found["system"]) == {"toy"}
    emotion, speaker = corpus.table["emotion"].to_numpy(), corpus.table["speaker"].to_numpy()
    for fold in parts:
        each = 1 + min(6, len(set(speaker[fold.train]))) if calibrate else 1
        mine, fits = fits[:each], fits[each:]
        assert sorted(mine[0][0]) == sorted([*fold.train, *fold.train]), "every training clip at both speeds"
        for rows, told in mine:
            assert not set(speaker[rows]) & set(speaker[fold.test]) and (told == emotion[rows]).all()
    assert not fits


@pytest.mark.parametrize("calibrate", [False, True])
def test_labels_of_test_speakers_change_nothing(corpus, heard, calibrate):
    fold = folds(corpus, "speakers5")[2]
    tables = [cross_validate_heads(discriminant(), heard, one, "speakers5", "x", calibrate)
              for one in (corpus, relabelled(corpus, fold.test))]  # fmt: skip
    honest, poisoned = (table[table["fold"] == fold.name] for table in tables)
    assert np.array_equal(honest[list(LABELS)], poisoned[list(LABELS)])
    assert (honest["truth"].to_numpy() != poisoned["truth"].to_numpy()).any()
    others = [table[table["fold"] != fold.name][list(LABELS)].to_numpy() for table in tables]
    assert not np.array_equal(*others), "elsewhere they were learned from"


def test_protocols_that_do_not_apply_are_refused(corpus, heard):
    with pytest.raises(ProtocolError):
        cross_validate_heads(FrozenHead, heard, corpus, "luna5", "x")
    with pytest.raises(InputError, match="protocol 'speaker5' is not known"):
        cross_validate_heads(FrozenHead, heard, corpus, "speaker5", "x")


def test_a_label_that_one_speaker_alone_has(corpus, heard):
    table = corpus.table.copy()
    table.loc[(table["emotion"] == "angry") & (table["speaker"] != "00"), "emotion"] = "sad"
    found = cross_validate_heads(discriminant(), heard, replace(corpus, table=table), "leave-one-speaker-out", "x")
    without = found[found["fold"] == "without-00"]
    assert (without["angry"] == 0).all() and np.allclose(without[list(LABELS)].sum(axis=1), 1)


def test_temperature_where_one_speaker_alone_has_a_label(corpus, heard):
    table = corpus.table.copy()
    table.loc[(table["emotion"] == "angry") & (table["speaker"] != "00"), "emotion"] = "sad"
    odd, rows = replace(corpus, table=table), np.arange(len(corpus))
    assert np.isfinite(temperature_of(discriminant(), heard, odd, rows))
    assert np.isfinite(enrolled_temperature(heard, odd))


# ------------------------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize("true", [0.2, 1.0, 30.0])
def test_best_temperature_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    assert best_temperature(logits * true, truth) == pytest.approx(true, rel=0.1)


def test_temperature_never_looks_at_other_clips(corpus, heard):
    fold = folds(corpus, "speakers5")[1]
    found = temperature_of(discriminant(), heard, corpus, fold.train)
    blinded = [table.copy() for table in heard]
    for table in blinded:
        table.iloc[fold.test] = np.nan  # which no head would take
    assert temperature_of(discriminant(), blinded, relabelled(corpus, fold.test), fold.train) == found
    assert temperature_of(discriminant(), heard, relabelled(corpus, fold.train), fold.train) != found


@pytest.mark.parametrize("count, parts", [(2, 2), (3, 3), (4, 4), (9, 6), (24, 6)])
def test_speaker_parts_judge_everybody_once(count, parts):
    speakers = np.random.default_rng(0).permutation(np.repeat([f"{k:02d}" for k in range(count)], 3))
    dealt = list(speaker_parts(speakers))
    assert len(dealt) == parts
    assert sorted(np.concatenate([judged for _, judged in dealt])) == list(range(len(speakers)))
    for fit, judged in dealt:
        assert not set(speakers[fit]) & set(speakers[judged]) and len(fit) + len(judged) == len(speakers)


def test_speaker_parts_need_two():
    with pytest.raises(CorpusError, match="clips of the speaker 07 alone cannot be divided by speaker"):
        list(speaker_parts(["07"] * 5))


# ------------------------------------------------------------------------------------------------ enrolment


def test_usual_is_of_speakers_and_not_between_them():
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(20), 50)
    values = rng.normal(0, [1, 3], size=(1000, 2)) + rng.normal(0, 100, (20, 1))[who]
    usual = Usual.of(values, who)
    assert np.allclose(usual.spread, [1, 3], rtol=0.1) and np.allclose(usual.mean, values.mean(0))


def test_relative_is_between_nothing_known_and_all_known():
    rng = np.random.default_rng(0)
    usual = Usual(np.array([1.0, 2.0]), np.array([2.0, 0.5]))
    values, own = rng.normal(size=(4, 2)), rng.normal(5, 3, size=(8, 2))
    mean = (own.sum(0) + PRIOR * usual.mean) / (8 + PRIOR)
    power = (8 * own.var(0) + PRIOR_SPREAD * usual.spread**2) / (8 + PRIOR_SPREAD)
    assert np.allclose(usual.relative(values, own), (values - mean) / np.sqrt(power))
    many = np.tile(own, (10_000, 1))
    assert np.allclose(usual.relative(values, many), (values - own.mean(0)) / own.std(0), atol=1e-2)
    assert np.allclose(usual.relative(values, own), usual.relative(values, own[::-1])), "in any order"


def test_enrolling_at_random_keeps_to_each_speaker(heard, corpus):
    table, speaker = heard[0], corpus.table["speaker"].to_numpy()
    usual = Usual.of(table.to_numpy(), speaker)
    one = enrol_at_random(table, speaker, usual, np.random.default_rng(3))
    assert one.index.equals(table.index) and one.columns.equals(table.columns) and np.isfinite(one.to_numpy()).all()
    assert one.equals(enrol_at_random(table, speaker, usual, np.random.default_rng(3)))
    other = table.copy()
    other[speaker != "02"] += 100
    again = enrol_at_random(other, speaker, usual, np.random.default_rng(3))
    assert np.array_equal(again[speaker == "02"], one[speaker == "02"])
    everybody = enrol_at_random(table, speaker, usual, np.random.default_rng(0), 1000)
    mine = table[speaker == "01"].to_numpy()
    assert np.allclose(everybody[speaker == "01"], usual.relative(mine, mine), atol=1e-5), "no more than there are"


def test_number_of_clips_that_enrol_at_random(monkeypatch):
    sizes, who = [], np.repeat(["a", "b"], [40, 3])
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(43, 2)))
    usual = Usual.of(table.to_numpy(), who)
    real = Usual.relative
    monkeypatch.setattr(Usual, "relative", lambda self, values, own: sizes.append(len(own)) or real(self, values, own))
    for seed in range(200):
        enrol_at_random(table, who, usual, np.random.default_rng(seed))
    assert set(sizes[1::2]) == {3} and min(sizes[::2]) == FEWEST and max(sizes[::2]) == 40


def test_fit_enrolled_looks_at_training_clips_alone(corpus, heard):
    fold = folds(corpus, "speakers5")[0]
    blinded = [table.copy() for table in heard]
    for table in blinded:
        table.iloc[fold.test] = np.nan
    one, usual = fit_enrolled(heard, corpus, fold.train, np.random.default_rng(0))
    two, again = fit_enrolled(blinded, relabelled(corpus, fold.test), fold.train, np.random.default_rng(0))
    assert np.array_equal(one.estimator.coef_, two.estimator.coef_) and np.array_equal(usual.mean, again.mean)
    assert one.labels == sorted(LABELS) and np.array_equal(usual.spread, again.spread)


def test_curve_judges_no_clip_that_enrolled(corpus, heard, monkeypatch):
    uses, real = [], Usual.relative

    def watching(self, values, own):
        uses.append((values.copy(), own.copy()))
        return real(self, values, own)

    monkeypatch.setattr(wav2vec2.Usual, "relative", watching)

    def warming(*args, **how):
        warmth = enrolled_temperature(*args, **how)
        uses.clear()  # what follows is the judging of the fold
        return warmth

    monkeypatch.setattr(wav2vec2, "enrolled_temperature", warming)
    found = enrolment_curve(heard, corpus, "leave-one-speaker-out", [0, 3, 5, "all"], draws=2)
    judged = found.groupby(["count", "draw"]).size()
    assert judged.to_dict() == {("0", 0): 72, ("3", 0): 54, ("3", 1): 54, ("5", 0): 42, ("5", 1): 42, ("all", 0): 72}
    assert np.allclose(found[list(LABELS)].sum(axis=1), 1) and (found[list(LABELS)].idxmax(axis=1) == found.predicted).all()
    assert len(uses) == 5, "of the last fold: two draws of three, two of five, and all"
    rows = lambda values: {tuple(row) for row in values}
    for values, own in uses[:-1]:
        assert not rows(values) & rows(own) and len(rows(values) | rows(own)) == 12
    assert [len(own) for _, own in uses] == [3, 3, 5, 5, 12] and rows(uses[-1][0]) == rows(uses[-1][1])
    assert rows(uses[0][1]) != rows(uses[1][1])


def test_curve_begins_with_the_plain_head(corpus, heard):
    curve = enrolment_curve(heard, corpus, "speakers5", [0, 100])
    plain = cross_validate_heads(discriminant(), heard, corpus, "speakers5", "x")
    nobody = curve[curve["count"] == "0"]
    for speaker in corpus.speakers:
        columns = ["truth", "predicted"]
        assert np.array_equal(nobody[nobody.speaker == speaker][columns], plain[plain.speaker == speaker][columns])
    most = curve[curve["count"] == "100"]
    assert (most.groupby(["speaker", "draw"]).size() == 1).all(), "of a speaker's clips one is left to be judged"


def test_curve_is_repeatable_and_blind_to_test_labels(corpus, heard):
    fold = folds(corpus, "speakers5")[3]
    one, two, other = (
        enrolment_curve(heard, *how) for how in (
            (corpus, "speakers5", [5, "all"], 2), (relabelled(corpus, fold.test), "speakers5", [5, "all"], 2),
            (corpus, "speakers5", [5, "all"], 2, 1),
        )
    )  # fmt: skip
    mine = lambda table: table[table["fold"] == fold.name][["predicted", *LABELS]].to_numpy()
    assert np.array_equal(mine(one), mine(two))
    assert one.equals(enrolment_curve(heard, corpus, "speakers5", [5, "all"], 2)) and not one.equals(other)


# ------------------------------------------------------------------------------------------------ a model that is kept


@each_family
def test_saved_and_loaded_bit_for_bit(corpus, home, encoders, sounds, tmp_path, kind):
    few = corpus.subset(np.arange(0, 72, 2))
    model = train_voice(few, encoders[kind], speeds=(1.0,))
    place = save_voice_model(model, tmp_path / "head")
    assert sorted(path.name for path in place.iterdir()) == ["README.md", "config.json", SEAL, "head.safetensors"]
    again = load_voice_model(place, "cpu")
    vectors, same = model.vectors(sounds), again.vectors(sounds)
    assert np.array_equal(vectors, same) and vectors.dtype == np.float32
    assert np.array_equal(model.proba(vectors), again.proba(vectors))
    assert np.array_equal(model.proba(vectors, vectors), again.proba(vectors, vectors))
    assert (again.labels, again.layers, again.card) == (model.labels, model.layers, model.card) and again.enrols
    assert np.allclose(vectors, hear(corpus, encoders[kind])[0].to_numpy()[:10], atol=1e-4), "as it was trained"


def test_trained_twice_is_the_same_bytes(corpus, encoders, kept, tmp_path):
    before = fingerprint(encoders["wav2vec2"])
    again = save_voice_model(train_voice(corpus, encoders["wav2vec2"], speeds=(1.0, 0.9)), tmp_path / "again")
    for path in kept.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    assert fingerprint(encoders["wav2vec2"]) == before == encoders["wav2vec2"].digest


def test_cards(model, corpus, tmp_path):
    assert model.card["clips"] == 72 and model.card["speakers"] == 6 and model.card["digest"] == corpus.digest()
    assert model.card["synthetic"] is True and "no figure can be measured" in model.card["limits"]
    place = save_voice_model(model, tmp_path / "plain")
    assert (place / "README.md").read_text(encoding="utf-8").startswith("# SYNTHETIC")
    place = save_voice_model(model, tmp_path / "own", "# Ours\n")
    assert (place / "README.md").read_text(encoding="utf-8") == "# Ours\n"


def test_model_without_enrolment(model, tmp_path, sounds, encoders):
    plain = VoiceModel(model.encoder, model.layers, model.labels, model.stranger)
    again = load_voice_model(save_voice_model(plain, tmp_path / "plain"), encoder=encoders["wav2vec2"])
    vectors = model.vectors(sounds)
    assert not again.enrols and np.array_equal(again.proba(vectors, vectors), model.proba(vectors))


def test_layers_of_any_whole_numbers_can_be_saved(corpus, encoders, tmp_path):
    model = train_voice(corpus.subset(np.arange(0, 72, 2)), encoders["wav2vec2"], np.array([3, 1]), speeds=(1.0,))
    again = load_voice_model(save_voice_model(model, tmp_path / "head"), encoder=encoders["wav2vec2"])
    assert again.layers == [3, 1]


def test_few_own_clips_are_not_used(model, sounds):
    vectors = model.vectors(sounds)
    plain = model.proba(vectors)
    for count in range(FEWEST):
        assert np.array_equal(model.proba(vectors, vectors[:count]), plain)
    enough = model.proba(vectors, vectors[:FEWEST])
    assert not np.allclose(enough, plain) and np.allclose(enough.sum(axis=1), 1)
    assert model.proba(vectors[:0]).shape == (0, 4) and model.vectors([]).shape == (0, vectors.shape[1])


def test_vectors_of_another_model_are_refused(model, sounds):
    vectors = model.vectors(sounds[:6])
    for wrong in (vectors[:, 1:], vectors[0]):
        with pytest.raises(InputError, match="use this model's own `vectors`"):
            model.proba(wrong)
    with pytest.raises(InputError, match="use this model's own `vectors`"):
        model.proba(vectors, vectors[:, 1:])


@each_family
def test_short_and_long_clips(corpus, encoders, kind):
    stranger = Linear(np.zeros((4, 128), np.float32), np.zeros(4, np.float32))
    model = VoiceModel(encoders[kind], [1, 2], list(LABELS), stranger)
    long = utterance(0, 0, 0, 31)
    assert np.isfinite(model.vectors([utterance(0, 0, 0, 0.2), utterance(1, 1, 0, 1.0)])).all()
    if kind == "whisper":
        with pytest.raises(InputError, match="s long, and this encoder takes 30 s at most"):
            model.vectors([long])
    with pytest.raises(InputError, match="finite samples of one channel"):
        model.vectors([np.full(RATE, np.nan, np.float32)])


def test_corpora_that_are_too_small(corpus, encoders):
    encoder, table = encoders["wav2vec2"], corpus.table
    with pytest.raises(CorpusError, match="speaker 00 alone cannot be divided"):
        train_voice(corpus.subset((table["speaker"] == "00").to_numpy()), encoder, speeds=(1.0,))
    with pytest.raises(CorpusError, match="nothing to tell apart"):
        train_voice(corpus.subset((table["emotion"] == "sad").to_numpy()), encoder, speeds=(1.0,))
    with pytest.raises(InputError, match="three labels or more"):
        train_voice(corpus.subset(table["emotion"].isin(["sad", "angry"]).to_numpy()), encoder, speeds=(1.0,))


# ------------------------------------------------------------------------------------------------ what is refused


def with_config(folder, **changes):
    "A folder whose config was changed and whose list was written again, as one who means it would."
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}), encoding="utf-8")
    (folder / SEAL).unlink()
    seal(folder)
    return folder


def test_head_of_another_encoder_is_refused(kept, home, encoders, tmp_path):
    stranger = load_encoder(tiny_checkpoint("wav2vec2", tmp_path / "stranger", seed=1), "cpu")
    for other in (encoders["hubert"], encoders["whisper"], stranger):
        with pytest.raises(InputError, match="head head was trained on another encoder .*load that encoder, or train"):
            load_voice_model(kept, encoder=other)
    named = {"name": str(home / "hubert"), "digest": encoders["wav2vec2"].digest}
    with pytest.raises(InputError, match="was trained on another encoder"):
        load_voice_model(with_config(kept, encoder=named))


@pytest.mark.parametrize("changes", [
    {"labels": ["angry", "happy"]}, {"labels": [*LABELS, "calm"]}, {"layers": [1]}, {"layers": [1, 2, 3]},
])  # fmt: skip
def test_head_of_other_labels_or_shape_is_refused(kept, encoders, changes):
    with pytest.raises(InputError, match="tensor enrolled.weight|tensor stranger.weight"):
        load_voice_model(with_config(kept, **changes), encoder=encoders["wav2vec2"])


@pytest.mark.parametrize("name", ["head.safetensors", "config.json", "README.md", SEAL])
def test_changed_and_missing_files_are_refused(kept, encoders, name):
    path = kept / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\0" + whole[-1:])
    with pytest.raises(InputError, match=name.replace(".", r"\.") + "|list"):
        load_voice_model(kept, encoder=encoders["wav2vec2"])
    path.unlink()
    if name != SEAL:
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_voice_model(kept, encoder=encoders["wav2vec2"])


def test_changed_head_is_refused_without_a_list_too(kept, encoders):
    (kept / SEAL).unlink()
    load_voice_model(kept, encoder=encoders["wav2vec2"])
    whole = bytearray((kept / "head.safetensors").read_bytes())
    whole[-1] ^= 1
    (kept / "head.safetensors").write_bytes(whole)
    with pytest.raises(InputError, match="head.safetensors is missing or was changed after it was saved"):
        load_voice_model(kept, encoder=encoders["wav2vec2"])


def test_head_of_other_bytes_whose_digest_was_changed_with_them(kept, encoders):
    (kept / "head.safetensors").write_bytes(b"other bytes, and enough of them")
    with pytest.raises(InputError, match="head.safetensors cannot be read as safetensors"):
        load_voice_model(
            with_config(kept, sha256=file_digest(kept / "head.safetensors")), encoder=encoders["wav2vec2"]
        )


@pytest.mark.parametrize("changes", [
    {"type": "a neighbour"}, {"type": ...}, {"labels": ...}, {"labels": 3}, {"labels": list("aabc")}, {"encoder": ...},
    {"encoder": "wav2vec2"}, {"encoder": {}}, {"encoder": []}, {"layers": ...}, {"layers": 2}, {"layers": [1, 99]},
    {"layers": [1, 1]}, {"layers": ["1", "2"]}, {"temperatures": ...}, {"temperatures": []}, {"temperatures": [1.0]},
    {"temperatures": ["warm", 1]}, {"temperatures": [0, 1]}, {"temperatures": [1, float("nan")]}, {"sha256": ...},
    {"sha256": "0" * 64}, {"card": "a card"},
])  # fmt: skip
def test_broken_configs_are_refused(kept, encoders, changes):
    with pytest.raises(InputError):
        load_voice_model(with_config(kept, **changes), encoder=encoders["wav2vec2"])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"'])
def test_configs_that_are_none_are_refused(kept, encoders, text):
    (kept / SEAL).unlink()
    (kept / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="config.json"):
        load_voice_model(kept, encoder=encoders["wav2vec2"])


@pytest.mark.parametrize("lost", ["stranger.weight", "stranger.bias", "enrolled.bias", "usual.mean", "usual.spread"])
@pytest.mark.parametrize("how", ["missing", "shape", "nan"])
def test_heads_with_parts_that_do_not_fit_are_refused(kept, encoders, lost, how):
    tensors = safetensors.load_file(kept / "head.safetensors")
    part = tensors.pop(lost)
    if how != "missing":
        tensors[lost] = part[..., :-1].copy() if how == "shape" else np.full_like(part, np.nan)
    safetensors.save_file(tensors, kept / "head.safetensors")
    with pytest.raises(InputError, match=f"tensor {lost}"):
        load_voice_model(with_config(kept, sha256=file_digest(kept / "head.safetensors")), encoder=encoders["wav2vec2"])


def test_pickles_are_refused(kept, encoders):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    bomb, encoder = pickle.dumps(Trap()), encoders["wav2vec2"]
    (kept / SEAL).unlink()
    (kept / "head.safetensors").write_bytes(bomb)
    for name in ("config", "no config"):
        with pytest.raises(InputError, match="is a pickle|changed"):
            load_voice_model(kept, encoder=encoder)
        path = kept / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"sha256": file_digest(kept / "head.safetensors")}
        path.write_text(json.dumps(config), encoding="utf-8")
    (kept / "head.safetensors").unlink()
    (kept / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(InputError, match="pickle"):
        load_voice_model(kept, encoder=encoder)


def test_pickle_beside_a_good_head_is_refused_or_left_alone(kept, encoders, sounds):
    (kept / "extra.pkl").write_bytes(pickle.dumps([1]))
    again = load_voice_model(kept, encoder=encoders["wav2vec2"])
    assert np.isfinite(again.proba(again.vectors(sounds))).all(), "what is not named is not looked at"
    with pytest.raises(InputError, match="is a pickle"):
        seal(kept)


def test_forests_and_other_folders_are_refused(tmp_path, home, kept):
    from mtep.emotion.forest import Forest, save_forest

    table = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 3)), columns=list("abc"))
    forest = save_forest(Forest(trees=3).fit(table, ["sad", "happy"] * 6), tmp_path / "forest")
    for folder in (forest, home / "wav2vec2", tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError):
            load_voice_model(folder)
    assert type(Emotion.load(forest).model).__name__ == "ForestVoice"


def test_missing_encoders(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    known = json.loads((kept / "config.json").read_text(encoding="utf-8"))["encoder"]
    with pytest.raises(OfflineError, match="mtep models get somebody/encoder"):
        load_voice_model(with_config(kept, encoder=known | {"name": "somebody/encoder"}))
    with pytest.raises(InputError, match="gone"):
        load_voice_model(with_config(kept, encoder=known | {"name": str(tmp_path / "gone")}))


def test_nothing_is_left_of_a_model_that_cannot_be_written(model, tmp_path, monkeypatch):
    def full(*args):
        raise StorageError("disk", "is full", "free some space")

    for writes in ("write_bytes", "write_json", "write_text"):
        with monkeypatch.context() as patch, pytest.raises(StorageError):
            patch.setattr(wav2vec2, writes, full)
            save_voice_model(model, tmp_path / "head")
        assert not list(tmp_path.iterdir())
    whole = {path.name: path.read_bytes() for path in save_voice_model(model, tmp_path / "head").iterdir()}
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(wav2vec2, "write_text", full)
        save_voice_model(model, tmp_path / "head", "another card")
    assert {path.name: path.read_bytes() for path in (tmp_path / "head").iterdir()} == whole, "the one before is left"


# ------------------------------------------------------------------------------------------------ networks


@pytest.fixture(scope="module")
def prepared(encoders, corpus):
    "Six clips of different lengths, prepared, by family."
    return {kind: [read_clip(path, encoders[kind]) for path in corpus.paths[:6]] for kind in FAMILIES}


@pytest.fixture(scope="module")
def states(corpus, encoders):
    "States of layers 1 and 2 at two speeds, by family."
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = hear(corpus, encoders[kind], [1, 2], (1.0, 0.9))
        return made[kind]

    return get


@each_family
@pytest.mark.parametrize("tuned", [False, True])
def test_alone_and_in_a_batch(encoders, prepared, corpus, states, kind, tuned):
    rows = np.arange(len(corpus))
    net = first_net(corpus, rows, encoders[kind], [1, 2], states(kind) if tuned else ()).eval()
    if not tuned:
        torch.nn.init.normal_(net.head.layer_weights)
    with torch.no_grad():
        together = net(prepared[kind])
        alone = torch.cat([net([clip]) for clip in prepared[kind]])
    assert net.tuned == tuned and together.shape == (6, 4) and torch.allclose(together, alone, atol=1e-3)


def test_attention_never_looks_at_padding():
    torch.manual_seed(0)
    head, frames = AttentiveHead(2, 8, 3).eval(), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    weights = head.attention(frames, mask)
    assert torch.allclose(weights.sum(1), torch.ones(2)) and (weights[1, 3:] == 0).all() and (weights[mask] > 0).all()
    other = frames.clone()
    other[1, 3:] = 1e6
    with torch.no_grad():
        assert torch.allclose(head([frames] * 2, mask), head([other] * 2, mask), atol=1e-5)


def test_slopes_are_numbers_where_all_frames_are_alike(corpus, states):
    torch.manual_seed(0)
    mask = torch.ones(2, 5, dtype=torch.bool)
    probe = ProbeHead(FrozenHead().fit(states("wav2vec2")[0], corpus.table["emotion"]), [1, 2])
    for head, width in ((AttentiveHead(3, 32, 4), 32), (probe, 32)):
        frames = torch.zeros(2, 5, width, requires_grad=True)
        head([frames] * 3, mask).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in head.parameters()) and torch.isfinite(frames.grad).all()


@each_family
def test_a_tuned_network_begins_as_its_discriminant(corpus, encoders, states, prepared, kind):
    rows, heard = folds(corpus, "speakers5")[0].train, states(kind)
    net = first_net(corpus, rows, encoders[kind], [1, 2], heard, 0.3).eval()
    head = discriminant(0.3)().fit(stacked(heard, rows), np.tile(corpus.table["emotion"].to_numpy()[rows], 2))
    proba = softmax(head.scores(heard[0].iloc[:6]) / temperature_of(discriminant(0.3), heard, corpus, rows))
    with torch.no_grad():
        told = torch.softmax(net(prepared[kind]), 1).numpy()
    wanted = pd.DataFrame(proba, columns=head.labels)[list(corpus.labels)]
    assert np.allclose(told, wanted, atol=1e-3), "in the corpus's order of labels"


def test_a_network_begins_the_same_whatever_the_test_speakers_say(corpus, encoders, states):
    fold, heard = folds(corpus, "speakers5")[0], states("wav2vec2")
    blinded = [table.copy() for table in heard]
    for table in blinded:
        table.iloc[fold.test] = np.nan
    one = first_net(corpus, fold.train, encoders["wav2vec2"], [1, 2], heard)
    two = first_net(relabelled(corpus, fold.test), fold.train, encoders["wav2vec2"], [1, 2], blinded)
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_training_set_without_a_label_cannot_begin(corpus, encoders, states):
    rows = np.flatnonzero(corpus.table["emotion"] != "sad")
    with pytest.raises(CorpusError, match="has only the labels angry, happy, neutral"):
        first_net(corpus, rows, encoders["wav2vec2"], [1, 2], states("wav2vec2"))


@each_family
def test_what_may_learn(encoders, prepared, kind):
    before = [p.requires_grad for p in encoders[kind].module.parameters()]
    net = VoiceNet(encoders[kind], 2, 4)
    names = block_names(net)
    assert len(names) == 2 and names[0].endswith("layers.0") and names[1].endswith("layers.1")
    may = {name for name, p in net.named_parameters() if p.requires_grad}
    assert may and all(name.startswith(("head.", *(f"{block}." for block in names))) for name in may)
    frozen = VoiceNet(encoders[kind], 2, 4, tuned=False)
    assert {name.split(".")[0] for name, p in frozen.named_parameters() if p.requires_grad} == {"head"}
    net(prepared[kind]).sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is not None} == may, "and all of it is reached"
    assert [p.requires_grad for p in encoders[kind].module.parameters()] == before, "the one given stays as it was"


def test_plans(encoders):
    net = VoiceNet(encoders["wav2vec2"], 3, 4)
    table = parameter_table(net, tuning_plan(net, epochs=5, rate=1e-4, step=2))
    bottom, middle, top = (table[table.index.str.startswith(name + ".")] for name in block_names(net))
    assert [part.rate.unique().tolist() for part in (bottom, middle, top)] == [[1e-4]] * 3
    assert [part.from_epoch.unique().tolist() for part in (bottom, middle, top)] == [[4], [2], [0]]
    assert table.rate["head.layer_weights"] == 1e-2 and table.rate["head.out.weight"] == 1e-3
    assert (table.rate[table.index.str.contains("conv_layers|feature_projection|pos_conv")] == 0).all()
    late = parameter_table(net, tuning_plan(net, epochs=2, step=3))
    assert late.from_epoch.max() == 1, "every layer learns in the last epoch at the latest"
    at_once = parameter_table(net, tuning_plan(net, step=0))
    assert at_once.from_epoch.max() == 0
    frozen = VoiceNet(encoders["wav2vec2"], 3, 4, tuned=False)
    table = parameter_table(frozen, tuning_plan(frozen))
    assert (table.rate[~table.index.str.startswith("head.")] == 0).all()
    assert tuning_plan(net, patience=2, smoothing=0.0, class_weights=False).patience == 2
    with pytest.raises(InputError, match="epochs=0"):
        tuning_plan(net, epochs=0)


HOW = {"epochs": 2, "batch": 16, "rate": 1e-3, "precision": "no", "device": "cpu", "speeds": (1.0, 0.9)}


@pytest.fixture(scope="module")
def train(corpus, encoders, states):
    "Train on the first fold, unless told otherwise."

    def run(kind, tuned=True, rows=None, which=None, layers=(1, 2), **how):
        rows = folds(corpus, "speakers5")[0].train if rows is None else rows
        heard = states(kind) if tuned else ()
        return train_net(which or corpus, rows, encoders[kind], list(layers), heard, **HOW | how)

    return run


@pytest.fixture(scope="module")
def taught(train):
    "Networks by family, trained once."
    made = {}

    def get(kind, tuned=True):
        if (kind, tuned) not in made:
            made[kind, tuned] = train(kind, tuned)
        return made[kind, tuned]

    return get


def same(one, two):
    return all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


def moved_in(net, encoder):
    "Names of the encoder's tensors that are not what they were."
    now = net.encoder.state_dict()
    return {name for name, tensor in encoder.module.state_dict().items() if not torch.equal(tensor, now[name])}


def inside(net, encoder):
    "Names of the tensors of the layers that may learn."
    blocks = tuple(f"{name.removeprefix('encoder.')}." for name in block_names(net))
    return {name for name in encoder.module.state_dict() if name.startswith(blocks)}


@each_family
@pytest.mark.parametrize("tuned", [False, True])
def test_frozen_parts_stand_still_and_tuned_layers_move(encoders, train, kind, tuned):
    before = fingerprint(encoders[kind])
    net, history = train(kind, tuned, apart=0)
    assert fingerprint(encoders[kind]) == before and len(history.table) == 2
    moved, may = moved_in(net, encoders[kind]), inside(net, encoders[kind])
    assert moved == (may if tuned else set()), "two layers of three, and nothing below or above them"
    assert tuned or (net.head.layer_weights != 0).any()


def test_statistics_of_frozen_parts_stand_still_too(corpus, tmp_path):
    encoder = load_encoder(tiny_checkpoint("hubert", tmp_path / "hubert", conv_pos_batch_norm=True), "cpu")
    heard = hear(corpus, encoder, [1])
    net, _ = train_net(corpus, folds(corpus, "speakers5")[0].train, encoder, [1], heard, **HOW | {"epochs": 1})
    moved = moved_in(net, encoder)
    assert moved and moved <= inside(net, encoder), moved


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
@pytest.mark.parametrize("tuned", [False, True])
def test_trained_twice_is_the_same_network(train, taught, kind, tuned):
    net, history = taught(kind, tuned)
    torch.manual_seed(99)
    np.random.seed(99)
    again, other = train(kind, tuned)
    assert same(net, again)
    pd.testing.assert_frame_equal(history.table.drop(columns="seconds"), other.table.drop(columns="seconds"))
    assert not same(net, train(kind, tuned, seed=1)[0])


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
@pytest.mark.parametrize("after", [10, 70])
def test_interrupted_training_goes_on(train, taught, tmp_path, monkeypatch, kind, after):
    whole, history = taught(kind)
    count = iter(range(10_000))

    def stopping(*how):
        if next(count) == after:
            raise KeyboardInterrupt
        return read_clip(*how)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(wav2vec2, "read_clip", stopping)
        train(kind, folder=tmp_path / "fold")
    torch.manual_seed(99)
    net, again = train(kind, folder=tmp_path / "fold")
    assert [start["from_epoch"] for start in again.starts] == [0, 0 if after == 10 else 1]
    assert same(whole, net) and again.best == history.best
    pd.testing.assert_frame_equal(history.table.drop(columns="seconds"), again.table.drop(columns="seconds"))
    with monkeypatch.context() as patch:
        patch.setattr(wav2vec2, "read_clip", lambda *how: pytest.fail("what is over is not trained again"))
        assert same(whole, train(kind, folder=tmp_path / "fold")[0])


def test_checkpoints_of_other_trainings_are_refused(corpus, train, tmp_path):
    rows, how = folds(corpus, "speakers5")[0].train, {"folder": tmp_path / "fold", "epochs": 1}
    train("wav2vec2", False, **how)
    for other in (
        {"kind": "hubert"}, {"tuned": True}, {"rows": rows[:-5]}, {"layers": [1]}, {"which": relabelled(corpus, rows)},
        {"speeds": (1.0, 1.1)}, {"seed": 1}, {"rate": 1e-4, "tuned": True}, {"apart": 0.4},
    ):  # fmt: skip
        with pytest.raises(MtepError, match="belongs to another training"):
            train(**{"kind": "wav2vec2", "tuned": False} | how | other)


@pytest.mark.parametrize("apart", [0.2, 0.5, 0])
def test_speakers_that_are_set_apart_are_training_speakers(corpus, train, monkeypatch, apart):
    asked, fold, real = {}, folds(corpus, "speakers5")[0], clip_batches

    def asking(corpus, rows, encoder, batch, *training):
        asked["learned" if training else "judged"] = rows
        return real(corpus, rows, encoder, batch, *training)

    monkeypatch.setattr(wav2vec2, "clip_batches", asking)
    _, history = train("wav2vec2", False, epochs=1, apart=apart)
    speaker, judged = corpus.table["speaker"].to_numpy(), asked.get("judged", np.zeros(0, int))
    assert sorted([*judged, *asked["learned"]]) == sorted(fold.train)
    assert not set(speaker[judged]) & set(speaker[asked["learned"]])
    assert ("uar" in history.table) == bool(apart) and len(set(speaker[judged])) == {0.2: 1, 0.5: 2, 0: 0}[apart]


@pytest.mark.parametrize("tuned", [False, True])
def test_test_clips_teach_nothing(corpus, encoders, states, taught, train, tuned):
    fold = folds(corpus, "speakers5")[0]
    heard = [table.copy() for table in states("wav2vec2")] if tuned else []
    for table in heard:
        table.iloc[fold.test] = np.nan
    lost = relabelled(corpus, fold.test)
    net, _ = train_net(lost, fold.train, encoders["wav2vec2"], [1, 2], heard, **HOW)
    assert same(net, taught("wav2vec2", tuned)[0])


# ------------------------------------------------------------------------------------------------ blanking, batches


def test_blank_frames_within_each_clip():
    torch.manual_seed(0)
    mask = torch.arange(60) < torch.tensor([60, 20, 3])[:, None]
    frames, blanked = torch.ones(3, 60, 2), np.zeros(3)
    for _ in range(50):
        found = blank_frames(frames, mask)
        assert (found[~mask] == 1).all(), "what is padding is left alone"
        gone = (found[..., 0] == 0).sum(1).numpy()
        assert (gone <= [12, 4, 0]).all() and (found[..., 0] == found[..., 1]).all()
        blanked += gone
    assert (blanked[:2] > 0).all() and (frames == 1).all(), "a copy"
    assert (blank_frames(frames, mask, 0.0) == 1).all()
    whole = blank_frames(frames, mask, 1.0)
    assert whole.shape == frames.shape


def test_blanking_is_for_training_alone(encoders, prepared):
    net = VoiceNet(encoders["wav2vec2"], 1, 4, tuned=False, head=AttentiveHead(2, 32, 4, dropout=0.0))
    with torch.no_grad():
        assert torch.equal(net.eval()(prepared["wav2vec2"]), net(prepared["wav2vec2"]))
        first = net.train()(prepared["wav2vec2"])
        assert any(not torch.allclose(first, net(prepared["wav2vec2"]), atol=1e-6) for _ in range(5))


def test_frozen_encoders_are_always_at_rest(encoders):
    net = VoiceNet(encoders["wav2vec2"], 2, 4, tuned=False).train()
    assert net.head.training and not any(part.training for part in net.encoder.modules())
    tuned = VoiceNet(encoders["wav2vec2"], 2, 4).train()
    blocks = list(tuned.listener.blocks)
    assert [block.training for block in blocks] == [True, True, False]
    assert not tuned.encoder.feature_extractor.training and not tuned.encoder.feature_projection.training
    assert not any(part.training for part in tuned.eval().modules())


def test_batches_are_read_when_it_is_their_turn(corpus, encoders, monkeypatch):
    read, real = [], read_clip
    monkeypatch.setattr(wav2vec2, "read_clip", lambda path, *how: read.append(path) or real(path, *how))
    rows = np.arange(5, 50)
    several = clip_batches(corpus, rows, encoders["wav2vec2"], 10)
    assert len(several) == 5 and not read
    first = next(iter(several))
    assert len(read) == len(first.inputs) == 9
    seconds = corpus.table["seconds"].to_numpy()
    order = np.concatenate(list(several.groups))
    assert sorted(order) == list(rows) and (np.diff(seconds[order]) >= 0).all() and list(order) != list(rows)
    read.clear()
    for group, batch in zip(several.groups, several, strict=True):
        assert [str(corpus.paths[k]) for k in group] == list(batch.names)
        assert [corpus.labels[k] for k in batch.targets] == corpus.table["emotion"].iloc[group].tolist()
    assert read == [corpus.paths[k] for k in order], "and every time anew"


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
def test_training_batches_hold_every_clip_once_at_speeds_that_are_drawn(corpus, encoders, monkeypatch, kind):
    drawn, real = [], read_clip
    monkeypatch.setattr(wav2vec2, "read_clip", lambda path, to, speed: drawn.append(speed) or real(path, to, speed))
    rows, encoder = np.arange(0, 72, 2), encoders[kind]

    def epoch(seed):
        return list(clip_batches(corpus, rows, encoder, 10, (1.0, 0.9, 1.1), np.random.default_rng(seed)))

    one, two = epoch(0), epoch(0)
    names = [name for batch in one for name in batch.names]
    assert sorted(names) == sorted(str(corpus.paths[k]) for k in rows) and set(drawn) == {1.0, 0.9, 1.1}
    assert drawn[: len(rows)] == drawn[len(rows) :] and names == [name for batch in two for name in batch.names]
    pairs = [pair for x, y in zip(one, two, strict=True) for pair in zip(x.inputs, y.inputs, strict=True)]
    assert all(torch.equal(*pair) for pair in pairs)
    assert names != [name for batch in epoch(1) for name in batch.names]
    emotion = dict(zip(map(str, corpus.paths), corpus.table["emotion"], strict=True))
    for batch in one:
        assert [corpus.labels[k] for k in batch.targets] == [emotion[name] for name in batch.names]
    drawn.clear()
    list(clip_batches(corpus, rows, encoder, 10, (0.9, 1.1)))
    assert set(drawn) == {1.0}, "judged as they are"


def test_clips_that_are_read(encoders, tmp_path):
    write_sound(tmp_path / "blink.wav", utterance(0, 0, 0, 0.2), RATE)
    write_sound(tmp_path / "call.wav", utterance(0, 0, 0, 1.0, 8_000), 8_000)
    write_sound(tmp_path / "off.wav", np.zeros(RATE, np.float32), RATE)
    (tmp_path / "empty.wav").write_bytes(b"")
    for encoder in encoders.values():
        assert encoder.frames(read_clip(tmp_path / "blink.wav", encoder)) >= 5
        call = encoder.frames(read_clip(tmp_path / "call.wav", encoder)) * encoder.hop
        assert call == pytest.approx(1.1, abs=0.15)
        quick = encoder.frames(read_clip(tmp_path / "call.wav", encoder, 1.1)) * encoder.hop
        assert quick == pytest.approx(call / 1.1, abs=0.06)
        for name in ("off.wav", "empty.wav", "nowhere.wav"):
            with pytest.raises(MediaError, match=name):
                read_clip(tmp_path / name, encoder)


@pytest.mark.parametrize("seconds", [29.0, 31.0, 61.0])
def test_of_a_long_clip_the_first_half_minute_is_heard(encoders, tmp_path, seconds):
    write_sound(tmp_path / "talk.wav", utterance(0, 0, 0, seconds), RATE)
    for kind in ("wav2vec2", "whisper"):
        heard = encoders[kind].frames(read_clip(tmp_path / "talk.wav", encoders[kind])) * encoders[kind].hop
        assert heard == pytest.approx(min(30.0, seconds + 0.1), abs=0.1)


# ------------------------------------------------------------------------------------------------ folds of networks


class Ruler(torch.nn.Module):
    "Answers with the length of each clip."

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        lengths = torch.tensor([part.shape[-1] / 1000 for part in inputs])
        return torch.stack([lengths, -lengths, 0 * lengths, lengths / 2], 1)


def test_probabilities_of_networks_go_with_their_clips(corpus, encoders, monkeypatch):
    fits = []

    def train(corpus, rows, *how, **more):
        fits.append((rows, more["folder"]))
        return Ruler(), History(pd.DataFrame({"epoch": [0]}), 0, "at once")

    monkeypatch.setattr(wav2vec2, "train_net", train)
    encoder, corpus = encoders["wav2vec2"], corpus.subset(np.random.default_rng(1).permutation(72))
    found, histories, _ = cross_validate_nets(corpus, encoder, [1], "speakers5", "ruler", "checkpoints")
    parts = folds(corpus, "speakers5")
    assert list(histories) == [fold.name for fold in parts]
    assert all(np.array_equal(rows, fold.train) for (rows, _), fold in zip(fits, parts, strict=True))
    assert len({folder for _, folder in fits}) == 5, "a folder a fold"
    assert sorted(found["file"]) == sorted(corpus.table["file"])
    expected = {
        file: softmax(np.array([[x, -x, 0, x / 2]]))[0]
        for file, path in zip(corpus.table["file"], corpus.paths, strict=True)
        for x in [len(read_clip(path, encoder)) / 1000]
    }
    assert np.allclose(found[list(LABELS)], np.stack([expected[file] for file in found["file"]]), atol=1e-5)
    assert len({round(row[0], 6) for row in expected.values()}) > 60, "so that a swap would show"
    truth = corpus.table.set_index("file")["emotion"]
    assert (found["truth"].to_numpy() == truth[found["file"]].to_numpy()).all()


@pytest.mark.parametrize("tuned", [False, True])
def test_folds_of_networks(corpus, encoders, states, tmp_path, tuned):
    encoder, how = encoders["wav2vec2"], HOW | {"epochs": 1, "heard": states("wav2vec2") if tuned else ()}
    validate = lambda which, folder: cross_validate_nets(which, encoder, [1, 2], "speakers5", "toy", folder, **how)
    found, histories, net = validate(corpus, tmp_path)
    assert sorted(found["file"]) == sorted(corpus.table["file"]) and len(histories) == 5
    last = folds(corpus, "speakers5")[-1]
    several = clip_batches(corpus, last.test, encoder)
    mine = found[found["fold"] == last.name].set_index("file")[list(LABELS)]
    order = corpus.table["file"].iloc[np.concatenate(list(several.groups))]
    assert np.allclose(mine.loc[order], predict(net, several), atol=1e-6)
    assert validate(corpus, tmp_path)[0].equals(found), "from checkpoints"


def test_folds_of_another_corpus_or_plan_begin_in_folders_of_their_own(corpus, encoders, tmp_path):
    where, how = (encoders["wav2vec2"], [1], "speakers5", "toy", tmp_path), HOW | {"epochs": 1}
    validate = lambda which, **more: cross_validate_nets(which, *where, **how | more)
    first = validate(corpus)[0]
    assert len(validate(corpus.subset(np.arange(0, 72, 2)))[0]) == 36
    assert not validate(corpus, epochs=2)[0].equals(first) and validate(corpus)[0].equals(first)


# ------------------------------------------------------------------------------------------------ end to end


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def emotion(request, corpus, encoders, tmp_path_factory):
    "A recogniser from a folder."
    model = train_voice(corpus, encoders[request.param], speeds=(1.0,))
    return Emotion.load(save_voice_model(model, tmp_path_factory.mktemp("model") / "head"), device="cpu")


def test_clips_end_to_end(emotion, corpus):
    found = emotion.predict(corpus)
    assert list(found.table.index) == list(corpus.table["file"]) and tuple(found.labels) == LABELS
    assert np.allclose(found.table.sum(axis=1), 1)
    assert (found.best.to_numpy() == corpus.table["emotion"]).mean() > 0.8, "it has learned from these"
    vectors = emotion.model.vectors([read_sound(path).samples for path in corpus.paths])
    told = pd.DataFrame(emotion.model.proba(vectors), columns=emotion.model.labels)[list(LABELS)]
    assert np.allclose(found.table, told, atol=1e-4)
    assert any("SYNTHETIC" in note for note in found.notes) and any("trained on made" in note for note in found.notes)
    single = emotion.predict(corpus.paths[7], batch=1, jobs=1)
    assert np.allclose(single.table, found.table.iloc[[7]], atol=1e-4), "alone as among others"


def test_four_and_five_own_clips(emotion, corpus):
    mine = np.flatnonzero(corpus.table["speaker"] == "03")
    clip, own = corpus.paths[mine[0]], [corpus.paths[k] for k in mine[1:6]]
    plain = emotion.predict(clip)
    few = emotion.predict(clip, enrol=own[:4])
    assert np.array_equal(few.table, plain.table) and any("4 usable clips, and 5 are needed" in n for n in few.notes)
    enough = emotion.predict(clip, enrol=own)
    assert not np.allclose(enough.table, plain.table) and any(n.startswith("Enrolled: 5 of") for n in enough.notes)
    vectors = emotion.model.vectors([read_sound(path).samples for path in [clip, *own]])
    told = pd.DataFrame(emotion.model.proba(vectors[:1], vectors[1:]), columns=emotion.model.labels)[list(LABELS)]
    assert np.allclose(enough.table, told, atol=1e-4)


def test_windows_of_a_long_recording(emotion, tmp_path):
    quiet = 1e-5 * np.random.default_rng(0).normal(size=4 * RATE).astype(np.float32)
    talk = np.concatenate([utterance(0, 3, 0, 14), quiet, utterance(0, 2, 0, 14)])
    write_sound(tmp_path / "talk.flac", talk, RATE)
    found = emotion.predict(tmp_path / "talk.flac")
    assert len(found.timeline) > 10 and "silence" in set(found.segments.emotion)
    assert np.allclose(found.table.sum(axis=1), 1) and found.segments.end.iloc[-1] == pytest.approx(len(talk) / RATE)
    again = emotion.predict(tmp_path / "talk.flac", windows=30.0)
    assert len(again.timeline) == 2 and np.allclose(again.table.sum(axis=1), 1)
    own = emotion.enrol(tmp_path / "talk.flac")
    assert own.count == 4 and own.vectors is None, "ten seconds count as a clip"


def test_trouble_end_to_end(emotion, tmp_path):
    write_sound(tmp_path / "a_blink.wav", utterance(0, 1, 0, 0.12), RATE)
    write_sound(tmp_path / "b_call.wav", utterance(0, 1, 0, 1.0, 8_000), 8_000)
    write_sound(tmp_path / "c_off.wav", np.zeros(RATE, np.float32), RATE)
    write_sound(tmp_path / "d_click.wav", np.eye(1, RATE, 5_000, dtype=np.float32)[0], RATE)
    write_sound(tmp_path / "e_wink.wav", utterance(0, 1, 0, 0.02), RATE)
    (tmp_path / "f_text.wav").write_text("no sound", encoding="utf-8")
    found = emotion.predict(tmp_path, on_error="skip")
    best = {path.replace("\\", "/").split("/")[-1]: label for path, label in found.best.items()}
    assert list(best) == ["a_blink.wav", "b_call.wav", "c_off.wav", "d_click.wav"] and best["c_off.wav"] == "silence"
    assert {best["a_blink.wav"], best["b_call.wav"], best["d_click.wav"]} <= set(LABELS)
    assert len(found.failed) == 2
    said = " ".join(found.notes)
    assert "shorter than 1 s: unreliable" in said and "recorded at 8000 Hz" in said
    film = Sound(np.zeros(20 * RATE, np.float32), RATE)
    assert emotion.predict({"film": film}).best.iloc[0] == "silence"


def test_fewer_labels(kept, corpus):
    found = Emotion.load(kept, labels={"neutral": "quiet", "sad": "quiet", "happy": "loud", "angry": None}).predict(
        corpus.paths[0]
    )
    assert tuple(found.labels) == ("loud", "quiet") and np.allclose(found.table.sum(axis=1), 1)
    with pytest.raises(InputError, match="needs surprised"):
        Emotion.load(kept, labels="five")


def test_from_the_command_line(kept, corpus, tmp_path):
    from mtep.cli import app

    own = tmp_path / "own"
    for k in range(12, 17):
        write_sound(own / f"{k}.wav", read_sound(corpus.paths[k]).samples, RATE)
    line = ["emotion", str(corpus.paths[0]), str(corpus.paths[20]), "--model", str(kept), "--enrol", str(own), "--json"]
    ended = CliRunner().invoke(app, line)
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["labels"] == list(LABELS) and told["enrolment"] == {"clips": 5, "used": True}
    assert told["card"]["corpus"] == "made" and len(told["clips"]) == 2
    (kept / "head.safetensors").write_bytes(b"other bytes")
    ended = CliRunner().invoke(app, line)
    assert ended.exit_code == 2 and "head.safetensors" in ended.stderr and "Traceback" not in ended.stderr


def test_long_samples_are_cut_before_the_model_sees_them(emotion):
    found = emotion.predict({"long": Sound(utterance(1, 1, 1, 47), RATE)}, windows=29.5)
    assert len(found.timeline) == 3 and np.allclose(found.table.sum(axis=1), 1)


def test_a_relative_path_is_no_name_of_the_hub(kept, monkeypatch):
    monkeypatch.setenv("MTEP_OFFLINE", "1")
    monkeypatch.chdir(kept.parent)
    with pytest.raises(InputError, match="nowhere"):
        load_voice_model(Path("models/nowhere"))
    assert Emotion.load(Path("head")).model.labels == sorted(LABELS)


def test_what_is_freed_is_given_back_wherever_that_can_be(monkeypatch):
    core.give_back()
    for platform in ("win32", "darwin"):
        monkeypatch.setattr(core.sys, "platform", platform)
        core.give_back()
    monkeypatch.setattr(core.sys, "platform", "linux")
    monkeypatch.setattr(core.ctypes, "CDLL", lambda name: object())  # musl has no malloc_trim
    core.give_back()


def test_trimming_is_the_same_everywhere(corpus, encoders):
    samples = read_sound(corpus.paths[2]).samples
    padded = np.concatenate([np.zeros(RATE, np.float32), samples, np.zeros(RATE, np.float32)])
    assert len(trim_silence(padded)) < len(samples) + RATE // 2
    stranger = Linear(np.zeros((4, 128), np.float32), np.zeros(4, np.float32))
    model = VoiceModel(encoders["wav2vec2"], [1, 2], list(LABELS), stranger)
    assert np.allclose(model.vectors([padded]), model.vectors([trim_silence(padded)]), atol=1e-5)
