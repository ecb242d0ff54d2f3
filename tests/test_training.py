"""Training: bits that repeat, interruption at any moment, several processes, and every bad input."""

import dataclasses
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mtep.core import CorpusError, ExperimentError, InputError, StorageError
from mtep.training import (
    Batch,
    Batches,
    Plan,
    autocast,
    balanced_sample,
    class_weights,
    judge_on,
    length_batches,
    longest_beginning,
    mixup,
    parameter_table,
    pick_device,
    pick_precision,
    plot_history,
    predict,
    rate_factor,
    soft_targets,
    spec_augment,
    split_speakers,
    to_device,
    train_network,
    weighted_losses,
)

LABELS = ["low", "middle", "high"]
PLAN = Plan(epochs=4, batch=8, lr=1e-2, precision="no", device="cpu", average=0.8)
RNG = np.random.default_rng(0)
TRUTH = RNG.permutation(np.repeat([0, 1, 2], [10, 20, 30]))
POINTS = (RNG.normal(size=(60, 4)) + TRUTH[:, None]).astype(np.float32)
VALID = Batch(torch.from_numpy(POINTS[::3]), torch.from_numpy(TRUTH[::3]), [f"v{i}" for i in range(20)])
JUDGE = judge_on([VALID], LABELS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    "Dropout, batch normalisation, a frozen part: all that could spoil a resumption."

    def __init__(self, seed=0, dropout=0.2, norm=True, outputs=3):
        super().__init__()
        torch.manual_seed(seed)
        self.frozen = nn.Linear(4, 4)
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Dropout(dropout))
        self.head = nn.Linear(8, outputs)

    def forward(self, points):
        return self.head(torch.tanh(self.encoder(self.frozen(points))))


def make(ids):
    return Batch(torch.from_numpy(POINTS[ids]), torch.from_numpy(TRUTH[ids]), [f"clip{i}" for i in ids])


def batches(epoch, rng):
    def noisy(ids):
        batch = make(ids)
        return batch._replace(inputs=batch.inputs + torch.from_numpy(rng.normal(0, 0.1, batch.inputs.shape)).float())

    return Batches(length_batches(np.ones(60), 8, rng, math.inf), noisy)


def train(model=None, plan=PLAN, make_batches=batches, **more):
    model = model or Net()
    more = {"labels": LABELS, "truth": TRUTH, "judge": JUDGE} | more
    return model, train_network(model, make_batches, plan, **more)


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    one, two = bits(one), bits(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def uneven(epoch, rng):
    "One batch has fewer rows than there are processes."
    return [make(np.arange(1)), make(np.arange(1, 30)), make(np.arange(30, 45)), make(np.arange(45, 60))]


def broken_late(epoch, rng):
    "Two clips are no numbers from the third epoch on, in the rows of both processes."
    items = uneven(epoch, rng)
    if epoch == 2:
        items[2].inputs[[4, 7]] = math.nan
    return items


def stop_at(epoch, number, error=KeyboardInterrupt):
    "Batches that break off at a batch of an epoch."

    def broken(now, rng):
        items = batches(now, rng)

        def each(ids, make=items.make):
            if now == epoch and ids is items.groups[number]:
                raise error
            return make(ids)

        return Batches(items.groups, each)

    return broken


PARTS = dataclasses.replace(PLAN, rates={"frozen": 0, "encoder": 1e-3}, unfreeze={"encoder": 2}, accumulate=3)


# repeating


HALF = dataclasses.replace(PLAN, precision="bf16")


@pytest.mark.parametrize("plan", [PLAN, PARTS, HALF], ids=["plain", "parts", "bf16"])
def test_twice_the_same_bits(plan):
    one, first = train(plan=plan)
    two, second = train(plan=plan)
    assert same(one, two)
    pd.testing.assert_frame_equal(first.table.drop(columns="seconds"), second.table.drop(columns="seconds"))
    assert not same(one, train(plan=dataclasses.replace(plan, seed=1))[0])


def test_generators_and_switches_are_left_as_found():
    model = Net()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    train(model)
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(parameter.requires_grad for parameter in model.parameters())


# resuming


@pytest.mark.parametrize("plan", [PLAN, PARTS], ids=["plain", "parts"])
@pytest.mark.parametrize("epoch, number", [(0, 0), (0, 5), (1, 0), (2, 4), (3, 7)])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, plan, epoch, number):
    whole, log = train(plan=plan)
    with pytest.raises(KeyboardInterrupt):
        train(plan=plan, make_batches=stop_at(epoch, number), folder=tmp_path / "fold")
    torch.manual_seed(99)  # whatever happens in between
    np.random.seed(99)
    resumed, again = train(Net(seed=5) if not plan.rates else Net(), plan=plan, folder=tmp_path / "fold")
    stored = lambda name: not (plan.rates and name.startswith("frozen"))
    named = lambda model: {name: tensor for name, tensor in bits(model).items() if stored(name)}
    assert all(torch.equal(tensor, named(resumed)[name]) for name, tensor in named(whole).items())
    pd.testing.assert_frame_equal(log.table.drop(columns="seconds"), again.table.drop(columns="seconds"))
    assert again.best == log.best
    assert [start["from_epoch"] for start in again.starts] == [0, epoch]


