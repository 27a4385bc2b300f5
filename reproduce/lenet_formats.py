"""Scalar formats on three LeNets: one for every weight, chosen for each tensor, and trained through the format."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.events import Events
from featherweight.formats import Clustered, Format, Int
from featherweight.search.sensitivity import label
from featherweight.techniques import Encode, Finetune, Train
from featherweight.training.methods import Centroids, StraightThrough
from featherweight.zoo.tasks import resolve
from reproduce.plots import front
from reproduce.results import ACCURACY, Check, Measured, Paper, Plot, Row
from reproduce.settings import Outcome, Setting, measured, parity, row

ABOUT = (
    "LeNet-300-100, LeNet-5 and LeNet in scalar formats: uniform, allocated by sensitivity, and fine-tuned."
)
REMARKS = [
    ACCURACY,
    "Formats were chosen on 5,000 validation images held out of the training set.",
    "The file holds weights, biases, graph, recipe and index; the ratio counts all of it.",
]
POSTER = Paper("5.1x, no loss", "Sharma, Olson, Chalfin, Hot Chips 2017: LeNet (MNIST), their quantization")
EXEMPT = "biases (float32)"
NETWORKS = {"LeNet-300-100": "lenet300-mnist", "LeNet-5": "lenet5-mnist", "LeNet": "lenet-mnist"}


def settings(train: Train) -> list[Setting]:
    """Return every row of the table, the float file first."""
    ternary = Int(bits=2, per="channel", scale_by="mse")
    uniform: list[Format] = [*(Int(bits=bits, per="channel", scale_by="mse") for bits in (8, 4, 3)), ternary]
    uniform += [Clustered(bits=bits) for bits in (4, 3, 2)]
    made = [Setting("float", "float32 file", [train])]
    made += [Setting("uniform", label(f), [train, Encode(format=f, coder="smallest")]) for f in uniform]
    made += [
        Setting("allocated", f"within {drop} points on validation", "auto", max_drop=drop)
        for drop in (0.1, 0.5)
    ]
    for format_, method, name in (
        (Clustered(bits=2), Centroids(), "centroids"),
        (ternary, StraightThrough(), "straight-through"),
    ):
        tuned = Finetune(format=format_, method=method, coder="smallest", epochs=2, lr=1e-3)
        made.append(Setting("fine-tuned", f"{label(format_)}, {name}", [train, tuned]))
    return made


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every network, setting and seed; quick: one small network, one seed, one epoch."""
    chosen = settings(Train(epochs=1) if quick else Train())
    if quick:
        chosen = [setting for setting in chosen if setting.steps != "auto"]
    outcomes: list[Outcome] = []
    for network, task in list(NETWORKS.items())[: 1 if quick else None]:
        seeds = [0] if quick else [0, 1, 2]
        outcomes += measured(network, resolve(task, events, trained=False), chosen, seeds, threads, events)
    rows = [_row(outcome) for outcome in outcomes]
    checks = [parity(outcomes), *([] if quick else _checks(rows))]
    return Measured(rows, checks)


def plot(rows: Sequence[Row]) -> Plot:
    """Return accuracy against ratio."""
    return front(rows, 3)


def _row(outcome: Outcome) -> Row:
    compared = outcome.network == "LeNet" and outcome.setting.method == "allocated"
    return row(outcome, EXEMPT, POSTER if compared else None)


def _checks(rows: Sequence[Row]) -> list[Check]:
    checks = []
    for line in rows:
        if line.method == "allocated" and "0.1" in line.setting:
            change, name = 100 * (line.accuracy - line.baseline), f"{line.network}, {line.data}"
            chance = f", p = {line.paired.p:.2g}" if line.paired else ""
            checks.append(
                Check(
                    f"{name}: allocated keeps its accuracy on test", "-0.1 points or better",
                    f"{change:+.2f} points at {line.ratio:.1f}x{chance}", change >= -0.1 - 1e-9,
                )
            )  # fmt: skip
            if line.paper is POSTER:
                checks.append(
                    Check(f"{name}: ratio", "above the poster's 5.1x", f"{line.ratio:.1f}x", line.ratio > 5.1)
                )
    return checks
