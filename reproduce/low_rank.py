"""Low rank: AlexNet on small images with a fifth of its parameters, by singular values, with and without data."""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.packing import unpack
from featherweight.recipe import Recipe
from featherweight.report.plot import new_figure, svg
from featherweight.search import Compressed, compress
from featherweight.task.classification import Classification
from featherweight.techniques import AnyStep, Factorize, Finetune
from featherweight.techniques.lowrank.ranks import Given
from featherweight.zoo.tasks import resolve
from reproduce.results import Check, Measured, Plot, Row, Sheet, row_of
from reproduce.short import Short
from reproduce.sosp import spent

ABOUT = (
    "AlexNet's linear layers as products of thinner ones: ranks, errors weighed by data, a short fine-tuning."
)
GOAL, MOST_DROP = 5.0, 1.0  # times fewer parameters; points
RANK = Given(rank=176)  # of both large layers: a fifth of the network's parameters is left
NEAREST = Factorize(where="classifier.*.weight", form="channel", rank=RANK)
EPOCHS, STEPS = 2, 12
FINETUNE = Finetune(
    epochs=EPOCHS, optimizer="nesterov", lr=1e-3, weight_decay=5e-4, clip=5.0, precision="bfloat16"
)
WEIGHED = "weighed by inputs"
WAYS: dict[str, list[AnyStep]] = {
    "nearest weights": [NEAREST],
    WEIGHED: [replace(NEAREST, samples=512)],
    f"{WEIGHED}, fine-tuned": [replace(NEAREST, samples=512), FINETUNE],
}


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every way; quick: the last, hardly trained."""
    whole = cast(Classification, resolve("alexnet-cifar10", events))
    task = Short(whole, 1, 128, test=256) if quick else Short(whole, STEPS, 1000)
    ways = dict(list(WAYS.items())[-1:]) if quick else WAYS
    found = {
        name: compress(task, Recipe(steps), seed=0, threads=threads, events=events)
        for name, steps in ways.items()
    }
    rows = [_row(task.dataset, name, result) for name, result in found.items()]
    checks = [] if quick else [check for way in list(WAYS)[1:] for check in _checks(task, way, found[way])]
    return Measured(rows, checks, [_plot(rows)], _remarks(quick), [_sheet(task, found)])


def _row(data: str, name: str, found: Compressed) -> Row:
    return row_of(
        [found.summary],
        network="AlexNet",
        data=data,
        method=name,
        setting=f"rank {RANK.rank}",
        exempt="convolutions and the last layer; nothing is encoded (float32)",
    )


def _sheet(task: Short, found: dict[str, Compressed]) -> Sheet:
    rows: list[list[int | float | str | None]] = []
    for name, result in found.items():
        macs, parameters = spent(unpack(result.artifact, task).module, task.example()[:1])
        after = result.summary.validation[result.summary.primary]
        seconds = sum(stage.seconds for stage in result.summary.stages[1:])
        rows.append([name, parameters, macs, f"{100 * after:.2f} %", f"{seconds:.0f}"])
    return Sheet("What is left", ["way", "parameters", "MACs of an image", "validation", "seconds"], rows)


def _checks(task: Short, way: str, found: Compressed) -> list[Check]:
    summary = found.summary
    left = spent(unpack(found.artifact, task).module, task.example())[1]
    change = 100 * (summary.test[summary.primary] - summary.baseline["test"][summary.primary])
    return [
        Check(
            f"{way}: fewer parameters", f"{GOAL:g}x", f"{summary.parameters / left:.2f}x",
            summary.parameters >= GOAL * left,
        ),
        Check(
            f"{way}: accuracy on test", f"-{MOST_DROP:g} points or better", f"{change:+.2f} points",
            change >= -MOST_DROP,
        ),
    ]  # fmt: skip


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        "Weighed by inputs: least error of a layer's outputs on 512 calibration images, not of its weights.",
        f"Fine-tuning is {EPOCHS * STEPS} batches of 256 images.",
        *(["Quick form: its figures are not results."] if quick else []),
    ]


def _plot(rows: list[Row]) -> Plot:
    figure = new_figure(6.0, 2.6)
    ax = figure.subplots()
    ax.barh([row.method for row in rows], [100 * row.accuracy for row in rows], color="#4d7ea8")
    ax.axvline(100 * rows[0].baseline, color="#4d4d4d", linestyle="--", linewidth=1)
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy, %")
    return Plot("low-rank.svg", svg(figure))
