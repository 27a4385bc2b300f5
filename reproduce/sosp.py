"""SOSP beside other saliencies: one network, one shot, one short fine-tuning, the same cost; then in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from msgspec.structs import replace
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from featherweight.delivery.summary import Summary
from featherweight.events import Events
from featherweight.packing import unpack
from featherweight.recipe import Recipe
from featherweight.report.plot import new_figure, svg
from featherweight.runtime import Runtime
from featherweight.runtime.timing import interleaved
from featherweight.search import Compressed, compress
from featherweight.task.classification import Classification
from featherweight.techniques import AnyStep, Finetune, Prune
from featherweight.techniques.saliencies import Fpgm, Magnitude, Obd, Saliency, SospH, SospI, Taylor
from featherweight.zoo.tasks import resolve
from reproduce import torch_pruning
from reproduce.results import Check, Measured, Plot, Row, Sheet, mean_spread, row_of
from reproduce.short import Short

ABOUT = "Structured pruning in one shot: SOSP-H and SOSP-I beside OBD, Taylor, norms and Torch-Pruning."
ABOUT_VGG16 = "The comparison of sosp on VGG-16, a plain stack of convolutions without residuals."
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
SAMPLES = 256
SALIENCIES: dict[str, Saliency] = {
    "SOSP-H": SospH(samples=SAMPLES),
    "SOSP-I": SospI(samples=SAMPLES, draws=4),
    "OBD": Obd(samples=SAMPLES),
    "Taylor": Taylor(samples=SAMPLES),
    "L2": Magnitude(),
    "FPGM": Fpgm(),
}
RIVALS: dict[str, torch_pruning.Importance] = {
    "Torch-Pruning, L2": "magnitude",
    "Torch-Pruning, Taylor": "taylor",
}
ROUNDS = "SOSP-I in 3 rounds"
BY_EIGHT = "SOSP-I, channels by 8"  # numbers of them that vector instructions fill
MAIN = ("SOSP-H", "SOSP-I", "Taylor", "L2", ROUNDS)
EPOCHS, STEPS, BATCH = 4, 12, 128
VALIDATION = 1000
FINETUNE = Finetune(epochs=EPOCHS, optimizer="nesterov", lr=0.02, weight_decay=5e-4, precision="bfloat16")


Cost = Literal["macs", "parameters"]


@dataclass(frozen=True)
class Rate:
    """What is left of what."""

    keep: float
    of: Cost

    @property
    def name(self) -> str:
        """As the table says it."""
        return f"{100 * self.keep:g} % of {'MACs' if self.of == 'macs' else self.of}"


RATES = (Rate(0.5, "macs"), Rate(0.3, "macs"), Rate(0.125, "parameters"))


@dataclass(frozen=True)
class Case:
    """A network that is pruned.

    Attributes:
        network: its name.
        task: of the zoo, which comes trained.
        seeds: of saliencies and fine-tuning.
        methods: at each rate; None: all.
    """

    network: str
    task: str
    seeds: tuple[int, ...]
    methods: Mapping[Rate, Sequence[str] | None]


RESNET20 = Case(
    "ResNet-20", "resnet20-cifar10", (0, 1, 2), {RATES[0]: None, RATES[1]: (*MAIN, BY_EIGHT), RATES[2]: MAIN}
)
VGG16 = Case("VGG-16", "vgg16-cifar10", (0, 1), {RATES[0]: tuple(SALIENCIES), RATES[2]: MAIN})


@dataclass(frozen=True, eq=False)
class Made:
    """One seed of a method at a rate: the file, and the shares of multiply-accumulates and parameters left."""

    result: Compressed
    macs: float
    parameters: float


@dataclass(frozen=True, eq=False)
class Point:
    """A method at a rate, over the seeds."""

    method: str
    rate: Rate
    made: Sequence[Made]

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and spread on test."""
        found = [m.result.summary for m in self.made]
        return mean_spread([summary.test[summary.primary] for summary in found])

    def left(self, of: Cost) -> float:
        """Mean share of the network's cost."""
        return mean_spread([m.macs if of == "macs" else m.parameters for m in self.made])[0]


