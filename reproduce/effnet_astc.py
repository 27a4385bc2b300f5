"""EfficientNet-Lite0 in ASTC blocks, without training: share of images with the same top-1 as the float model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from msgspec.structs import replace
from torch import Tensor

from featherweight.events import Events, silent
from featherweight.formats import AnyFormat, Astc, Fixed, Int
from featherweight.formats.astc.tables import Footprint
from featherweight.formats.coders import AnyCoder, Cabac
from featherweight.model import Model
from featherweight.task import Task
from featherweight.techniques import Context, Encode, Fold, Gptq
from featherweight.zoo.tasks import resolve
from reproduce.astc import sqnr
from reproduce.plots import front
from reproduce.results import AGREEMENT, Cell, Check, Measured, Plot, Row, Sheet
from reproduce.settings import REST, Outcome, Setting, Steps, measured, parity, row
from reproduce.tasks import agreement

ABOUT = (
    "EfficientNet-Lite0 (ImageNet weights) in ASTC blocks without training: agreement with the float network."
)
REMARKS = [
    AGREEMENT,
    "The file is computed by ONNX Runtime; no label was used.",
    "A quarter of the images calibrates, a quarter chose the settings, and half is test, used once.",
    "Arm's encoder has the same ranges of channels and the same exempt layers; its blocks know no importance.",
    "Bits count all weights, also depthwise layers and the stem; integers are coded by context (CABAC).",
]
NETWORK = "EfficientNet-Lite0"
FED = "ASTC, error feedback"
EXEMPT = "depthwise and stem (int8), biases (float16)"
INT8 = Int(bits=8, scale_by="mse")
FRAGILE: dict[str, AnyFormat] = {"*depthwise.conv.weight": INT8, "stem.conv.weight": INT8}
OTHERS = ["weights", *(f"!{name}" for name in FRAGILE)]
SWEEP = Gptq(samples=512, places=24, damping=0.2)  # with 0.01 it overfits few images


@dataclass(frozen=True)
class Goal:
    """What is asked of a footprint.

    Attributes:
        agreement: share of test images with the same top-1 as the float model.
        integers: take about as many bits a weight, coded by context.
    """

    agreement: float
    integers: Int


GOALS: dict[Footprint, Goal] = {
    "4x4": Goal(0.98, Int(bits=8, scale_by="mse")),
    "5x4": Goal(0.94, Int(bits=7, scale_by="mse")),
    "5x5": Goal(0.88, Int(bits=8, per="tensor", scale_by=9e-4)),
    "6x6": Goal(0.70, Int(bits=8, per="tensor", scale_by=8e-3)),
}


def settings(footprint: Footprint) -> list[Setting]:
    """Return what is compared: two encoders, error feedback, integers of as many bits."""
    blocks, integers = Astc(footprint=footprint), GOALS[footprint].integers
    return [
        Setting("ASTC, Arm's -thorough", footprint, encoded(replace(blocks, preset="astcenc"))),
        Setting("ASTC, encoded", footprint, encoded(blocks)),
        Setting(FED, footprint, fed_back(blocks, Fixed())),
        Setting("integers, error feedback", f"bits of {footprint}", fed_back(integers, Cabac())),
    ]


def encoded(format_: AnyFormat) -> Steps:
    """Return each weight encoded on its own."""
    return [Fold(), Encode(where=list(FRAGILE), format=INT8), Encode(where=OTHERS, format=format_), REST]


def fed_back(format_: AnyFormat, coder: AnyCoder) -> Steps:
    """Return error feedback: each block compensates the output error of those before it."""
    return [Fold(), replace(SWEEP, format=format_, formats=FRAGILE, coder=coder), REST]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every footprint and the layers one by one; quick: 6x6 encoded alone."""
    task = agreement(resolve("efficientnet-lite0-imagenet", events))
    chosen = settings("6x6")[1:2] if quick else [s for footprint in GOALS for s in settings(footprint)]
    outcomes = measured(NETWORK, task, chosen, [0], threads, events)
    checks, sheets = [parity(outcomes)], [bits(outcomes)]
    if not quick:
        fed = [outcome for outcome in outcomes if outcome.setting.method == FED]
        checks += [check(outcome, goal.agreement) for outcome, goal in zip(fed, GOALS.values(), strict=True)]
        images = torch.cat([task.inputs(batch) for batch in task.batches("validation", seed=0, epoch=0)])
        ratios = layers(task, images, "6x6", events)
        checks.append(none_worse(ratios))
        sheets.append(sheet(ratios))
    rows = [row(outcome, EXEMPT) for outcome in outcomes]
    return Measured(rows, checks, sheets)


def plot(rows: Sequence[Row]) -> Plot:
    """Return agreement against ratio."""
    return front(rows, 100.0)


def check(outcome: Outcome, goal: float) -> Check:
    """Return whether agreement on test reaches the goal."""
    (found,) = outcome.summaries
    kept = found.test[found.primary]
    name = f"{outcome.setting.method}, {outcome.setting.setting}: agreement on test"
    return Check(name, f"{goal:.0%}", f"{kept:.1%}", kept >= goal)


def bits(outcomes: Sequence[Outcome]) -> Sheet:
    """Return bits a weight, all weights counted, beside the agreement on validation and test."""
    lines: list[list[Cell]] = []
    for outcome in outcomes:
        (found,) = outcome.summaries
        weights = [entry for entry in found.rows if len(entry.shape) > 1]
        mean = 8 * sum(entry.nbytes for entry in weights) / sum(prod(entry.shape) for entry in weights)
        kept = [f"{100 * part[found.primary]:.1f} %" for part in (found.validation, found.test)]
        lines.append([outcome.setting.method, outcome.setting.setting, f"{mean:.2f}", *kept])
    return Sheet("Bits a weight", ["method", "setting", "bits, all weights", "validation", "test"], lines)


Ratios = dict[str, tuple[float, float]]


def layers(task: Task, inputs: Tensor, footprint: Footprint, events: Events = silent) -> Ratios:
    """Return `sqnr` of every layer, each weight encoded by itself and with error feedback.

    Args:
        task: calibrates the feedback.
        inputs: of the network, that no layer was calibrated on.
        footprint: of all layers, depthwise ones too.
        events: where progress goes.
    """
    context, blocks = Context(events=events), Astc(footprint=footprint)
    floats = Fold().apply(Model.of(task.model()), task, context)
    steps = Encode(format=blocks), replace(SWEEP, format=blocks, inputs="float")
    alone, fed = (sqnr(floats.module, step.apply(floats, task, context).module, inputs) for step in steps)
    return {name: (ratio, fed[name]) for name, ratio in alone.items()}


def none_worse(ratios: Ratios) -> Check:
    """Return whether error feedback makes no layer worse."""
    worse = [f"{name} ({fed - alone:+.2f} dB)" for name, (alone, fed) in ratios.items() if fed < alone]
    said = ", ".join(worse) or f"none of {len(ratios)}"
    return Check("layers that error feedback makes worse", "none", said, not worse)


def sheet(ratios: Ratios) -> Sheet:
    """Return the layers one by one."""
    head = ["layer", "each weight by itself, dB", "error feedback, dB"]
    lines: list[list[Cell]] = [
        [name, round(alone, 2), round(fed, 2)] for name, (alone, fed) in ratios.items()
    ]
    return Sheet("Signal to noise of each layer's output alone, all at 6x6, on validation", head, lines)
