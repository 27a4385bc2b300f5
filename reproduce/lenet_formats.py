"""Scalar formats on three LeNets: every weight alike, chosen for each tensor, and trained through the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.delivery.summary import Summary
from featherweight.events import Events
from featherweight.formats import Clustered, Format, Int
from featherweight.recipe import Recipe
from featherweight.report.plot import logarithmic, new_figure, svg
from featherweight.search import compress
from featherweight.search.candidates import label
from featherweight.task import Task
from featherweight.techniques import Encode, Finetune, Train
from featherweight.training.methods import Centroids, StraightThrough
from featherweight.zoo.tasks import resolve
from reproduce.results import Check, Measured, Paper, Plot, Row, row_of

ABOUT = (
    "LeNet-300-100, LeNet-5 and LeNet in scalar formats: uniform, allocated by sensitivity, and fine-tuned."
)
POSTER = Paper("5.1x, no loss", "Sharma, Olson, Chalfin, Hot Chips 2017: LeNet (MNIST), their quantization")
EXEMPT = "biases (float32)"
PANELS = [("lenet300", "mnist"), ("lenet5", "mnist"), ("lenet", "mnist")]
NAMES = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5", "lenet": "LeNet"}


@dataclass(frozen=True)
class Setting:
    """One way to compress: what the table calls it, and what is asked of `compress`."""

    method: str
    setting: str
    recipe: Recipe | str
    max_drop: float | None = None


def settings(train: Train) -> list[Setting]:
    """Return every row of the table, the float file first."""
    uniform: list[Format] = [Int(bits=bits, per="channel", scale_by="mse") for bits in (8, 4, 3, 2)]
    uniform += [Clustered(bits=bits) for bits in (4, 3, 2)]
    made = [Setting("float", "float32 file", Recipe([train]))]
    made += [
        Setting("uniform", label(f), Recipe([train, Encode(format=f, coder="smallest")])) for f in uniform
    ]
    made += [Setting("allocated", f"within {drop} points on validation", "auto", drop) for drop in (0.1, 0.5)]
    two, ternary = Clustered(bits=2), Int(bits=2, per="channel", scale_by="mse")
    tuned = [
        (two, Centroids(), "centroids"),
        (ternary, StraightThrough(), "straight-through"),
    ]
    made += [
        Setting(
            "fine-tuned",
            f"{label(f)}, {name}",
            Recipe([train, Finetune(format=f, method=m, coder="smallest", epochs=2, lr=1e-3)]),
        )
        for f, m, name in tuned
    ]
    return made


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every network, data set, setting and seed; quick: one small network, one seed, one epoch."""
    panels = PANELS[:1] if quick else PANELS
    seeds = [0] if quick else [0, 1, 2]
    train = Train(epochs=1) if quick else Train()
    rows: list[Row] = []
    worst = 0.0
    for network, data in panels:
        task = resolve(f"{network}-{data}")
        for setting in settings(train):
            if quick and setting.recipe == "auto":
                continue
            found = [_one(task, setting, seed, threads, events) for seed in seeds]
            worst = max(worst, *(s.difference or 0.0 for s in found))
            rows.append(_row(NAMES[network], task, setting, seeds, found))
    return Measured(rows, _checks(rows, worst, quick), [_plot(rows)], _remarks(quick))


def _one(task: Task, setting: Setting, seed: int, threads: int, events: Events) -> Summary:
    return compress(
        task, setting.recipe, max_drop=setting.max_drop, seed=seed, threads=threads, events=events
    ).summary


def _row(network: str, task: Task, setting: Setting, seeds: list[int], found: Sequence[Summary]) -> Row:
    data = getattr(task, "dataset", task.name)
    return row_of(
        found,
        network=network,
        data=data,
        method=setting.method,
        setting=setting.setting,
        exempt=EXEMPT,
        paper=POSTER if (network, setting.method, data) == ("LeNet", "allocated", "MNIST") else None,
    )


def _checks(rows: Sequence[Row], worst: float, quick: bool) -> list[Check]:
    checks = [
        Check("runtime equals decoded module", "1e-5 of the output's scale", f"{worst:.1e}", worst <= 1e-5)
    ]
    if quick:
        return checks
    for row in rows:
        if row.method == "allocated" and "0.1" in row.setting:
            change = 100 * (row.accuracy - row.baseline)
            goal = 0.1 if row.data == "MNIST" else 0.3
            chance = f", p = {row.paired.p:.2g}" if row.paired else ""
            checks.append(
                Check(
                    f"{row.network}, {row.data}: allocated keeps its accuracy on test",
                    f"-{goal} points or better",
                    f"{change:+.2f} points at {row.ratio:.1f}x{chance}",
                    change >= -goal - 1e-9,
                )
            )
        if row.paper is POSTER and "0.1" in row.setting:
            checks.append(
                Check(
                    f"{row.network}, {row.data}: ratio",
                    "above the poster's 5.1x",
                    f"{row.ratio:.1f}x",
                    row.ratio > 5.1,
                )
            )
    return checks


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        "Formats were chosen on 5,000 validation images held out of the training set.",
        "The file holds weights, biases, graph, recipe and index; the ratio counts all of it.",
        *(["Quick form: one network, one seed, one epoch; its figures are not results."] if quick else []),
    ]


def _plot(rows: Sequence[Row]) -> Plot:
    panels = list(dict.fromkeys((r.network, r.data) for r in rows))
    figure = new_figure(4.4 * len(panels), 3.6)
    colours = {"float": "#4d4d4d", "uniform": "#9aa5b1", "allocated": "#b2182b", "fine-tuned": "#2166ac"}
    axes = figure.subplots(1, len(panels), squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        here = [r for r in rows if (r.network, r.data) == panel]
        for method, colour in colours.items():
            points = sorted((r.ratio, 100 * r.accuracy, 100 * r.spread) for r in here if r.method == method)
            if points:
                x, y, spread = zip(*points, strict=True)
                ax.errorbar(x, y, spread, fmt="o", color=colour, label=method, capsize=2)
        floor = 100 * here[0].baseline
        ax.axhline(floor, color="#4d4d4d", linestyle="--", linewidth=1)
        ax.set_ylim(max(0.0, floor - 2.5), floor + 0.4)
        logarithmic(ax)
        ax.set_title(", ".join(panel))
        ax.set_xlabel("ratio: 4 bytes a parameter / whole file")
        ax.set_ylabel("accuracy on test, %")
        ax.grid(alpha=0.3, which="both")
    axes.flat[0].legend(frameon=False)
    return Plot("front.svg", svg(figure))
