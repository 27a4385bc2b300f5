"""The loop against a plain one, killed and resumed, and on networks and tasks that do not behave."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killing import Killed, killed_at
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from tiny import Tiny
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from featherweight import Classification
from featherweight.capture.execution import Execution
from featherweight.capture.memory_format import channels_last
from featherweight.capture.pytree import flatten_inputs
from featherweight.errors import TaskError, UnsupportedError
from featherweight.events import Finished, Message, Progress, Started
from featherweight.formats import Clustered, Int
from featherweight.model import Model, equal_bits, share, to_bytes
from featherweight.task import Restricted
from featherweight.task.protocol import known_length
from featherweight.task.training import Training, learning_rate
from featherweight.training import loop
from featherweight.training.gradients import straight_through
from featherweight.training.loop import Objective, minimise, number, of_network
from featherweight.training.losses import Goal
from featherweight.training.methods import Centroids, StraightThrough

TASK = Tiny(size=96)


def floats(model):
    return [name for name, tensor in model.tensors.items() if isinstance(tensor, nn.Parameter)]


def surrogates(model):
    """One surrogate of each kind that has state of its own."""
    first, second = model.tensors["0.weight"], model.tensors["4.weight"]
    int2, clustered = Int(bits=2), Clustered(bits=3)
    return {
        "0.weight": StraightThrough(refresh=4).surrogate(first, int2.encode(first.detach().numpy())),
        "4.weight": Centroids().surrogate(second, clustered.encode(second.detach().numpy())),
        "8.weight": StraightThrough(refresh=5).surrogate(
            model.tensors["8.weight"], clustered.encode(model.tensors["8.weight"].detach().numpy())
        ),
    }


def plain(task, options, seed):
    """The same training as anyone would write it."""
    module = task.model().train()
    decay = [p for p in module.parameters() if p.dim() > 1]
    rest = [p for p in module.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(options.momentum, 0.999))
    else:
        optimizer = torch.optim.SGD(
            groups, lr=1.0, momentum=options.momentum, nesterov=options.optimizer == "nesterov"
        )
    for epoch in range(options.epochs):
        torch.manual_seed(number(seed, epoch))
        batches = task.batches("train", seed=seed, epoch=epoch)
        for i, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, epoch + (i + 0.5) / len(batches))
            optimizer.zero_grad()
            task.loss(module(channels_last(task.inputs(batch))), batch).backward()
            if options.clip:
                nn.utils.clip_grad_norm_([*decay, *rest], options.clip)
            optimizer.step()
    return module.state_dict()


@pytest.mark.parametrize("options", [
    Training(epochs=3, lr=0.1, weight_decay=1e-2),
    Training(epochs=2, lr=0.1, optimizer="nesterov", clip=0.1, schedule=[0.5], warmup=0.3),
    Training(epochs=2, lr=0.01, optimizer="adamw", weight_decay=0.1, schedule="constant"),
])  # fmt: skip
def test_equals_a_plain_loop_bit_for_bit(options):
    model = Model.of(TASK.model())
    found = minimise(model, floats(model), {}, of_network(model, TASK, seed=5), options)
    with torch.random.fork_rng():
        expected = plain(TASK, options, 5)
    assert found.keys() == expected.keys()
    assert all(equal_bits(found[name], expected[name]) for name in expected)


def result(values, stand_ins):
    return {name: to_bytes(t) for name, t in values.items()} | {
        name: s.freeze().decode().tobytes() for name, s in stand_ins.items()
    }


def train(folder, events=lambda event: None, optimizer="adam", save_seconds=0.0):
    model = Model.of(TASK.model())
    stand_ins = surrogates(model)
    rest = [name for name in floats(model) if name not in stand_ins]
    options = Training(epochs=3, lr=0.01, optimizer=optimizer)
    values = minimise(
        model,
        rest,
        stand_ins,
        of_network(model, TASK, seed=2),
        options,
        scratch=folder,
        events=events,
        save_seconds=save_seconds,
    )
    return result(values, stand_ins)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resumes_to_the_same_bytes(tmp_path, optimizer):
    undisturbed = train(None, optimizer=optimizer)
    for kill_at in range(1, 10):
        folder = tmp_path / str(kill_at)
        with killed_at(kill_at):
            train(folder, optimizer=optimizer)
        assert (folder / "training.safetensors").exists() == (kill_at > 1)
        steps = []
        assert train(folder, steps.append, optimizer) == undisturbed
        assert [e.done for e in steps if isinstance(e, Progress)][-1] == 9
        assert train(folder, optimizer=optimizer) == undisturbed  # from the checkpoint before the last step


def test_resumes_after_sigkill(tmp_path):
    code = (
        "import os, signal, test_loop, featherweight.training.state as c\n"
        "save = c.Checkpoint.save\n"
        "def dying(self, state, position):\n"
        "    save(self, state, position)\n"
        "    if position.taken == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "c.Checkpoint.save = dying\n"
        f"test_loop.train(test_loop.Path({str(tmp_path)!r}))\n"
    )
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert train(tmp_path) == train(None)


def spoiled(content, how):
    if how == "another run":
        return content
    if how == "cut":
        return content[:-7]
    tensors, size = load_safetensors(content), int.from_bytes(content[:8], "little")
    if how == "a tensor short":  # of the optimizer, which is read last
        del tensors[max(name for name in tensors if name.startswith("optimizer/"))]
    return save_safetensors(tensors, json.loads(content[8 : 8 + size])["__metadata__"])


@pytest.mark.parametrize("how", ["another run", "cut", "a tensor short"])
def test_a_checkpoint_that_cannot_be_used_is_dropped_with_a_word(tmp_path, how):
    train(tmp_path)
    file, other = tmp_path / "training.safetensors", {"optimizer": "sgd"} if how == "another run" else {}
    file.write_bytes(spoiled(file.read_bytes(), how))
    heard = []
    found = train(tmp_path, heard.append, **other)
    (said,) = [event.text for event in heard if isinstance(event, Message)]
    assert "starts again" in said
    assert found == train(None, **other)


def test_tells_what_it_does():
    heard = []
    train(None, heard.append)
    assert isinstance(heard[0], Started) and heard[0].total == 9
    assert isinstance(heard[-1], Finished)
    figures = [event.figures for event in heard if isinstance(event, Progress)]
    assert [f["epoch"] for f in figures] == [1, 2, 3]
    assert all(math.isfinite(f["loss"]) for f in figures)


@dataclasses.dataclass(frozen=True)
class Strange(Tiny):
    """A task that breaks one promise."""

    broken: str = ""

    def batches(self, split, *, seed, epoch):
        if self.broken == "empty":
            return []
        batches = super().batches(split, seed=seed, epoch=epoch)
        return iter(batches) if self.broken == "no length" else batches

    def loss(self, output, batch):
        value = super().loss(output, batch)
        return {
            "nan": value * float("nan"),
            "vector": value.expand(3),
            "detached": value.detach(),
            "float": 3.0,
        }.get(self.broken, value)


@pytest.mark.parametrize(("broken", "message"), [
    ("nan", r"not finite: got nan in epoch 0, step 0\nhint: .*lower lr"), ("vector", "not a scalar"),
    ("detached", "does not depend"), ("float", "not a scalar: got float"), ("empty", "no batches"),
])  # fmt: skip
def test_tasks_that_break_their_promises(broken, message):
    task = Strange(size=64, broken=broken)
    model = Model.of(task.model())
    with pytest.raises(TaskError, match=message):
        minimise(model, floats(model), {}, of_network(model, task), Training(epochs=1))


def test_a_batch_that_is_not_finite_names_its_sample():
    x = POINTS[0].clone()
    x[13, 2] = math.nan
    task = Classification(
        nn.Linear(4, 3), train=list(zip(x.split(6), POINTS[1].split(6), strict=True)), **SPLITS
    )
    model = Model.of(task.model())
    with pytest.raises(TaskError, match=r"nan in epoch 0, step 2\nhint: sample 1 of the batch holds NaN"):
        minimise(model, floats(model), {}, of_network(model, task), Training(epochs=1))


def test_batches_without_a_length():
    """The rate then stands still within an epoch; everything else is as before."""
    task, options = Strange(size=64, broken="no length"), Training(epochs=2, lr=0.05, schedule="constant")
    model = Model.of(task.model())
    found = minimise(model, floats(model), {}, of_network(model, task), options)
    assert all(
        equal_bits(found[k], v)
        for k, v in minimise(model, floats(model), {}, of_network(model, Tiny(size=64)), options).items()
    )


class Odd(nn.Module):
    """Tied weights, a module used twice, an LSTM, a buffer put in place anew, one that is not saved."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.twice = nn.Linear(8, 8)
        self.again = self.twice
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(8, 8)
        self.decoder.weight = self.encoder.weight
        self.out = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("hidden", torch.zeros(()), persistent=False)

    def forward(self, x):
        x, _ = self.lstm(x.squeeze(1))
        self.seen = self.seen + 1
        self.hidden += 1
        x = self.again(torch.relu(self.twice(x)))
        return self.out(self.decoder(torch.relu(self.encoder(x))).mean(1))