def measure(case: Case, quick: bool, threads: int, events: Events) -> Measured:
    """Measure every method at every rate; quick: two of them at one rate, hardly trained."""
    seeds = case.seeds[:1] if quick else case.seeds
    whole = cast(Classification, resolve(case.task, events))
    task = Short(whole, 2, 128, test=256) if quick else Short(whole, STEPS, VALIDATION)
    base = compress(task, Recipe([]), threads=threads, events=events)
    rates = {RATES[0]: ["SOSP-H", "L2"]} if quick else case.methods
    points = [
        Point(method, rate, [made(task, method, rate, seed, threads, events) for seed in seeds])
        for rate, names in rates.items()
        for method in names or methods()
    ]
    return Measured(
        rows=[_row(base.summary, case.network, task.dataset, point) for point in points],
        checks=[] if quick else [check for rate in rates for check in _checks(rate, points)],
        plots=[_plot(base.summary, case.network, points)],
        remarks=_remarks(quick, any(point.method in RIVALS for point in points)),
        sheets=[_sheet(task, base, points, threads, 0.05 if quick else 0.5)],
    )


def methods() -> list[str]:
    """Return every method that can be measured here."""
    return [*SALIENCIES, *(RIVALS if torch_pruning.installed() else ()), ROUNDS, BY_EIGHT]


def made(task: Short, method: str, rate: Rate, seed: int, threads: int, events: Events) -> Made:
    """Prune the task's network by a method, fine-tune it, write it, and count what it costs."""
    whole, example = spent(task.model(), task.example()), task.example()
    if method in RIVALS:
        place = ("macs", "parameters").index(rate.of)
        network = torch_pruning.torch_pruned(
            task, RIVALS[method], seed, lambda module: spent(module, example)[place], rate.keep * whole[place]
        )
        task = Short(task, task.steps, VALIDATION, model=network)
    steps = recipe(method, rate)
    result = compress(task, steps, seed=seed, threads=threads, events=events)
    left = spent(unpack(result.artifact, task).module, example)
    return Made(result, left[0] / whole[0], left[1] / whole[1])


def recipe(method: str, rate: Rate) -> Recipe:
    """Return the steps of a method; what comes pruned is fine-tuned alone."""
    if method in RIVALS:
        return Recipe([FINETUNE])
    saliency = SALIENCIES["SOSP-I" if method in (ROUNDS, BY_EIGHT) else method]
    rounds = (1, 1, EPOCHS - 2) if method == ROUNDS else (EPOCHS,)
    multiple = 8 if method == BY_EIGHT else 1
    prune = Prune(keep=rate.keep ** (1 / len(rounds)), of=rate.of, saliency=saliency, multiple=multiple)
    steps: list[AnyStep] = []
    for epochs in rounds:
        steps += [prune, replace(FINETUNE, epochs=epochs)]
    return Recipe(steps)


