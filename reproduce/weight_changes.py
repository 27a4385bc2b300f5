"""How often weights and their symbols still change as training goes on, and what an update would cost in bytes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor, nn

from featherweight.events import Events
from featherweight.formats import Clustered, Encoded, Format, Int, StreamSpec
from featherweight.formats.coders import Cabac, Coder, Fixed, Huffman, Rans
from featherweight.model import Model
from featherweight.search.sensitivity import label
from featherweight.selectors import select
from featherweight.task import Task
from featherweight.techniques import Finetune, Train
from featherweight.techniques.training import trainable
from featherweight.training.loop import minimise, of_network
from featherweight.training.methods import Method, Project, StraightThrough
from featherweight.training.methods.base import Group, Surrogate
from featherweight.training.methods.latent import Latent
from featherweight.workspace import pinned
from featherweight.zoo.tasks import resolve
from reproduce.figure import new_figure, svg
from reproduce.results import Check, Measured, Plot, Sheet

ABOUT = (
    "LeNet-300-100 on MNIST, epoch by epoch: how far weights move, how many of their 4-bit symbols change, and "
    "what entropy coders make of the weights and of the changes."
)
REMARKS = [
    "Means over three seeds (one in the quick form); of the symbols of the three weight matrices, 266,200 together.",
    "Float training starts from random weights and never sees the projection after each epoch.",
    "Fine-tuning starts from its result, at a tenth of the rate. Both rates fall by a cosine.",
    "An update is the difference of symbols, modulo 16, to the epoch before.",
    "Scales (1.6 kB) or codebooks (0.2 kB) are fitted again after each epoch; bytes do not count them.",
]
NEVER = Project(every=1 << 40)  # float training
CODERS: tuple[Coder, ...] = (Fixed(), Huffman(), Rans(), Cabac())
FORMATS: tuple[Format, ...] = (Int(bits=4, scale_by="mse"), Clustered(bits=4))
ALPHABET = 16
TRAINING, TUNING = "float training, projected", "straight-through fine-tuning"

Snapshot = Mapping[str, Encoded]


class Recorded(Surrogate):
    """A surrogate with a float weight, and that weight as it was at the start and after every epoch."""

    def __init__(self, inner: Latent, steps: int) -> None:
        self.inner, self.steps = inner, steps
        self.weights = [inner.weight.detach().clone()]

    def __call__(self) -> Tensor:
        """Return the weight."""
        return self.inner()

    def parameters(self) -> list[nn.Parameter]:
        """Return what trains in the recorded surrogate."""
        return self.inner.parameters()

    def groups(self) -> list[Group]:
        """Return the groups of what is recorded."""
        return self.inner.groups()

    def after_step(self, step: int) -> None:
        """Do what the recorded surrogate does, and look at its weight at the end of an epoch."""
        self.inner.after_step(step)
        if step % self.steps == 0:
            self.weights.append(self.inner.weight.detach().clone())


@dataclass(frozen=True)
class Change:
    """What one epoch changed; shares are of all encoded weights.

    Attributes:
        drift: sum of `|w - w'|` over the sum of `|w|`, with `w'` an epoch later.
        since_last: share of symbols other than an epoch before.
        since_start: share of symbols other than at the start.
        entropy: of the differences of symbols to the epoch before, bits a weight at order 0.
        whole: bytes of the symbols by each of `CODERS`, `[coders]`.
        update: bytes of their differences to the epoch before, `[coders]`.
    """

    drift: float
    since_last: float
    since_start: float
    entropy: float
    whole: list[float]
    update: list[float]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every seed, training and format; quick: one seed, two epochs."""
    task, seeds = resolve("lenet300-mnist"), [0] if quick else [0, 1, 2]
    with pinned(threads):
        runs = [_one(task, seed, 2 if quick else 8, 2 if quick else 4, events) for seed in seeds]
    changes = {key: _mean([run[key] for run in runs]) for key in runs[0]}
    return Measured([], _checks(changes, quick), _sheets(changes), [_plot(changes)])


def _one(
    task: Task, seed: int, epochs: int, more: int, events: Events
) -> dict[tuple[str, str], list[Change]]:
    """Return the changes of every epoch, by training and format."""
    found: dict[tuple[str, str], list[Change]] = {}
    start = Model.of(task.model())
    train, tune = Train(epochs=epochs), Finetune(epochs=more, format=FORMATS[0])
    weights, trained = _recorded(start, task, train, NEVER, FORMATS[0], seed, events)
    for format in FORMATS:
        found[TRAINING, label(format)] = _changes(start, weights, format)
    for format in FORMATS:
        weights, _ = _recorded(trained, task, tune, StraightThrough(), format, seed, events)
        found[TUNING, label(format)] = _changes(start, weights, format)
    return found