class OddTask(Tiny):
    def model(self):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return Odd()


def test_tied_and_shared_and_stateful_modules():
    task, options = OddTask(size=64), Training(epochs=3, lr=0.5)
    model = Model.of(task.model())
    hidden = model.module.hidden.clone()
    found = minimise(model, floats(model), {}, of_network(model, task), options)
    with torch.random.fork_rng():
        expected = plain(task, options, 0)
    assert set(model.aliases) == {"again.weight", "again.bias", "decoder.weight"}
    assert set(found) == set(expected) - set(model.aliases)
    assert found["seen"] == 6 and model.module.seen == 0
    assert equal_bits(model.module.hidden, hidden)
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    after = model.with_tensors(found).module
    assert after.decoder.weight is after.encoder.weight


def test_only_what_is_named_trains():
    model = Model.of(TASK.model())
    found = minimise(model, ["8.bias"], {}, of_network(model, TASK), Training(epochs=1))
    assert not equal_bits(found["8.bias"], model.tensors["8.bias"])
    assert "8.weight" not in found


def test_nothing_to_train_is_said():
    with pytest.raises(UnsupportedError, match=r"nothing is left to train\nhint: every parameter"):
        model = Model.of(TASK.model())
        minimise(model, [], {}, of_network(model, TASK), Training(epochs=1))