def spent(module: nn.Module, example: Any) -> tuple[int, int]:
    """Return the multiply-accumulates of a network on `example`, and its parameters."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        module.eval()(example)
    return flops.get_total_flops() // 2, sum(parameter.numel() for parameter in module.parameters())


def _row(base: Summary, network: str, data: str, point: Point) -> Row:
    found = [m.result.summary for m in point.made]
    line = row_of(
        found,
        network=network,
        data=data,
        method=point.method,
        setting=point.rate.name,
        exempt="nothing is encoded (float32)",
    )
    size = line.nbytes  # what a rival has pruned is compared with the whole network, too
    return replace(
        line, baseline=base.baseline["test"][base.primary], ratio=base.float_bytes / size, paired=None
    )


def _sheet(task: Short, base: Compressed, points: Sequence[Point], threads: int, seconds: float) -> Sheet:
    """Return what each point costs, counted and timed: the file of the first seed, all in turns, one image a call."""
    image = np.asarray(task.example())[:1]
    files = [base.artifact, *(point.made[0].result.artifact for point in points)]
    calls = {
        f"{runtime} {number}": partial(file.session(runtime=runtime, threads=threads).run, image)
        for number, file in enumerate(files)
        for runtime in RUNTIMES
    }
    speed = {t.name: 1000 / t.milliseconds for t in interleaved(calls, seconds=seconds)}
    head = ["left", "method", "MACs", "parameters", "validation after pruning", "after fine-tuning"]
    head += [f"frames a second, {runtime}" for runtime in RUNTIMES]
    head += [f"times as fast, {runtime}" for runtime in RUNTIMES]
    rows: list[list[int | float | str | None]] = []
    for number, point in enumerate(points, 1):
        summaries = [m.result.summary for m in point.made]
        before, after = (
            mean_spread([s.stages[k].metrics[s.primary] for s in summaries])[0] for k in (-2, -1)
        )
        frames = [speed[f"{runtime} {number}"] for runtime in RUNTIMES]
        gains = [f / speed[f"{runtime} 0"] for f, runtime in zip(frames, RUNTIMES, strict=True)]
        rows.append(
            [
                point.rate.name, point.method,
                *(f"{100 * share:.1f} %" for share in (point.left("macs"), point.left("parameters"))),
                f"{100 * before:.1f} %", f"{100 * after:.1f} %",
                *(f"{f:,.0f}" for f in frames), *(f"{g:.2f}x" for g in gains),
            ]
        )  # fmt: skip
    return Sheet("What is left, and how fast it runs", head, rows)


def _checks(rate: Rate, points: Sequence[Point]) -> list[Check]:
    """Return whether costs are equal at a rate, whether SOSP-H leads, and what rounds give."""
    here = {point.method: point for point in points if point.rate == rate}
    one_shot = {name: point for name, point in here.items() if name not in (ROUNDS, BY_EIGHT)}
    shares = [point.left(rate.of) for name, point in here.items() if name not in (*RIVALS, BY_EIGHT)]
    best = max(one_shot, key=lambda name: one_shot[name].accuracy[0])
    led = here[best].accuracy
    first, second = (here[name].accuracy for name in ("SOSP-H", "SOSP-I"))
    checks = [
        Check(
            f"{rate.name}: the cost left is equal",
            "within 1 % of each other",
            f"{100 * min(shares):.2f} % to {100 * max(shares):.2f} %",
            max(shares) <= 1.01 * min(shares),
        ),
        Check(
            f"{rate.name}: SOSP-H or SOSP-I leads in one shot",
            f"none better than {_said(max(first, second))}",
            f"best is {best}, {_said(led)}",
            best in ("SOSP-H", "SOSP-I"),
        ),
        Check(
            f"{rate.name}: SOSP-H against SOSP-I", f"{_said(second)} or more", _said(first), first >= second
        ),
    ]
    if ROUNDS in here:
        rounds, name = here[ROUNDS].accuracy, f"{rate.name}: rounds against one shot, as long fine-tuned"
        checks.append(Check(name, f"better than {_said(second)}", _said(rounds), rounds > second))
    return checks


def _said(accuracy: tuple[float, float]) -> str:
    return f"{100 * accuracy[0]:.2f} +- {100 * accuracy[1]:.2f} %"


def _remarks(quick: bool, rivals: bool) -> list[str]:
    own = f"Torch-Pruning {torch_pruning.installed()}, its defaults." if rivals else ""
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        "Seeds draw the samples of the saliencies and the order of fine-tuning; the float network is one.",
        f"Fine-tuning is {EPOCHS * STEPS} batches of {BATCH} images for all: a comparison, not what can be reached.",
        f"Settings were chosen on validation images ({VALIDATION} here); saliencies see {SAMPLES} training images.",
        own or "Torch-Pruning was not measured.",
        "Speeds are of the first seed, one image a call, every file in turns in one run.",
        "ImageNet's ResNet-50, which the paper prunes, is more than the machine of this run trains.",
        *(["Quick form: its figures are not results."] if quick else []),
    ]


def _plot(base: Summary, network: str, points: Sequence[Point]) -> Plot:
    """Return a panel for each rate: the accuracy of each method."""
    rates = list(dict.fromkeys(point.rate for point in points))
    figure = new_figure(3.6 * len(rates), 3.4)
    for ax, rate in zip(figure.subplots(1, len(rates), squeeze=False).flat, rates, strict=True):
        here = [point for point in points if point.rate == rate]
        means, spreads = ([100 * point.accuracy[k] for point in here] for k in (0, 1))
        ax.errorbar(
            means, [point.method for point in here], xerr=spreads, fmt="o", capsize=2, color="#4d7ea8"
        )
        ax.axvline(100 * base.baseline["test"][base.primary], color="#4d4d4d", linestyle="--", linewidth=1)
        ax.invert_yaxis()
        ax.set_title(f"{network}, {rate.name}", fontsize=9)
        ax.set_xlabel("test accuracy, %")
        ax.tick_params(labelsize=7)
    return Plot("sosp.svg", svg(figure))
