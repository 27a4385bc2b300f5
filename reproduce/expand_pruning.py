"""Pruning as architecture search: what pruning spares is too narrow; widen that, retrain, prune again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from featherweight.events import Events
from featherweight.graph.groups import Channels
from featherweight.model import Model
from featherweight.packing import unpack
from featherweight.recipe import Recipe, run
from featherweight.report.plot import new_figure, svg
from featherweight.search import Compressed, compress
from featherweight.task.classification import Classification
from featherweight.techniques import AnyStep, Finetune, Prune, Widen
from featherweight.techniques.saliencies import SospI
from featherweight.techniques.structured.eligible import eligible
from featherweight.zoo.tasks import resolve
from reproduce.results import Check, Measured, Plot, Row, Sheet, mean_spread, row_of
from reproduce.short import Short

ABOUT = (
    "Pruning finds the bottlenecks of ResNet-20; widened, retrained and pruned again, against other widths."
)
WHERE = "layer*.conv1.weight"  # the channels within a block; those between blocks stay
LEFT = 0.5  # of the parameters, where bottlenecks are looked for, and of all networks in the end
FOUND = 3  # groups that keep most are bottlenecks
SALIENCY = SospI(samples=256, draws=4)
FINETUNE = Finetune(epochs=4, optimizer="nesterov", lr=0.02, weight_decay=5e-4, precision="bfloat16")
WAYS = ("no width", "bottlenecks", "random, equal cost", "all")


@dataclass(frozen=True, eq=False)
class Way:
    """Which groups become twice as wide, by seed, and what came of it."""

    name: str
    widened: Sequence[tuple[str, ...]]
    found: Sequence[Compressed]
    parameters: Sequence[int]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every way to widen; quick: one seed, hardly trained."""
    whole = cast(Classification, resolve("resnet20-cifar10", events))
    task = Short(whole, 2, 128, test=256) if quick else Short(whole, 24, 1000)
    seeds = (0,) if quick else (0, 1, 2)
    channels, shares = spared(task, threads, events)
    names = WAYS[1:3] if quick else WAYS
    ways = [_way(task, name, channels, shares, seeds, threads, events) for name in names]
    rows = [_row(task.dataset, way) for way in ways]
    checks = [] if quick else _checks(ways)
    return Measured(rows, checks, [_plot(ways)], _remarks(quick), [_shares(channels, shares), _ways(ways)])


def spared(task: Short, threads: int, events: Events) -> tuple[Channels, dict[str, float]]:
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
    task: Short, name: str, channels: Channels, shares: dict[str, float],
    seeds: Sequence[int], threads: int, events: Events,
) -> Way:  # fmt: skip
    limit = LEFT * _parameters(Model.of(task.model()))
    widened, found, parameters = [], [], []
    for seed in seeds:
        groups = chosen(name, channels, shares, seed)
        wide: list[AnyStep] = [Widen(where=[f"{group}.weight" for group in groups])] if groups else []
        first = run(Recipe(wide), task, seed=seed, threads=threads, events=events)[-1].model
        keep = limit / _parameters(first)
        prune = Prune(keep=keep, of="parameters", saliency=SALIENCY, where=WHERE)
        steps = Recipe([*wide, FINETUNE, prune, FINETUNE])
        result = compress(task, steps, seed=seed, threads=threads, events=events)
        widened.append(groups)
        found.append(result)
        parameters.append(_parameters(unpack(result.artifact, task)))
    return Way(name, widened, found, parameters)


def _parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def _accuracy(way: Way) -> tuple[float, float]:
    return mean_spread([f.summary.test[f.summary.primary] for f in way.found])


def _row(data: str, way: Way) -> Row:
    return row_of(
        [f.summary for f in way.found],
        network="ResNet-20",
        data=data,
        method=way.name,
        setting="twice as wide, pruned again" if any(way.widened) else "pruned",
        exempt="nothing is encoded (float32)",
    )


def _shares(channels: Channels, shares: dict[str, float]) -> Sheet:
    sizes = {group.name: group.size for group in channels.groups}
    rows: list[list[int | float | str | None]] = [
        [name, sizes[name], f"{100 * share:.0f} %"] for name, share in shares.items()
    ]
    return Sheet("What pruning spares", ["channels of", "before", "kept"], rows)


def _ways(ways: Sequence[Way]) -> Sheet:
    rows: list[list[int | float | str | None]] = [
        [way.name, seed, ", ".join(groups) or "none", parameters]
        for way in ways
        for seed, (groups, parameters) in enumerate(zip(way.widened, way.parameters, strict=True))
    ]
    return Sheet("What was widened", ["way", "seed", "groups", "parameters in the end"], rows)


def _checks(ways: Sequence[Way]) -> list[Check]:
    accuracy = {way.name: _accuracy(way)[0] for way in ways}
    counts = [count for way in ways for count in way.parameters]
    own = accuracy["bottlenecks"]
    return [
        Check(
            "parameters in the end", "within 1 % of each other", f"{min(counts):,} to {max(counts):,}",
            max(counts) <= 1.01 * min(counts),
        ),
        *(
            Check(
                f"bottlenecks against {name}", f"better than {100 * accuracy[name]:.2f} %", f"{100 * own:.2f} %",
                own > accuracy[name],
            )
            for name in WAYS
            if name != "bottlenecks"
        ),
    ]  # fmt: skip


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        f"All are trained 96 batches before and after they are pruned to {100 * LEFT:g} % of ResNet-20's parameters.",
        f"Bottlenecks are the {FOUND} groups that keep the largest share of their channels in a first pruning.",
        "The paper's control widens all layers by 1.1; here all are doubled and pruned back to the same size.",
        *(["Quick form: its figures are not results."] if quick else []),
    ]


def _plot(ways: Sequence[Way]) -> Plot:
    figure = new_figure(5.5, 2.6)
    ax = figure.subplots()
    means, spreads = ([100 * _accuracy(way)[k] for way in ways] for k in (0, 1))
    ax.errorbar(means, [way.name for way in ways], xerr=spreads, fmt="o", capsize=2, color="#4d7ea8")
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy, %, at equal parameters")
    return Plot("expand-pruning.svg", svg(figure))