def test_a_last_update_that_overflows_names_the_tensor():
    once = dataclasses.replace(TASK, batch=96)
    with pytest.raises(TaskError, match=r"0.weight: training has diverged"):
        model = Model.of(once.model())
        minimise(
            model,
            floats(model),
            {},
            of_network(model, once),
            Training(epochs=1, lr=3e38, weight_decay=1e3, schedule="constant"),
        )


def test_a_surrogate_that_overflows_names_the_tensor():
    model = Model.of(TASK.model())
    one = {"0.weight": surrogates(model)["0.weight"]}
    with pytest.raises(TaskError, match=r"0.weight: training has diverged"):
        minimise(
            model,
            [],
            one,
            of_network(model, TASK),
            Training(epochs=1, lr=3e38, weight_decay=1e3, schedule="constant"),
        )


def test_running_statistics_that_overflow_are_named_and_masks_of_infinity_are_not():
    class Measuring(nn.Module):
        def __init__(self, seen):
            super().__init__()
            self.linear = nn.Linear(64, 4)
            self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
            self.register_buffer("seen", torch.tensor(1.0))
            self.factor = seen

        def forward(self, x):
            self.seen = self.seen * self.factor
            return self.linear(x.flatten(1))

    one = Training(epochs=1)
    model, diverging = Model.of(Measuring(1.0)), Model.of(Measuring(1e38))
    minimise(model, ["linear.weight"], {}, of_network(model, TASK), one)
    with pytest.raises(TaskError, match="seen: training has diverged"):
        minimise(diverging, ["linear.weight"], {}, of_network(diverging, TASK), one)


