"""Networks on spectra: company changes nothing, training repeats itself, models are kept whole, and every bad input."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from mtep.core import (  # noqa: E402
    CorpusError,
    ExperimentError,
    InputError,
    Metric,
    MtepError,
    OfflineError,
    PackageError,
    file_digest,
)
from mtep.corpora import Corpus  # noqa: E402
from mtep.emotion import spectrogram  # noqa: E402
from mtep.emotion.spectrogram import (  # noqa: E402
    CHANGES,
    HEARD,
    NETWORKS,
    BySpeaker,
    Front,
    OneClip,
    SoundModel,
    changed,
    class_map,
    cross_validate_sound,
    echoing,
    export_onnx,
    gained,
    hear_at,
    load_sound_model,
    multiply_adds,
    network_table,
    noisy,
    read_sound_config,
    save_sound_model,
    shifted,
    sound_batches,
    sound_card,
    sound_plan,
    tilted,
    train_sound,
)
from mtep.media import read_sound, write_sound  # noqa: E402
from mtep.spectra import Measure, pad_batch, spectra_of  # noqa: E402
from mtep.training import predict  # noqa: E402
from mtep.weights import SEAL, assets_folder, seal  # noqa: E402

RATE = 16_000
LABELS = ("neutral", "happy", "sad", "angry")
each_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def utterance(speaker, emotion, take, seconds):
    "A hum whose pitch is the speaker's and whose colour is the emotion's."
    rng, t = np.random.default_rng([speaker, emotion, take]), np.arange(round(seconds * RATE)) / RATE
    pitch = 90 * 1.12**speaker * (1 + 0.3 * (emotion in (1, 3)) + 0.02 * rng.normal())
    hum = sum(np.sin(2 * np.pi * pitch * k * t) / k ** (1.0, 0.6, 2.0, 0.3)[emotion] for k in range(1, 12))
    hum = hum / np.abs(hum).max() * (1 + 0.5 * np.sin(2 * np.pi * (2 + 3 * emotion) * t)) / 3
    return (hum + 1e-3 * rng.normal(size=len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "Six speakers, four emotions, two takes of 0.3 to 0.8 s, in an order that is not that of their lengths."
    root, rows = tmp_path_factory.mktemp("made"), []
    lengths = iter(np.random.default_rng(5).permutation(np.linspace(0.3, 0.8, 48)))
    for speaker in range(6):
        for number, emotion in enumerate(LABELS):
            for take in range(2):
                file, seconds = f"s{speaker}/{emotion}-{take}.wav", float(next(lengths))
                write_sound(root / file, utterance(speaker, number, take, seconds), RATE)
                gender = ("female", "male")[speaker % 2]
                rows.append([file, f"{speaker:02d}", gender, emotion, "normal", "ah", "none", seconds])
    columns = ["file", "speaker", "gender", "emotion", "intensity", "text", "language", "seconds"]
    return Corpus("made", pd.DataFrame(rows, columns=columns), LABELS, root, "none", "none", synthetic=True)


@pytest.fixture(scope="module")
def heard(corpus):
    return hear_at(corpus, (1.0, 0.9))


@pytest.fixture(scope="module")
def truth(corpus):
    return corpus.table["emotion"].map({label: k for k, label in enumerate(LABELS)}).to_numpy()


@pytest.fixture(scope="module")
def rows(corpus):
    return np.arange(len(corpus))


@pytest.fixture(scope="module")
def net(corpus, heard, rows):
    "A compact network after two epochs; nobody changes it."
    return train_sound(corpus, rows, "compact", heard, epochs=2, seed=3)[0]


@pytest.fixture(scope="module")
def model(net):
    return SoundModel(net, "compact", LABELS, 1.3, {"corpus": "made", "synthetic": True, "speeds": [1.0, 0.9]})


@pytest.fixture
def kept(model, tmp_path):
    return save_sound_model(model, tmp_path / "model")


@pytest.fixture(scope="module")
def sounds(corpus):
    return [read_sound(path).samples for path in corpus.paths[:6]]


def fresh(name, labels=4, seed=0):
    "A network that has learned nothing, with a front that is used to decibels, judging."
    torch.manual_seed(seed)
    made = NETWORKS[name](labels)
    made.front.measure([decibels(300, 99)])
    return made.eval()


def decibels(frames, seed=0, bands=64):
    "A made-up spectrum: a slope over the bands, and noise."
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(-40, 12, (bands, frames)) - np.linspace(0, 20, bands)[:, None]).float()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ------------------------------------------------------------------------------------------------ networks


@each_network
@torch.no_grad()
def test_alone_is_as_in_company(name):
    made, lengths = fresh(name), (420, 230, 150, 57, 9, 1)
    clips = [decibels(frames, k) for k, frames in enumerate(lengths)]
    together = made(*pad_batch(clips))
    alone = torch.cat([made(clip[None]) for clip in clips])
    assert together.shape == (6, 4) and (together - alone).abs().max() < 1e-4
    others = made(*pad_batch(clips[1:]))
    assert (others - together[1:]).abs().max() < 1e-4


@each_network
@torch.no_grad()
def test_what_stands_behind_a_clip_is_not_heard(name):
    made, clips = fresh(name), [decibels(260), decibels(90, 1)]
    quiet, loud = (made(*pad_batch(clips, fill)) for fill in (-100.0, 700.0))
    assert (quiet - loud).abs().max() < 1e-4


@each_network
@torch.no_grad()
def test_no_layer_leaves_anything_in_the_padding(name):
    made = fresh(name)
    x, mask = pad_batch([decibels(260), decibels(91, 1)])
    maps, seen = made.maps(x, mask)
    assert maps.shape[-1] == seen.shape[-1] and not maps.masked_select(~seen[:, None, None]).any()
    assert seen[0].sum() > seen[1].sum() > 0 and maps[0].any()


@torch.no_grad()
def test_a_network_of_fixed_length_hears_the_middle():
    made, clip = fresh("mfcc"), decibels(431)
    assert torch.allclose(made(clip[None]), made(clip[None, :, 115:315]), atol=1e-5)
    other = clip.clone()
    other[:, :115], other[:, 315:] = 0.0, 0.0
    assert torch.allclose(made(clip[None]), made(other[None]), atol=1e-5)
    short = decibels(60, 1)
    maps, mask = made.maps(short[None], torch.ones(1, 60, dtype=torch.bool))
    assert maps.shape[-1] == 50 and mask.sum() == 15 and not maps[..., 15:].any(), "a shorter one stands at the left"


@each_network
def test_every_weight_learns(name):
    made = fresh(name).train()
    x, mask = pad_batch([decibels(120 + 30 * k, k) for k in range(4)])
    torch.nn.functional.cross_entropy(made(x, mask), torch.arange(4)).backward()
    lost = [name for name, p in made.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not lost


def test_mfcc_are_those_of_the_spectra_and_of_librosa(sounds):
    librosa = pytest.importorskip("librosa")
    front = Front(coefficients=40)
    for samples in sounds[:3]:
        bands = spectra_of(torch.from_numpy(samples), HEARD)
        ours = front(bands[None], torch.ones(1, bands.shape[1], dtype=torch.bool))[0, 0]
        mfcc = spectra_of(torch.from_numpy(samples), Measure("mfcc", 40, bands=64))
        mfcc[0] -= bands.mean() * 8  # the clip's level, which stands in the first coefficient alone: sqrt(64 bands)
        assert (ours - mfcc).abs().max() < 1e-3
        power = librosa.feature.melspectrogram(
            y=samples, sr=RATE, n_fft=512, hop_length=160, n_mels=64, pad_mode="constant"
        )
        theirs = librosa.feature.mfcc(S=librosa.power_to_db(power, amin=1e-10, top_db=None), n_mfcc=40)
        assert np.abs(ours.numpy()[1:] - theirs[1:]).max() < 1e-3


@pytest.mark.parametrize("coefficients", [0, 13])
def test_the_front_brings_training_clips_to_one_scale(coefficients):
    clips, front = [decibels(50 + 40 * k, k) for k in range(4)], Front(coefficients)
    front.measure(clips)
    x, mask = pad_batch(clips)
    values = front(x, mask)[:, 0].transpose(1, 2)[mask]
    assert values.mean(0).abs().max() < 1e-4 and (values.std(0, unbiased=False) - 1).abs().max() < 1e-4
    front.measure([torch.full((64, 9), -100.0)])
    assert torch.isfinite(front(x, mask)).all(), "what never changes is divided by no zero"


@each_network
def test_level_changes_nothing(name):
    made, clip, whole = fresh(name), decibels(260), torch.ones(1, 260, dtype=torch.bool)
    with torch.no_grad():
        assert torch.allclose(made(clip[None], whole), made(clip[None] - 30, whole), atol=1e-3)


def test_costs():
    table = network_table(8)
    assert list(table.index) == list(NETWORKS) and (table > 0).all(axis=None)
    made = NETWORKS["crnn"](8).train()
    assert multiply_adds(made, 400) > 1.8 * multiply_adds(made, 200) and made.training
    assert not any(layer._forward_hooks for layer in made.modules()), "nothing stays behind"
    assert multiply_adds(NETWORKS["mfcc"](8), 400) == multiply_adds(NETWORKS["mfcc"](8), 200), "it hears 200 frames"


# ------------------------------------------------------------------------------------------------ changes


@pytest.mark.parametrize("name", CHANGES[:-1])
def test_a_change_repeats_itself_and_leaves_the_clip(name):
    clip = decibels(120)
    before = clip.clone()
    several = [changed(clip, np.random.default_rng(seed), [name]) for seed in (*range(12), *range(12))]
    assert torch.equal(clip, before)
    assert all(torch.equal(a, b) for a, b in zip(several[:12], several[12:]))
    assert any(not torch.equal(a, clip) for a in several), "not a change in name only"
    assert all(torch.isfinite(a).all() and a.shape == clip.shape and a.dtype == clip.dtype for a in several)


@pytest.mark.parametrize("clip", [torch.full((64, 50), -100.0), torch.full((64, 1), -30.0), decibels(3)])
def test_changes_bear_silence_and_single_frames(clip):
    for seed in range(10):
        found = changed(clip, np.random.default_rng(seed))
        assert torch.isfinite(found).all() and found.shape == clip.shape


def test_what_each_change_does():
    clip, rng = decibels(80), np.random.default_rng
    louder = noisy(clip, rng(0), 1.0)
    assert (louder >= clip - 1e-4).all() and (louder - clip).mean() > 0.1
    assert noisy(clip, rng(0), 1.0, (60, 60)).sub(clip).mean() < noisy(clip, rng(0), 1.0, (0, 0)).sub(clip).mean()
    lingering = echoing(clip, rng(0), 1.0)
    assert (lingering >= clip - 1e-4).all() and torch.allclose(lingering[:, 0], clip[:, 0], atol=1e-4)
    burst = torch.full((64, 90), -100.0)
    burst[:, 10] = 0.0
    tail = echoing(burst, rng(0), 1.0)
    assert (tail[:, :10] < -99).all() and (tail[:, 11:50].diff(dim=1) < 0).all(), "power falls, and not before it came"
    assert noisy(clip, rng(0), 0.0) is clip and echoing(clip, rng(0), 0.0) is clip
    by = gained(clip, rng(0)) - clip
    assert by.max() - by.min() < 1e-4
    curve = tilted(clip, rng(0)) - clip
    assert curve.std(dim=1).max() < 1e-4 and curve.std(dim=0).min() > 0.1
    assert torch.equal(shifted(clip, rng(0), 0), clip)
    found = {tuple(shifted(clip, rng(seed), 1)[5].tolist()) for seed in range(20)}
    assert found == {tuple(clip[k].tolist()) for k in (4, 5, 6)}
    assert torch.equal(changed(clip, rng(0), []), clip)


def test_an_unknown_change_is_refused(corpus, rows, heard):
    with pytest.raises(InputError, match="change 'nois' is not known; did you mean 'noise'"):
        train_sound(corpus, rows, heard=heard, changes=["gain", "nois"])


# ------------------------------------------------------------------------------------------------ hearing, batches


class Watched:
    "Spectra that tell which of them were asked for."

    def __init__(self, spectra):
        self.spectra, self.asked = spectra, []
        self.names, self.frames, self.recipe = spectra.names, spectra.frames, spectra.recipe

    def __len__(self):
        return len(self.spectra)

    def __getitem__(self, k):
        self.asked.append(int(k))
        return self.spectra[k]


@pytest.mark.parametrize("rng", [None, 0])
def test_clips_are_read_when_it_is_their_batch(corpus, heard, truth, rows, rng):
    watched = Watched(heard[1.0])
    made = sound_batches({1.0: watched}, truth, rows, 4, 8, None if rng is None else np.random.default_rng(rng), CHANGES)
    assert len(made) == 6 and not watched.asked
    coming = iter(made)
    for count in (1, 2, 3):
        batch = next(coming)
        assert len(watched.asked) == 8 * count
        assert list(batch.names) == [corpus.table["file"][k] for k in watched.asked[-8:]]
    list(coming)
    assert sorted(watched.asked) == list(rows), "each clip once"


def test_judging_batches_go_by_length_and_are_not_changed(heard, truth, rows):
    made = sound_batches(heard, truth, rows[5:30], 4, 7)
    order = np.concatenate(list(made.groups))
    assert sorted(order) == list(rows[5:30]) and (np.diff(heard[1.0].frames[order]) >= 0).all()
    for group, batch in zip(made.groups, made):
        x, mask = batch.inputs
        assert mask.sum(1).tolist() == heard[1.0].frames[group].tolist()
        assert batch.targets.tolist() == truth[group].tolist()
        for row, k in enumerate(group):
            assert torch.equal(x[row, :, : mask[row].sum()], heard[1.0][k])


def test_training_batches_are_of_every_speed_and_repeat_themselves(heard, truth, rows):
    def batches(seed, changes=()):
        return list(sound_batches(heard, truth, rows, 4, 8, np.random.default_rng(seed), changes))

    lengths = {name: int(n) for batch in batches(0) for name, n in zip(batch.names, batch.inputs[1].sum(1))}
    own, slow = (dict(zip(heard[1.0].names, heard[speed].frames)) for speed in (1.0, 0.9))
    told = {("own" if n == own[name] else "slow" if n == slow[name] else "none") for name, n in lengths.items()}
    assert told == {"own", "slow"}
    for one, other in zip(batches(1, CHANGES), batches(1, CHANGES), strict=True):
        assert torch.equal(one.inputs[0], other.inputs[0]) and torch.equal(one.targets, other.targets)
    mixed = batches(1, CHANGES)[0]
    assert mixed.targets.shape == (8, 4) and torch.allclose(mixed.targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("speeds, words", [
    ((), "do not begin with 1.0"), ((0.9,), "do not begin with 1.0"), ((0.9, 1.0), "do not begin"), ((1.0, 9.0), "9.0"),
])  # fmt: skip
def test_speeds_that_cannot_be(corpus, speeds, words):
    with pytest.raises(InputError, match=words):
        hear_at(corpus, speeds)


def test_by_speaker_knows_speakers_and_no_labels(corpus, heard):
    own = hear_at(corpus, by_speaker=True)[1.0]
    speakers = corpus.table["speaker"].to_numpy()
    for name in corpus.speakers:
        rows = torch.cat([own[k] for k in np.flatnonzero(speakers == name)], dim=1)
        assert (rows.mean(1) + 40).abs().max() < 1e-2 and (rows.std(1, unbiased=False) - 10).abs().max() < 1e-2
    shuffled = corpus.table.assign(emotion=np.random.default_rng(0).permutation(corpus.table["emotion"]))
    blind = hear_at(replace(corpus, table=shuffled), by_speaker=True)[1.0]
    assert all(torch.equal(own[k], blind[k]) for k in range(len(own)))
    assert own.recipe != heard[1.0].recipe and len(own) == len(corpus), "a checkpoint of the one is none of the other"
    few = BySpeaker(heard[1.0], np.where(speakers == "00", "00", "others"))
    assert torch.equal(few[0], own[0]), "one speaker's scale knows nothing of another's clips"


# ------------------------------------------------------------------------------------------------ training


def test_the_same_seed_trains_the_same(corpus, rows, heard, net):
    again, history = train_sound(corpus, rows, "compact", heard, epochs=2, seed=3)
    assert same(again, net) and history.ended == "all 2 epochs done" and np.isfinite(history.table["loss"]).all()
    other, _ = train_sound(corpus, rows, "compact", heard, epochs=2, seed=4)
    assert not same(other, net)


@each_network
def test_every_network_trains(corpus, rows, heard, name):
    made, history = train_sound(corpus, rows[:16], name, heard, epochs=1)
    assert not made.training and np.isfinite(history.table["loss"]).all()


def test_a_network_learns_what_is_plain_to_hear(corpus, rows, heard, truth):
    own = {1.0: heard[1.0]}
    made, _ = train_sound(corpus, rows, "resnet", own, changes=(), epochs=12, batch=12, average=0.0, rate=5e-3)
    tested = sound_batches(own, truth, rows, 4)
    right = predict(made, tested).argmax(1) == truth[np.concatenate(list(tested.groups))]
    assert right.mean() > 0.8


def test_an_interrupted_training_goes_on_bit_for_bit(corpus, rows, heard, net, tmp_path, monkeypatch):
    plain, calls = spectrogram.sound_batches, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(spectrogram, "sound_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_sound(corpus, rows, "compact", heard, epochs=2, seed=3, folder=tmp_path / "kept")
    resumed, history = train_sound(corpus, rows, "compact", heard, epochs=2, seed=3, folder=tmp_path / "kept")
    assert same(resumed, net) and [start["from_epoch"] for start in history.starts] == [0, 1]
    assert len(calls) == 3
    read, _ = train_sound(corpus, rows, "compact", heard, epochs=2, seed=3, folder=tmp_path / "kept")
    assert same(read, net) and len(calls) == 3, "what is done is not done again"
    for other in ({"changes": ("gain",)}, {"heard": {1.0: heard[1.0]}}, {"network": "resnet"}, {"train": rows[:40]}):
        given = {"train": rows, "network": "compact", "heard": heard} | other
        with pytest.raises(ExperimentError, match="belongs to another training"):
            train_sound(corpus, **given, epochs=2, seed=3, folder=tmp_path / "kept")


def test_a_clip_that_breaks_the_training_is_named(corpus, rows, heard):
    class Broken(Watched):
        def __getitem__(self, k):
            clip, late = super().__getitem__(k), len(self.asked) > len(rows)  # the front has been measured
            return torch.full_like(clip, torch.nan) if late and k == 7 else clip

    with pytest.raises(ExperimentError) as caught:
        train_sound(corpus, rows, "mfcc", {1.0: Broken(heard[1.0])}, changes=(), epochs=1)
    assert f"the clips were {corpus.table['file'][7]}; check these clips" in str(caught.value)


def test_training_refuses(corpus, rows, heard, truth):
    with pytest.raises(InputError, match="network 'alexnet' is not known.*choose one of: compact, crnn"):
        train_sound(corpus, rows, "alexnet", heard)
    with pytest.raises(InputError, match="training clips of one label leave nothing to tell apart"):
        train_sound(corpus, np.flatnonzero(truth == 2), heard=heard, epochs=1)
    lonely = np.flatnonzero(corpus.table["speaker"] == "03")
    with pytest.raises(CorpusError, match="leave nobody to learn from or to validate on"):
        train_sound(corpus, lonely, heard=heard, apart=0.5, epochs=1)
    with pytest.raises(InputError, match="patience=2 needs somebody to judge"):
        train_sound(corpus, rows, heard=heard, patience=2, epochs=1)
    for wrong in ({"epochs": 0}, {"batch": 0}, {"rate": -1.0}, {"average": 2.0}, {"seed": -1}):
        with pytest.raises(InputError, match="change the plan"):
            sound_plan(**wrong)


def test_training_stops_early_on_speakers_set_apart(corpus, rows, heard):
    made, history = train_sound(corpus, rows, "resnet", heard, apart=0.34, epochs=9, patience=1, rate=1e-8)
    assert history.ended == "no better epoch after 1" and len(history.table) < 9
    assert history.best == history.table["uar"].idxmax() and not made.training


def test_the_front_knows_training_clips_alone(corpus, rows, heard):
    pupils = np.flatnonzero(corpus.table["speaker"] != "05")
    made, _ = train_sound(corpus, pupils, "resnet", heard, epochs=1, average=0.0)
    usual = torch.cat([heard[1.0][k] - heard[1.0][k].mean() for k in pupils], dim=1).mean(1)
    assert (made.front.mean - usual).abs().max() < 1e-3


def test_cross_validation_tests_each_clip_once(corpus, heard, tmp_path):
    settings = dict(heard=heard, epochs=1, seed=1)
    found, histories, last = cross_validate_sound(corpus, "speakers5", "resnet", folder=tmp_path, **settings)
    assert sorted(found["file"]) == sorted(corpus.table["file"]) and len(histories) == 5
    assert np.allclose(found[list(LABELS)].sum(axis=1), 1, atol=1e-5)
    assert set(found["system"]) == {"resnet"} and isinstance(last, torch.nn.Module)
    few, some, _ = cross_validate_sound(corpus, "speakers5", "resnet", most=2, folder=tmp_path, **settings)
    assert len(some) == 2 and few.equals(found.iloc[: len(few)].reset_index(drop=True)), "read, not trained again"
    named, _, _ = cross_validate_sound(corpus, "speakers5", "resnet", system="a name", most=1, **settings)
    assert set(named["system"]) == {"a name"}
    with pytest.raises(InputError, match="protocol 'speakers6' is not known"):
        cross_validate_sound(corpus, "speakers6", heard=heard)


# ------------------------------------------------------------------------------------------------ looks


@each_network
def test_class_maps(name):
    made, clip = fresh(name), decibels(260)
    for label in (None, 0, 3):
        seen = class_map(made, clip, label)
        assert seen.shape == (64, 260) and seen.min() >= 0 and seen.max() <= 1 and np.isfinite(seen).all()
    assert all(p.grad is None for p in made.parameters())
    with torch.no_grad():
        answer = int(made(clip[None]).argmax())
    assert np.array_equal(class_map(made, clip), class_map(made, clip, answer))


@pytest.mark.parametrize("label", [-1, 4, 99])
def test_class_maps_refuse(label):
    with pytest.raises(InputError, match=f"label {label} is not a number from 0 to 3"):
        class_map(fresh("compact"), decibels(50), label)


# ------------------------------------------------------------------------------------------------ the model


def test_a_model_hears_what_training_heard(model, corpus, heard, net, truth, rows, sounds):
    tested = sound_batches(heard, truth, rows[:6], 4)
    order = np.concatenate(list(tested.groups))
    with torch.no_grad():
        scores = torch.cat([net(*batch.inputs) for batch in tested]).numpy()
    assert np.abs(model.vectors(sounds)[order] - scores).max() < 1e-3


def test_company_and_order_change_no_answer(model, sounds):
    together = model.proba(model.vectors(sounds))
    alone = np.concatenate([model.proba(model.vectors([clip])) for clip in sounds])
    assert np.abs(together - alone).max() < 1e-5 and np.allclose(together.sum(axis=1), 1)
    assert np.abs(model.proba(model.vectors(sounds[::-1]))[::-1] - together).max() < 1e-5
    assert np.array_equal(model.proba(model.vectors(sounds), own=np.ones((9, 4))), together), "enrolment is not used"
    assert model.enrols is False and model.labels == list(LABELS)


@pytest.mark.parametrize("clip", [
    np.zeros(RATE, np.float32), np.zeros(1, np.float32), utterance(0, 0, 0, 0.2), utterance(0, 1, 0, 12.0),
    1e-6 * utterance(0, 1, 0, 0.5), 50 * utterance(0, 1, 0, 0.5), utterance(0, 1, 0, 0.5).astype(np.float64),
])  # fmt: skip
def test_silence_short_long_soft_and_loud_sound_are_borne(model, clip):
    proba = model.proba(model.vectors([clip]))
    assert proba.shape == (1, 4) and np.isfinite(proba).all() and proba.sum() == pytest.approx(1, abs=1e-5)


def test_no_clips_have_no_answers(model):
    assert model.vectors([]).shape == (0, 4) and model.proba(model.vectors([])).shape == (0, 4)


@pytest.mark.parametrize("clip", [np.zeros(0), np.zeros((2, RATE)), np.full(RATE, np.nan)])
def test_what_is_no_sound(model, clip):
    with pytest.raises(InputError):
        model.vectors([utterance(0, 0, 0, 0.3), clip.astype(np.float32)])


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 3), (1, 1, 4)])
def test_vectors_of_another_model(model, shape):
    with pytest.raises(InputError, match=r"are not \(clips, 4\); use this model's own `vectors`"):
        model.proba(np.zeros(shape))


def test_temperature_divides(net, sounds):
    cold, warm = (SoundModel(net, "compact", LABELS, t) for t in (1.0, 4.0))
    scores = cold.vectors(sounds)
    assert np.array_equal(warm.vectors(sounds), scores)
    assert (warm.proba(scores).max(axis=1) < cold.proba(scores).max(axis=1)).all()
    assert (warm.proba(scores).argmax(1) == cold.proba(scores).argmax(1)).all()


# ------------------------------------------------------------------------------------------------ kept models


@each_network
def test_a_kept_model_says_the_same(name, tmp_path, sounds):
    own = SoundModel(fresh(name), name, LABELS, 0.7, {"corpus": "none", "clips": 3})
    back = load_sound_model(save_sound_model(own, tmp_path / name))
    assert np.array_equal(back.vectors(sounds[:2]), own.vectors(sounds[:2]))
    assert (back.network, back.labels, back.temperature, back.card) == (name, list(LABELS), 0.7, own.card)
    assert {path.name for path in (tmp_path / name).iterdir()} == {"config.json", "net.safetensors", "README.md", SEAL}
    before = {path.name: file_digest(path) for path in (tmp_path / name).iterdir()}
    save_sound_model(back, tmp_path / name)
    assert {path.name: file_digest(path) for path in (tmp_path / name).iterdir()} == before


def test_half_precision_takes_half_the_bytes_and_says_nearly_the_same(model, tmp_path, sounds):
    whole, half = (save_sound_model(model, tmp_path / str(h), half=h) for h in (False, True))
    sizes = [(folder / "net.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.53 * sizes[0]
    back = load_sound_model(half)
    assert all(x.dtype != torch.float16 for x in back.net.state_dict().values())
    assert np.allclose(back.proba(back.vectors(sounds)), model.proba(model.vectors(sounds)), atol=0.01)


def rewrite(folder, **entries):
    "Change entries of a model's config and seal it again, as one who knows how."
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | entries
    path.write_text(json.dumps(config), encoding="utf-8")
    seal(folder)


def test_changed_bytes_are_refused(kept):
    path = kept / "net.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(MtepError, match="net.safetensors: SHA-256"):
        load_sound_model(kept)
    seal(kept)
    with pytest.raises(InputError, match="is missing or was changed after it was saved"):
        load_sound_model(kept)
    path.unlink()
    with pytest.raises(MtepError, match="net.safetensors"):
        load_sound_model(kept)


def test_a_pickle_is_refused(kept):
    path = kept / "net.safetensors"
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InputError, match="is a pickle"):
        rewrite(kept, sha256=file_digest(path))
    (kept / SEAL).unlink()
    with pytest.raises(InputError, match="is a pickle"):
        load_sound_model(kept)


def test_what_is_no_safetensors(kept):
    (kept / "net.safetensors").write_bytes(b"something else, of some length")
    rewrite(kept, sha256=file_digest(kept / "net.safetensors"))
    with pytest.raises(InputError, match="does not fit a compact network for 4 labels"):
        load_sound_model(kept)


@pytest.mark.parametrize("entries", [
    {"labels": ["neutral", "happy", "sad"]}, {"labels": [*LABELS, "calm"]}, {"network": "resnet"}, {"network": "mfcc"},
])  # fmt: skip
def test_weights_that_do_not_fit(kept, entries):
    rewrite(kept, **entries)
    with pytest.raises(InputError, match=r"does not fit a \w+ network for \d labels; train or copy it again"):
        load_sound_model(kept)


@pytest.mark.parametrize("name, value", [
    ("network", "alexnet"), ("network", None), ("labels", None), ("labels", "abcd"), ("labels", []), ("labels", ["a"]),
    ("labels", ["a", "a", "b", "c"]), ("temperature", 0), ("temperature", -1.0), ("temperature", float("nan")),
    ("temperature", float("inf")), ("temperature", "1"), ("temperature", None), ("card", []), ("card", None),
    ("sha256", 3), ("sha256", None),
])  # fmt: skip
def test_bad_entries_of_a_config(kept, name, value):
    rewrite(kept, **{name: value})
    with pytest.raises(InputError, match=f"has a config.json whose {name} cannot be used"):
        load_sound_model(kept)


@pytest.mark.parametrize("kind", ["mtep.emotion.forest", "mtep.emotion.wav2vec2", None, 3])
def test_models_of_another_kind(kept, kind):
    rewrite(kept, type=kind)
    with pytest.raises(InputError, match=rf"holds a model of another kind \({kind}\)"):
        load_sound_model(kept)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"', "[1, 2]"])
def test_a_config_that_is_none(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="holds no readable config.json|holds a model of another kind"):
        read_sound_config(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="holds no readable config.json"):
        read_sound_config(tmp_path)
    with pytest.raises(InputError):
        load_sound_model(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        load_sound_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="weights 'emotion-cn' is not known; did you mean 'emotion-cnn'"):
        load_sound_model("emotion-cn")


def test_the_shipped_network_or_a_plain_word():
    if not (assets_folder() / "emotion-cnn").is_dir():
        with pytest.raises(OfflineError, match="weights 'emotion-cnn' are not here"):
            load_sound_model()
        pytest.skip("mtep/assets/emotion-cnn is not part of this checkout")
    shipped = load_sound_model()
    proba = shipped.proba(shipped.vectors([utterance(0, 1, 0, 1.0)]))
    assert len(shipped.labels) == 8 and proba.shape == (1, 8) and not shipped.card["synthetic"]
    assert "CC BY-NC-SA 4.0" in (assets_folder() / "emotion-cnn" / "README.md").read_text(encoding="utf-8")


def test_cards(model, tmp_path):
    text = sound_card(model)
    assert text.startswith("# SYNTHETIC: a network trained on made-up speech\n") and "## Limits" in text
    assert "## Figures" not in text and "neutral, happy, sad, angry" in text
    card = {"corpus": "RAVDESS", "clips": 1440, "speakers": 24, "licence": "CC BY-NC-SA 4.0", "synthetic": False}
    real = SoundModel(model.net, "compact", LABELS, card=card)
    metric = Metric("uar", 0.6123, "RAVDESS", "luna5", "compact", spread=0.04)
    text = sound_card(real, [metric, replace(metric, name="ece", spread=None)])
    assert "SYNTHETIC" not in text and "all 1440 clips of 24 speakers of RAVDESS" in text and "CC BY-NC-SA 4.0" in text
    assert "| RAVDESS | luna5 | compact | uar | 0.612 | 0.040 |\n| RAVDESS | luna5 | compact | ece | 0.612 |  |" in text
    folder = save_sound_model(real, tmp_path / "own", "# my words\n")
    assert (folder / "README.md").read_text(encoding="utf-8") == "# my words\n"


# ------------------------------------------------------------------------------------------------ ONNX


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "crnn"])
def test_onnx_says_the_same_at_any_length(name, tmp_path, model):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    own = model if name == "compact" else SoundModel(fresh(name), name, LABELS, 2.0)
    assert export_onnx(own, tmp_path / "new" / "net.onnx") < 1e-4
    told = runtime.InferenceSession(tmp_path / "new" / "net.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == list(own.labels) and json.loads(told["spectrum"])["rate"] == 16_000
    session = runtime.InferenceSession(str(tmp_path / "new" / "net.onnx"), providers=["CPUExecutionProvider"])
    for frames in (1, 2, 7, 33, 199, 201, 1203):
        x = decibels(frames, frames)[None]
        with torch.no_grad():
            wanted = OneClip(own)(x).numpy()
        assert np.abs(session.run(None, {"spectrum": x.numpy()})[0] - wanted).max() < 1e-4


def test_onnx_refuses(tmp_path, model, monkeypatch):
    with pytest.raises(InputError, match="a crnn network reads packed sequences, which ONNX does not know; export compact"):
        export_onnx(SoundModel(fresh("crnn"), "crnn", LABELS), tmp_path / "net.onnx")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ExperimentError, match="differs from the network by"):
        export_onnx(model, tmp_path / "net.onnx", tolerance=-1.0)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(PackageError, match=r'pip install "mtep\[onnx\]"'):
        export_onnx(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir()), "nothing is left of what was refused"
def test_mixing_puts_nothing_loud_behind_a_clip(heard, truth, rows):
    class Soft(Watched):
        def __getitem__(self, k):
            return super().__getitem__(k) - 60

    soft = Soft(heard[1.0])
    loudest = max(float(soft[k].max()) for k in rows)
    for seed in range(3):
        made = sound_batches({1.0: soft}, truth, rows, 4, 8, np.random.default_rng(seed), ("mix",))
        assert all(float(batch.inputs[0].max()) <= loudest + 1e-3 for batch in made)


@pytest.mark.parametrize("frames, begin, end", [(431, 115, 315), (60, 0, 60)])
def test_class_maps_of_a_fixed_length_lie_where_it_listened(frames, begin, end):
    made, clip = fresh("mfcc"), decibels(frames)
    seen = class_map(made, clip, 1)
    assert seen.shape == (64, frames) and not seen[:, :begin].any() and not seen[:, end:].any()
    if frames > 200:
        assert np.allclose(seen[:, begin:end], class_map(made, clip[:, begin:end], 1), atol=1e-5)


@pytest.mark.parametrize("name, value", [
    ("network", ["compact"]), ("network", {}), ("labels", [1, 2, 3, 4]), ("labels", [["a"], ["b"], ["c"], ["d"]]),
    ("temperature", True),
])  # fmt: skip
def test_more_bad_entries_of_a_config(kept, name, value):
    rewrite(kept, **{name: value})
    with pytest.raises(InputError, match=f"has a config.json whose {name} cannot be used"):
        load_sound_model(kept)