def test_resumes_without_judge_and_average(tmp_path):
    plan = dataclasses.replace(PLAN, average=0.0)
    whole, log = train(plan=plan, judge=None)
    with pytest.raises(KeyboardInterrupt):
        train(plan=plan, judge=None, make_batches=stop_at(2, 3), folder=tmp_path)
    resumed, again = train(Net(seed=5), plan=plan, judge=None, folder=tmp_path)
    assert same(whole, resumed) and again.best == log.best == 3
    found, once_more = train(Net(seed=6), plan=plan, judge=None, make_batches=None, folder=tmp_path)
    assert same(whole, found) and once_more.table.equals(again.table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "training.json"]


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
import test_training as t

def killing(epoch, rng):
    items = t.batches(epoch, rng)
    each = lambda ids, make=items.make: os._exit(9) if epoch == 2 and ids is items.groups[4] else make(ids)
    return t.Batches(items.groups, each)

t.torch.set_num_threads(1)
t.train(make_batches=killing, folder={folder!r})
"""


def test_killed_process_resumes(tmp_path):
    "No clean-up at all: the process ends itself in the middle of an epoch."
    code = KILLED.format(tests=os.path.dirname(__file__), folder=str(tmp_path / "fold"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    (tmp_path / "fold" / ".writing-abc").write_bytes(b"half")
    (tmp_path / "fold" / "best-0077.safetensors").write_bytes(b"older")
    whole, _ = train()
    resumed, log = train(Net(seed=5), folder=tmp_path / "fold")
    assert same(whole, resumed) and [start["from_epoch"] for start in log.starts] == [0, 2]
    assert len(list((tmp_path / "fold").iterdir())) == 2


def test_killed_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    import mtep.training as module

    real = module.write_json

    def dies(path, thing):
        if thing["epochs"] == 2:
            raise KeyboardInterrupt
        return real(path, thing)

    monkeypatch.setattr(module, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path)
    monkeypatch.setattr(module, "write_json", real)
    assert json.loads((tmp_path / "training.json").read_text())["epochs"] == 1
    assert same(train()[0], train(Net(seed=5), folder=tmp_path)[0])


def test_error_in_the_hook_costs_nothing(tmp_path):
    def hook(model, row):
        if row["epoch"] == 1:
            raise RuntimeError("disk of the hook is full")

    with pytest.raises(RuntimeError, match="hook"):
        train(folder=tmp_path, on_epoch=hook)
    resumed, log = train(Net(seed=5), folder=tmp_path)
    assert same(train()[0], resumed) and log.starts[-1]["from_epoch"] == 2


def test_finished_training_is_found_again_or_forgotten(tmp_path):
    model, log = train(folder=tmp_path / "kept")
    again, found = train(Net(seed=9), folder=tmp_path / "kept", make_batches=None)
    assert same(model, again) and found.table.equals(log.table) and found.ended == log.ended
    train(folder=tmp_path / "gone", keep=False)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    train(folder=tmp_path / "mine", keep=False)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_frozen_parts_are_not_stored(tmp_path):
    from safetensors import safe_open

    with pytest.raises(KeyboardInterrupt):
        train(plan=PARTS, make_batches=stop_at(3, 0), folder=tmp_path)
    with safe_open(tmp_path / "state-0003.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "frozen" in name]  # noqa: SIM118


@pytest.mark.parametrize(
    "change, message",
    [
        ({"plan": dataclasses.replace(PLAN, lr=0.5)}, "plan.lr is 0.01 there and 0.5 here"),
        ({"key": "fold 2"}, 'key is "" there and "fold 2" here'),
        ({"key": {"fold": 2}}, "key is"),
        ({"labels": ["low", "middle", "top"]}, "labels is"),
        ({"model": Net(norm=False)}, "network.encoder.1.weight"),
        ({"truth": np.roll(TRUTH, 1)}, "clips is"),
        ({"judge": None}, "judged is true there and false here"),
    ],
)
def test_checkpoint_of_another_training_is_refused(tmp_path, change, message):
    with pytest.raises(KeyboardInterrupt):
        train(make_batches=stop_at(1, 0), folder=tmp_path)
    with pytest.raises(ExperimentError, match="belongs to another training") as caught:
        train(folder=tmp_path, **change)
    assert message in str(caught.value)


@pytest.mark.parametrize("damage", ["state", "missing", "json", "fields", "type"])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        train(make_batches=stop_at(1, 0), folder=tmp_path)
    state, record = tmp_path / "state-0001.safetensors", tmp_path / "training.json"
    if damage == "state":
        state.write_bytes(state.read_bytes()[:-1] + b"x")
    elif damage == "missing":
        state.unlink()
    else:
        record.write_text({"json": "{", "fields": "{}", "type": "[]"}[damage])
    with pytest.raises(ExperimentError, match="is missing or was changed|cannot be read"):
        train(folder=tmp_path)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        train(folder=tmp_path / "file")


# what is learned


def test_accumulated_batches_are_one_large_batch():
    whole = lambda epoch, rng: [make(np.arange(60))]
    parts = lambda epoch, rng: [make(np.arange(7)), make(np.arange(7, 40)), make(np.arange(40, 60))]
    plan = dataclasses.replace(PLAN, average=0.0)
    one, _ = train(Net(dropout=0, norm=False), plan, whole)
    two, _ = train(Net(dropout=0, norm=False), dataclasses.replace(plan, accumulate=3), parts)
    for name, tensor in bits(one).items():
        torch.testing.assert_close(tensor, bits(two)[name], rtol=1e-4, atol=1e-6)


def test_averages_are_what_they_say():
    steps = []
    plan = dataclasses.replace(PLAN, epochs=3, average=0.0, schedule="constant")
    keep = lambda model, row: steps.append(bits(model))
    single = lambda epoch, rng: [make(np.arange(60))]
    train(Net(), plan, single, judge=None, on_epoch=keep)
    for decay, shares in ((1.0, [1 / 3] * 3), (0.5, np.array([0.25, 0.5, 1.0]) / 1.75)):
        averaged, _ = train(Net(), dataclasses.replace(plan, average=decay), single, judge=None)
        for name, tensor in bits(averaged).items():
            if tensor.is_floating_point():
                expected = sum(share * step[name] for share, step in zip(shares, steps))
                torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    late, _ = train(Net(), dataclasses.replace(plan, average=1.0, average_from=0.6), single, judge=None)
    torch.testing.assert_close(late.head.weight, steps[2]["head.weight"])


def test_best_epoch_is_kept_and_patience_ends():
    said = iter([0.3, 0.6, 0.6, 0.5, 0.9])
    seen = []
    plan = dataclasses.replace(PLAN, epochs=9, patience=2, average=0.0)
    judge = lambda net: {"uar": next(said)}
    model, log = train(plan=plan, judge=judge, on_epoch=lambda net, row: seen.append(bits(net)))
    assert log.best == 1 and len(log.table) == 4 and log.ended == "no better epoch after 2"
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in bits(model).items())
    assert log.lines[1].endswith("*") and not model.training


def test_frozen_parts_stay_and_unfrozen_ones_move_in_time():
    start, seen = Net(), []
    train(Net(), PARTS, judge=None, on_epoch=lambda net, row: seen.append((bits(net), row["trained"])))
    moved = lambda state, name: not torch.equal(state[name], bits(start)[name])
    assert [moved(state, "encoder.0.weight") for state, _ in seen] == [False, False, True, True]
    assert not any(moved(state, "frozen.weight") for state, _ in seen)
    assert [trained for _, trained in seen] == [27, 27, 27 + 40 + 16, 27 + 40 + 16]
    frozen = Net()
    frozen.encoder.requires_grad_(False)
    train(frozen, PLAN, judge=None)
    assert torch.equal(frozen.encoder[0].weight, start.encoder[0].weight)
    assert not frozen.encoder[0].weight.requires_grad and frozen.head.weight.requires_grad


def test_loss_agrees_with_torch():
    logits, targets, weights = torch.randn(9, 3), torch.arange(9) % 3, torch.tensor([0.5, 1.0, 3.0])
    soft = soft_targets(targets, 3)
    ours = weighted_losses(logits, soft, weights).sum() / (soft @ weights).sum()
    torch.testing.assert_close(ours, nn.functional.cross_entropy(logits, targets, weights))
    even = weighted_losses(logits, soft, torch.ones(3), 0.1).mean()
    torch.testing.assert_close(even, nn.functional.cross_entropy(logits, targets, label_smoothing=0.1))


def test_mixtures_dicts_and_tuples_are_taken():
    class Masked(Net):
        def forward(self, points, lengths=None):
            return super().forward(points)

    def mixed(epoch, rng):
        batch = make(np.arange(60))
        return [mixup(batch._replace(inputs=(batch.inputs, torch.full((60,), 4))), 3, rng)]

    named = lambda epoch, rng: [Batch({"points": POINTS, "lengths": None}, torch.from_numpy(TRUTH))]
    assert train(Masked(), make_batches=mixed)[1].table.loss.notna().all()
    assert train(Masked(), make_batches=named)[1].table.loss.notna().all()


@pytest.mark.parametrize("schedule", ["cosine", "constant", "one-cycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_schedules_stay_within_bounds(schedule, warmup):
    plan = Plan(schedule=schedule, warmup=warmup)
    values = [rate_factor(plan, done) for done in np.linspace(0, 1, 101)]
    assert min(values) >= 0 and max(values) == pytest.approx(1.0)
    assert (values[-1] == 1.0) == (schedule == "constant")


# several processes

SCRIPT = """
import sys, os
sys.path.insert(0, {tests!r})
import torch, test_training as t
torch.set_num_threads(1)
plan = t.dataclasses.replace(t.PARTS, seed=3)
net = t.Net(dropout=0, norm=False)
calls = []
judge = lambda model: calls.append(1) or t.JUDGE(model)
try:
    model, log = t.train(net, plan, {batches}, judge=judge, folder={folder!r})
