"""Low rank: AlexNet on small images with a fifth of its parameters, by singular values, with and without data."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.task import Task
from featherweight.techniques import Factorize, Finetune
from featherweight.techniques.lowrank import Given
from reproduce.plots import ranking
from reproduce.results import ACCURACY, Cell, Check, Measured, Plot, Row, Sheet
from reproduce.settings import Outcome, Setting, left, measured, row
from reproduce.tasks import short

ABOUT = (
    "AlexNet's linear layers as products of thinner ones: ranks, errors weighed by data, a short fine-tuning."
)
GOAL, MOST_DROP = 5.0, 1.0  # times fewer parameters; points
RANK = Given(rank=176)  # of both large layers: a fifth of the network's parameters is left
NEAREST = Factorize(where="classifier.*.weight", form="channel", rank=RANK)
WEIGHED = replace(NEAREST, samples=512)
EPOCHS, STEPS = 2, 12
FINETUNE = Finetune(
    epochs=EPOCHS, optimizer="nesterov", lr=1e-3, weight_decay=5e-4, clip=5.0, precision="bfloat16"
)
SETTINGS = [
    Setting("nearest weights", f"rank {RANK.rank}", [NEAREST]),
    Setting("weighed by inputs", f"rank {RANK.rank}", [WEIGHED]),
    Setting("weighed by inputs, fine-tuned", f"rank {RANK.rank}", [WEIGHED, FINETUNE]),
]
EXEMPT = "convolutions and the last layer; nothing is encoded (float32)"
REMARKS = [
    ACCURACY,
    "Weighed by inputs: least error of a layer's outputs on 512 calibration images, not of its weights.",
    f"Fine-tuning is {EPOCHS * STEPS} batches of 256 images.",
]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every way; quick: the last, hardly trained."""
    task = short("alexnet-cifar10", quick, 1 if quick else STEPS, events)
    found = measured("AlexNet", task, SETTINGS[-1:] if quick else SETTINGS, [0], threads, events)
    checks = [] if quick else [check for outcome in found[1:] for check in _checks(task, outcome)]
    return Measured([row(outcome, EXEMPT) for outcome in found], checks, [_sheet(task, found)])


def plot(rows: Sequence[Row]) -> Plot:
    """Return the accuracy of every way."""
    return ranking({"AlexNet, a fifth of its parameters": {row.method: row for row in rows}})


def _sheet(task: Task, found: Sequence[Outcome]) -> Sheet:
    rows: list[list[Cell]] = []
    for outcome in found:
        macs, parameters = left(outcome.files[0], task)
        (summary,) = outcome.summaries
        after = summary.validation[summary.primary]
        seconds = sum(stage.seconds for stage in summary.stages[1:])
        rows.append([outcome.setting.method, parameters, macs, f"{100 * after:.2f} %", f"{seconds:.0f}"])
    return Sheet("What is left", ["way", "parameters", "MACs of an image", "validation", "seconds"], rows)


def _checks(task: Task, outcome: Outcome) -> list[Check]:
    (summary,) = outcome.summaries
    fewer = summary.parameters / left(outcome.files[0], task)[1]
    change = 100 * (summary.test[summary.primary] - summary.baseline["test"][summary.primary])
    way = outcome.setting.method
    return [
        Check(f"{way}: fewer parameters", f"{GOAL:g}x", f"{fewer:.2f}x", fewer >= GOAL),
        Check(
            f"{way}: accuracy on test", f"-{MOST_DROP:g} points or better", f"{change:+.2f} points",
            change >= -MOST_DROP,
        ),
    ]  # fmt: skip