def rates(monkeypatch, task, options):
    """The learning rate of every step, and the number of steps that it said there would be."""
    seen, heard = [], []
    monkeypatch.setattr(loop, "learning_rate", lambda o, e: seen.append(learning_rate(o, e)) or seen[-1])
    model = Model.of(task.model())
    minimise(model, floats(model), {}, of_network(model, task), options, events=heard.append)
    groups = 2  # tensors with weight decay, and those without
    return seen[::groups], heard[0].total


class Unsized:
    """Batches that do not tell how many they are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Flow(IterableDataset):
    """Samples one after the other."""

    def __iter__(self):
        return iter(list(zip(*POINTS, strict=True)))


class Sized(Flow):
    def __len__(self):
        return 60


POINTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def counted(train):
    return not isinstance(train, Unsized) and type(getattr(train, "dataset", None)) is not Flow


@dataclasses.dataclass(frozen=True)
class Generated(Tiny):
    """A task of one's own whose batches are a generator, of another length in every epoch."""

    lengths: tuple[int, ...] = (4, 4)

    def batches(self, split, *, seed, epoch):
        yield from list(super().batches(split, seed=seed, epoch=epoch))[: self.lengths[epoch]]


@pytest.mark.parametrize("lengths", [(3, 3), (3, 1), (1, 3)])
def test_batches_that_are_a_generator_are_counted(monkeypatch, lengths):
    task = Generated(size=96, lengths=lengths)
    found, total = rates(monkeypatch, task, Training(epochs=2, lr=1.0))
    assert total == 2 * lengths[0] and len(found) == sum(lengths)
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx((1 + math.cos(math.pi / 4 / lengths[0])) / 2)


SPLITS = {"validation": POINTS, "test": POINTS, "calibration": POINTS}


@pytest.mark.parametrize("train", [
    POINTS,
    TensorDataset(*POINTS),
    DataLoader(TensorDataset(*POINTS), batch_size=6, shuffle=True),
    DataLoader(TensorDataset(*POINTS), batch_size=6, sampler=RandomSampler(POINTS[0], replacement=True)),
    list(zip(POINTS[0].split(6), POINTS[1].split(6), strict=True)),
    Unsized(list(zip(POINTS[0].split(6), POINTS[1].split(6), strict=True))),
    DataLoader([(x, int(y)) for x, y in zip(*POINTS, strict=True)], batch_size=6, num_workers=2),
    DataLoader(Flow(), batch_size=6),
    DataLoader(Sized(), batch_size=6),
    DataLoader(Flow(), batch_size=6, num_workers=1),
], ids=["tensors", "dataset", "loader", "draws", "list", "unsized", "workers", "flow", "sized", "flow of a worker"],
)  # fmt: skip
def test_the_rate_moves_with_every_step_whatever_the_batches_come_from(monkeypatch, train):
    task = Classification(nn.Linear(4, 3), train=train, batch_size=6, **SPLITS)
    expected = [(1 + math.cos(math.pi * (step + 0.5) / 10)) / 2 for step in range(10)]
    assert rates(monkeypatch, task, Training(epochs=1, lr=1.0)) == (pytest.approx(expected), 10)
    warm, total = rates(monkeypatch, task, Training(epochs=2, lr=1.0, schedule="constant", warmup=0.5))
    assert warm == pytest.approx([min(1.0, (step + 0.5) / 10) for step in range(20)]) and total == 20
    restricted = Restricted(task, "unlabelled").batches("train", seed=0, epoch=0)
    assert known_length(restricted) == (10 if counted(train) else None)