except t.ExperimentError as error:
    os.write(1, f"REFUSED {{error}}\\n".encode())
    os._exit(3)
rank = int(os.environ["RANK"])
assert len(calls) == (4 if rank == 0 else 0)
torch.save(model.state_dict(), {out!r} + f"/rank{{rank}}.pt")
log.table.to_json({out!r} + f"/rank{{rank}}.json")
"""


def launch(tmp_path, make_batches):
    pytest.importorskip("accelerate")
    code = SCRIPT.format(
        tests=os.path.dirname(__file__), out=str(tmp_path), folder=str(tmp_path / "fold"), batches=make_batches
    )
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*command, str(tmp_path / "script.py")], capture_output=True, text=True, env=env, timeout=120)


elsewhere = pytest.mark.skipif(sys.platform == "win32", reason="torch's launcher wants libuv there")


@elsewhere
def test_two_processes_equal_one(tmp_path):
    "Gloo on the CPU: the same up to the order of additions."
    done = launch(tmp_path, "t.uneven")
    assert done.returncode == 0, done.stderr[-3000:]
    alone, log = train(Net(dropout=0, norm=False), dataclasses.replace(PARTS, seed=3), uneven)
    both = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, tensor in bits(alone).items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], tensor, rtol=1e-3, atol=1e-5)
    table = pd.read_json(tmp_path / "rank1.json")
    np.testing.assert_allclose(table[["loss", "uar"]], log.table[["loss", "uar"]], rtol=1e-4)


@elsewhere
def test_two_processes_stop_together_and_one_goes_on(tmp_path):
    done = launch(tmp_path, "t.broken_late")
    assert done.returncode != 0 and "REFUSED loss of epoch 2, batch 2 is not a finite number" in done.stdout
    plan = dataclasses.replace(PARTS, seed=3)
    resumed, log = train(Net(dropout=0, norm=False), plan, uneven, folder=tmp_path / "fold")
    assert [(start["from_epoch"], start["processes"]) for start in log.starts] == [(0, 2), (2, 1)]
    alone, _ = train(Net(dropout=0, norm=False), plan, uneven)
    for name, tensor in bits(alone).items():
        torch.testing.assert_close(bits(resumed)[name], tensor, rtol=1e-3, atol=1e-5)


def test_fp16_scales_its_gradients_and_resumes(tmp_path, monkeypatch):
    "What a GPU does with fp16, on the CPU."
    scaler = torch.amp.GradScaler
    monkeypatch.setattr("mtep.training.pick_precision", lambda name, device: "fp16")
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler("cpu"))
    whole, _ = train()
    with pytest.raises(KeyboardInterrupt):
        train(make_batches=stop_at(2, 4), folder=tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["scaler"]["scale"] > 0
    resumed, again = train(Net(seed=5), folder=tmp_path)
    assert same(whole, resumed) and again.table.loss.iloc[-1] < again.table.loss.iloc[0]


# bad input


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0}, {"epochs": 1.5}, {"epochs": True}, {"batch": -1}, {"lr": 0.0}, {"lr": math.inf}, {"lr": "fast"},
        {"rates": {"head": math.nan}}, {"unfreeze": {"head": 0.5}}, {"weight_decay": -0.1}, {"warmup": 1.0},
        {"clip": -1}, {"device": "tpu"},
        {"schedule": "linear"}, {"smoothing": 1.0}, {"class_weights": "balanced"}, {"accumulate": 0}, {"seed": -1},
        {"rates": "head"}, {"precision": "fp8"}, {"average": 1.1}, {"average_from": 1.0}, {"patience": -1},
    ],
)  # fmt: skip
def test_plan_out_of_range(values):
    with pytest.raises(InputError):
        Plan(**values)


def test_plan_takes_numpy_numbers():
    plan = Plan(epochs=np.int64(3), lr=np.float32(0.5), rates={"head": np.float64(1)})
    assert json.dumps(dataclasses.asdict(plan)) and type(plan.epochs) is int


@pytest.mark.parametrize(
    "change, message",
    [
        ({"truth": np.zeros(60, int)}, "leave nothing to tell apart"),
        ({"truth": []}, "are not a list of whole numbers"),
        ({"truth": TRUTH + 1}, "are not all within 0 to 2"),
        ({"truth": TRUTH * 1.0}, "are not a list of whole numbers"),
        ({"labels": ["low", "low", "high"]}, "are not all different"),
        ({"plan": dataclasses.replace(PLAN, patience=2), "judge": None}, "needs somebody to judge"),
        ({"plan": dataclasses.replace(PLAN, rates={"hed": 0.1})}, "its parts are: encoder, frozen, head"),
        ({"plan": dataclasses.replace(PLAN, unfreeze={"": 2})}, "nothing to train in its first epoch"),
        ({"make_batches": lambda epoch, rng: []}, "epoch 0 has no batches"),
        ({"make_batches": lambda epoch, rng: iter([])}, "do not say how many they are"),
        ({"make_batches": lambda epoch, rng: [make(np.arange(0))]}, "epoch 0, batch 0 is empty"),
        ({"make_batches": lambda epoch, rng: [(POINTS, TRUTH)]}, "epoch 0, batch 0 is empty or no Batch"),
        ({"make_batches": lambda epoch, rng: [Batch(POINTS, torch.from_numpy(TRUTH + 1))]}, "labels from 1 to 3"),
        ({"make_batches": lambda epoch, rng: [Batch(POINTS, torch.ones(60, 3))]}, "are not distributions"),
        ({"make_batches": lambda epoch, rng: [Batch(POINTS, torch.ones(60, 2))]}, "do not fit 3 labels"),
        ({"model": Net(outputs=5)}, "give the network an output per label"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        train(**change)
    assert message in str(caught.value)


def test_labels_that_weigh_nothing():
    with pytest.raises(InputError, match="holds only labels that weigh nothing"):
        train(make_batches=lambda epoch, rng: [make(np.flatnonzero(TRUTH == 2))], truth=np.array([0, 1]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_clip_is_named_and_nothing_is_lost(tmp_path, value):
    def broken(epoch, rng):
        items = batches(epoch, rng)

        def each(ids):
            batch = items.make(ids)
            if epoch == 2:
                batch.inputs[ids == 17] = value
            return batch

        return Batches(items.groups, each)

    net = Net(norm=False)
    with pytest.raises(ExperimentError, match=r"epoch 2, batch \d is not a finite number; the clips were clip17;"):
        train(net, make_batches=broken, folder=tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in net.parameters())
    resumed, log = train(Net(norm=False, seed=5), folder=tmp_path)
    assert log.starts[-1]["from_epoch"] == 2
    assert same(resumed, train(Net(norm=False))[0])


def test_infinite_gradient_is_refused():
    class Root(Net):
        def forward(self, points):
            return super().forward(points) + torch.sqrt((self.head.bias * 0).abs().sum())

    with pytest.raises(ExperimentError, match="gradient of epoch 0, batch 0 is not a finite number; the clips"):
        train(Root())


@pytest.mark.parametrize("answer", [{}, {"war": 0.5}, {"uar": math.nan}])
def test_judge_without_an_answer(answer):
    with pytest.raises(ExperimentError, match="has no finite number named uar"):
        train(judge=lambda net: answer)


def test_devices_and_precisions(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="use auto or cpu"):
        pick_device("cuda")
    with pytest.raises(InputError, match="use bf16, auto or no"):
        train(plan=dataclasses.replace(PLAN, precision="fp16"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert pick_precision("auto", torch.device("cpu")) == "bf16"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert pick_precision("auto", torch.device("cpu")) == "no"
    with autocast(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


# helpers


def test_length_batches_deal_all_clips_once():
    for n in (1, 8, 9, 33):
        groups = length_batches(np.arange(1, n + 1), 8, np.random.default_rng(0))
        assert sorted(np.concatenate(groups)) == list(range(n)) and max(map(len, groups)) <= 8
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
    chosen = length_batches(np.arange(1, 11), 2, np.random.default_rng(0), positions=[3, 3, 9])
    assert sorted(np.concatenate(chosen)) == [3, 3, 9]
    for lengths in ([], [0.0], [-1.0], [math.nan]):
        with pytest.raises(InputError):
            length_batches(lengths, 8, np.random.default_rng(0))


def test_balanced_sample_uses_each_clip_before_repeating():
    truth = np.repeat([0, 1], [3, 9])
    drawn = balanced_sample(truth, np.random.default_rng(0))
    assert np.bincount(truth[drawn]).tolist() == [6, 6]
    times = np.bincount(drawn, minlength=12)
    assert times[:3].tolist() == [2, 2, 2] and times[3:].max() == 1
    assert class_weights([0, 0, 2], 3).tolist() == [0.75, 0.0, 1.5]


def test_spec_augment_leaves_the_original_and_short_clips():
    mel = torch.randn(80, 100)
    kept, changed = mel.clone(), spec_augment(mel, np.random.default_rng(1))
    assert torch.equal(mel, kept) and not torch.equal(mel, changed)
    assert spec_augment(torch.randn(4, 1), np.random.default_rng(1)).shape == (4, 1)
    with pytest.raises(InputError, match="is no spectrogram"):
        spec_augment(torch.randn(3), np.random.default_rng(1))


def test_mixup_refuses_lists():
    with pytest.raises(InputError, match="pad the clips"):
        mixup(Batch([torch.ones(3)], torch.tensor([0])), 3, np.random.default_rng(0))


def test_rows_of_lists_and_tensors():
    inputs = {"a": [torch.ones(1), torch.zeros(2)], "b": (np.arange(2), None)}
    taken = to_device(inputs, torch.device("cpu"), torch.tensor([1]), 2)
    assert len(taken["a"]) == 1 and taken["b"][0].tolist() == [1] and taken["b"][1] is None
    with pytest.raises(InputError, match="do not fit 3 targets"):
        to_device(torch.ones(2), torch.device("cpu"), torch.tensor([1]), 3)


def test_beginnings_are_whole_words():
    assert longest_beginning("layers.10.bias", ["layers.1", "", "layers"]) == "layers"
    assert longest_beginning("head.bias", ["heads", "hea"]) is None
    table = parameter_table(Net(), PARTS)
    assert table.rate["frozen.weight"] == 0 and table.from_epoch["encoder.0.bias"] == 2
    assert table.decay["head.bias"] == 0 < table.decay["head.weight"]


def test_predict_keeps_order_and_mode():
    model = Net().train()
    proba = predict(model, [make(np.arange(7)), make(np.arange(7, 60))])
    np.testing.assert_allclose(proba, predict(model, [make(np.arange(60))]), atol=1e-6)
    assert model.training and np.allclose(proba.sum(1), 1, atol=1e-5)
    with pytest.raises(InputError, match="nothing to predict"):
        predict(model, [])


def people(speakers, labels=2):
    rows = [(f"{s:02d}", "fm"[s % 3 == 0], str(e)) for s in range(speakers) for e in range(labels)]
    return pd.DataFrame(rows, columns=["speaker", "gender", "emotion"])


def test_validation_speakers_come_from_training_and_both_genders():
    table = people(24)
    train = np.flatnonzero(table.speaker.astype(int) < 18)
    for seed in range(5):
        fit, validation = split_speakers(table, train, 6, seed)
        assert sorted([*fit, *validation]) == train.tolist()
        assert not set(table.speaker[fit]) & set(table.speaker[validation])
        people_there = table.loc[validation].drop_duplicates("speaker")
        assert people_there.gender.value_counts().to_dict() == {"f": 4, "m": 2}
    assert (split_speakers(table, train, 6, 1)[1] != split_speakers(table, train, 6, 2)[1]).any()


def test_validation_speakers_that_cannot_be():
    with pytest.raises(CorpusError, match="leave nobody"):
        split_speakers(people(1))
    with pytest.raises(CorpusError, match="leave nobody"):
        split_speakers(people(4), share=4)
    with pytest.raises(InputError, match="training positions"):
        split_speakers(people(4), [99])
    only = people(3).assign(emotion=["a", "b", "a", "b", "c", "d"])
    with pytest.raises(CorpusError, match="is left without a clip to learn from"):
        for seed in range(9):
            split_speakers(only, share=1, seed=seed)


def test_judge_refuses_what_it_cannot_use():
    with pytest.raises(InputError, match="only once"):
        judge_on(iter([VALID]), LABELS)
    with pytest.raises(InputError, match="not all within 0 to 1"):
        judge_on([VALID], LABELS[:2])(Net(outputs=2))


def test_history_is_drawn():
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    _, log = train()
    assert plot_history(ax, log) is not None
    assert plot_history(ax, train(judge=None)[1]) is None
    assert f"kept: epoch {log.best}" in log._repr_markdown_()
    plt.close(figure)