def _recorded(
    model: Model,
    task: Task,
    step: Train | Finetune,
    method: Method,
    format: Format,
    seed: int,
    events: Events,
) -> tuple[list[dict[str, Tensor]], Model]:
    """Return the weights, in float, at the start and after each epoch; and the model at the end."""
    names, layout = select(model, "weights"), model.views
    length = sum(1 for _ in task.batches("train", seed=seed, epoch=0))
    surrogates = {}
    for name in names:
        weight = model.tensors[name].detach()
        inner = method.surrogate(weight, format.encode(weight.numpy(), view=layout[name]))
        assert isinstance(inner, Latent)
        surrogates[name] = Recorded(inner, length)
    floats = [name for name in trainable(model)[0] if name not in names]
    options = step.options(task)
    objective = of_network(model, task, seed=seed)
    values = minimise(model, floats, surrogates, objective, options, events=events, name="weight-changes")
    weights = [{name: s.weights[t] for name, s in surrogates.items()} for t in range(options.epochs + 1)]
    return weights, model.with_tensors({**values, **weights[-1]})


def _changes(model: Model, weights: Sequence[Mapping[str, Tensor]], format: Format) -> list[Change]:
    layout = model.views
    snapshots = [
        {name: format.encode(weight.numpy(), view=layout[name]) for name, weight in epoch.items()}
        for epoch in weights
    ]
    drifts = [
        sum(float((new[name] - old[name]).abs().sum()) for name in new)
        / sum(float(old[name].abs().sum()) for name in old)
        for old, new in itertools.pairwise(weights)
    ]
    pairs = zip(drifts, itertools.pairwise(snapshots), strict=True)
    return [_change(drift, snapshots[0], old, new) for drift, (old, new) in pairs]


def _change(drift: float, start: Snapshot, old: Snapshot, new: Snapshot) -> Change:
    """Return what lies between the snapshots of two epochs."""
    steps = {name: (new[name].symbols - old[name].symbols) % ALPHABET for name in new}  # unsigned: wraps
    far = [(new[name].symbols != start[name].symbols) for name in new]
    every = np.concatenate(list(steps.values()))
    shares = np.bincount(every, minlength=ALPHABET) / every.size
    present = shares[shares > 0]
    specs = {name: StreamSpec(s.size, ALPHABET, 0, new[name].spec.row_length) for name, s in steps.items()}
    return Change(
        drift=drift,
        since_last=float(np.count_nonzero(every) / every.size),
        since_start=float(np.concatenate(far).mean()),
        entropy=float(-present @ np.log2(present)),
        whole=[float(sum(len(entry.recoded(c).payload) for entry in new.values())) for c in CODERS],
        update=[float(sum(len(c.encode(steps[name], specs[name])) for name in steps)) for c in CODERS],
    )


def _mean(runs: Sequence[Sequence[Change]]) -> list[Change]:
    """Return the mean of every figure over runs, epoch by epoch."""
    names = [field.name for field in fields(Change)]
    return [
        Change(**{name: np.mean([getattr(c, name) for c in epoch], axis=0).tolist() for name in names})
        for epoch in zip(*runs, strict=True)
    ]


def _checks(changes: Mapping[tuple[str, str], Sequence[Change]], quick: bool) -> list[Check]:
    checks = []
    for (training, format), epochs in changes.items():
        first, last = epochs[0], epochs[-1]
        falls = f"{first.since_last:.1%} to {last.since_last:.1%}"
        less = f"{min(last.update) / 1e3:.1f} kB against {min(last.whole) / 1e3:.1f} kB"
        name = f"{training}, {format}"
        if not quick:
            checks.append(
                Check(
                    f"{name}: fewer symbols change",
                    "last epoch below the first",
                    falls,
                    last.since_last < first.since_last,
                )
            )
            checks.append(
                Check(
                    f"{name}: the last update",
                    "fewer bytes than the weights",
                    less,
                    min(last.update) < min(last.whole),
                )
            )
    return checks


def _sheets(changes: Mapping[tuple[str, str], Sequence[Change]]) -> list[Sheet]:
    names = [type(coder).__name__ for coder in CODERS]
    head = ["epoch", "drift", "changed", "since the start", "entropy of changes"]
    head += [f"weights, {name}" for name in names] + [f"update, {name}" for name in names]
    return [
        Sheet(
            f"{training}, {format}",
            head,
            [
                [
                    str(number),
                    f"{c.drift:.1%}",
                    f"{c.since_last:.1%}",
                    f"{c.since_start:.1%}",
                    f"{c.entropy:.2f} bits",
                    *(f"{size / 1e3:.1f} kB" for size in (*c.whole, *c.update)),
                ]
                for number, c in enumerate(epochs, 1)
            ],
        )
        for (training, format), epochs in changes.items()
    ]


def _plot(changes: Mapping[tuple[str, str], Sequence[Change]]) -> Plot:
    figure = new_figure(10.0, 3.8)
    left, right = figure.subplots(1, 2)
    colours = dict(zip(changes, ("#2166ac", "#b2182b", "#67a9cf", "#ef8a62"), strict=True))
    for key, epochs in changes.items():
        x = range(1, len(epochs) + 1)
        left.plot(x, [100 * c.since_last for c in epochs], "o-", color=colours[key], label=", ".join(key))
        right.plot(x, [min(c.whole) / 1e3 for c in epochs], "--", color=colours[key])
        right.plot(x, [min(c.update) / 1e3 for c in epochs], "o-", color=colours[key])
    left.set_ylabel("symbols changed since the epoch before, %")
    right.set_ylabel("kB: weights (dashed), update (solid), best coder")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    left.legend(frameon=False, fontsize=7)
    return Plot("changes.svg", svg(figure))