class Drawing(Dataset):
    """An augmentation that draws from torch's generator, as torchvision's do."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return POINTS[0][index] + 0.1 * torch.randn(4), POINTS[1][index]


def test_a_resumed_run_is_the_same_where_the_loader_and_dropout_draw_from_torch(tmp_path):
    network = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    sampler = RandomSampler(Drawing(), replacement=True, num_samples=60)
    loader = DataLoader(Drawing(), batch_size=6, sampler=sampler)
    task = Classification(network, train=loader, **SPLITS)
    model = Model.of(task.model())

    def train(folder, loss=None):
        return minimise(
            model,
            floats(model),
            {},
            of_network(model, task, loss and Goal(loss)),
            Training(epochs=2, lr=0.1),
            scratch=folder,
            save_seconds=0,
        )

    taken = []

    def dying(output, batch, features):
        taken.append(1)
        if len(taken) == 15:
            raise Killed
        return task.loss(output, batch)

    with pytest.raises(Killed):
        train(tmp_path / "killed", dying)
    resumed, whole = train(tmp_path / "killed"), train(tmp_path / "whole")
    assert all(equal_bits(resumed[name], whole[name]) for name in whole)


def test_a_stage_trains_against_what_was_kept_of_another_network():
    """An objective is free in its batches, its forward and its loss: here two layers, inputs and outputs at hand."""
    teacher, student = (Model.of(Tiny().model()) for _ in range(2))
    with torch.no_grad():
        student.module[4].weight.mul_(0.5)
    images = TASK.data("train", 64)[0]
    kept = teacher.module[:4](images).detach(), teacher.module[:6](images).detach()

    def forward(values, batch):
        x = torch.conv2d(batch[0], values["4.weight"], values["4.bias"])
        return torch.relu(x)

    pairs = list(zip(*(part.split(16) for part in kept), strict=True))
    stage = Objective("stage", lambda epoch: pairs, forward, lambda y, batch: (y - batch[1]).square().mean())
    options = Training(epochs=40, lr=0.01, optimizer="adam")
    found = minimise(student, ["4.weight", "4.bias"], {}, stage, options)
    assert equal_bits(found["1.running_mean"], student.tensors["1.running_mean"])
    before, after = (
        sum(stage.loss(forward(values, pair), pair).item() for pair in pairs)
        for values in (student.tensors, found)
    )
    assert after < 0.01 * before


def through_program(model, visit=None):
    """The objective of the whole network, computed operator by operator."""
    execution = Execution(
        model.program(TASK.example()).training(share(model.module).train()), visit, grad=True
    )
    return dataclasses.replace(
        of_network(model, TASK, seed=5),
        forward=lambda values, batch: execution(flatten_inputs(model.module, batch[0]), values)[0],
    )


def test_trains_through_the_captured_program_to_the_same_bytes():
    model = Model.of(TASK.model())
    options = Training(epochs=2, lr=0.05)
    found = minimise(model, floats(model), {}, through_program(model), options)
    expected = minimise(model, floats(model), {}, of_network(model, TASK, seed=5), options)
    assert all(equal_bits(found[name], expected[name]) for name in expected)


def test_trains_with_what_is_done_on_edges():
    """Rounding on an edge of the graph, with the identity as its gradient, as quantizers do."""
    seen = set()

    def visit(edge, value):
        if edge not in ("relu", "relu_1"):
            return value
        seen.add(edge)
        return straight_through((value.detach() * 4).round() / 4, value)

    model = Model.of(TASK.model())
    heard = []
    options = Training(epochs=8, lr=0.05)
    minimise(model, floats(model), {}, through_program(model, visit), options, events=heard.append)
    losses = [event.figures["loss"] for event in heard if isinstance(event, Progress)]
    assert seen == {"relu", "relu_1"} and losses[-1] < 0.7 * losses[0]
