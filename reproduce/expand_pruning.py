"""Pruning as architecture search: what pruning spares is too narrow; widen that, retrain, prune again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from featherweight.events import Events
from featherweight.graph.channels import Channels
from featherweight.model import Model
from featherweight.recipe import Recipe, run
from featherweight.task import Task
from featherweight.techniques import Finetune, Prune, Widen
from featherweight.techniques.saliencies import SospI
from featherweight.techniques.surgery import eligible
from reproduce.plots import ranking
from reproduce.results import ACCURACY, Cell, Check, Measured, Plot, Row, Sheet
from reproduce.settings import Outcome, Setting, Steps, left, measured, row
from reproduce.tasks import short

ABOUT = (
    "Pruning finds the bottlenecks of ResNet-20; widened, retrained and pruned again, against other widths."
)
WHERE = "layer*.conv1.weight"  # the channels within a block; those between blocks stay
LEFT = 0.5  # of the parameters, where bottlenecks are looked for, and of all networks in the end
FOUND = 3  # groups that keep most are bottlenecks
SALIENCY = SospI(samples=256, draws=4)
FINETUNE = Finetune(epochs=4, optimizer="nesterov", lr=0.02, weight_decay=5e-4, precision="bfloat16")
WAYS = ("no width", "bottlenecks", "random, equal cost", "all")
REMARKS = [
    ACCURACY,
    f"All are trained 96 batches before and after they are pruned to {100 * LEFT:g} % of ResNet-20's parameters.",
    f"Bottlenecks are the {FOUND} groups that keep the largest share of their channels in a first pruning.",
    "The paper's control widens all layers by 1.1; here all are doubled and pruned back to the same size.",
]


@dataclass(frozen=True, eq=False)
class Way:
    """Which groups become twice as wide, by seed, and what came of it."""

    widened: Sequence[tuple[str, ...]]
    outcome: Outcome
    parameters: Sequence[int]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every way to widen; quick: one seed, hardly trained."""
    task = short("resnet20-cifar10", quick, 24, events)
    channels, shares = spared(task, threads, events)
    names = WAYS[1:3] if quick else WAYS
    ways = [_way(task, name, channels, shares, 1 if quick else 3, threads, events) for name in names]
    rows = [row(way.outcome, "nothing is encoded (float32)") for way in ways]
    return Measured(rows, [] if quick else _checks(ways), [_shares(channels, shares), _ways(ways)])


def plot(rows: Sequence[Row]) -> Plot:
    """Return the accuracy of every way."""
    return ranking({"ResNet-20, equal parameters": {row.method: row for row in rows}})


def spared(task: Task, threads: int, events: Events) -> tuple[Channels, dict[str, float]]:
    """Return the groups of channels within blocks, and the share of each that pruning keeps."""
    before = Model.of(task.model())
    channels, _ = eligible(before, task, WHERE)
    step = Prune(keep=LEFT, of="parameters", saliency=SALIENCY, where=WHERE)
    after = run(Recipe([step]), task, threads=threads, events=events)[-1].model
    names = [group.name for group in channels.groups]
    width = {n: (len(after.tensors[f"{n}.weight"]), len(before.tensors[f"{n}.weight"])) for n in names}
    return channels, {name: left / whole for name, (left, whole) in width.items()}


def chosen(name: str, channels: Channels, shares: dict[str, float], seed: int) -> tuple[str, ...]:
    """Return the groups that a way to widen doubles."""
    narrow = tuple(sorted(shares, key=lambda group: -shares[group])[:FOUND])
    if name == "random, equal cost":
        return equally_dear(channels, narrow, seed)
    return {"no width": (), "bottlenecks": narrow, "all": tuple(shares)}[name]


def equally_dear(channels: Channels, groups: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return other groups, one set drawn of the 16 whose doubling costs most nearly as many parameters.

    A group's cost is taken to be that of its channels, each alone.
    """
    costs = np.array([group.size * group.parameters for group in channels.groups])
    names = [group.name for group in channels.groups]
    sets = (np.arange(1, 2 ** len(names))[:, None] >> np.arange(len(names)) & 1).astype(bool)
    own = np.isin(names, groups)
    sets = sets[~(sets == own).all(1)]
    nearest = np.argsort(np.abs(sets @ costs - own @ costs), kind="stable")[:16]
    taken = sets[np.random.default_rng(seed).choice(nearest)]
    return tuple(name for name, is_in in zip(names, taken, strict=True) if is_in)


def _way(
    task: Task,
    name: str,
    channels: Channels,
    shares: dict[str, float],
    seeds: int,
    threads: int,
    events: Events,
) -> Way:
    limit, said = LEFT * _parameters(task.model()), "twice as wide, pruned again"
    widened = [chosen(name, channels, shares, seed) for seed in range(seeds)]
    found: list[Outcome] = []
    for seed, groups in enumerate(widened):
        wide: Steps = [Widen(where=[f"{group}.weight" for group in groups])] if groups else []
        first = run(Recipe(wide), task, seed=seed, threads=threads, events=events)[-1].model
        prune = Prune(keep=limit / _parameters(first.module), of="parameters", saliency=SALIENCY, where=WHERE)
        setting = Setting(name, said if groups else "pruned", [*wide, FINETUNE, prune, FINETUNE])
        found += measured("ResNet-20", task, [setting], [seed], threads, events)
    outcome = replace(found[0], files=[one.files[0] for one in found])
    return Way(widened, outcome, [left(file, task)[1] for file in outcome.files])


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shares(channels: Channels, shares: dict[str, float]) -> Sheet:
    sizes = {group.name: group.size for group in channels.groups}
    rows: list[list[Cell]] = [[name, sizes[name], f"{100 * share:.0f} %"] for name, share in shares.items()]
    return Sheet("What pruning spares", ["channels of", "before", "kept"], rows)


def _ways(ways: Sequence[Way]) -> Sheet:
    rows: list[list[Cell]] = [
        [way.outcome.setting.method, seed, ", ".join(groups) or "none", parameters]
        for way in ways
        for seed, (groups, parameters) in enumerate(zip(way.widened, way.parameters, strict=True))
    ]
    return Sheet("What was widened", ["way", "seed", "groups", "parameters in the end"], rows)


def _checks(ways: Sequence[Way]) -> list[Check]:
    accuracy = {way.outcome.setting.method: 100 * way.outcome.accuracy[0] for way in ways}
    counts = [count for way in ways for count in way.parameters]
    own = accuracy.pop("bottlenecks")
    return [
        Check(
            "parameters in the end", "within 1 % of each other", f"{min(counts):,} to {max(counts):,}",
            max(counts) <= 1.01 * min(counts),
        ),
        *(
            Check(f"bottlenecks against {name}", f"better than {other:.2f} %", f"{own:.2f} %", own > other)
            for name, other in accuracy.items()
        ),
    ]  # fmt: skip
