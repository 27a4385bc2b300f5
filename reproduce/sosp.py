"""SOSP beside other saliencies: one network, one shot, one short fine-tuning, the same cost; then in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from msgspec.structs import replace

from featherweight.events import Events
from featherweight.recipe import Recipe
from featherweight.runtime.timing import interleaved
from featherweight.search import Compressed, compress
from featherweight.task import Task
from featherweight.techniques import Finetune, Prune
from featherweight.techniques.saliencies import Fpgm, Magnitude, Obd, Saliency, SospH, SospI, Taylor
from reproduce import torch_pruning
from reproduce.plots import ranking
from reproduce.results import ACCURACY, Cell, Check, Measured, Plot, Row, Sheet, mean_spread
from reproduce.settings import Outcome, Setting, Steps, left, measured, row, spent
from reproduce.tasks import Short, short

ABOUT = "Structured pruning in one shot: SOSP-H and SOSP-I beside OBD, Taylor, norms and Torch-Pruning."
ABOUT_VGG16 = "The comparison of sosp on VGG-16, a plain stack of convolutions without residuals."
RUNTIMES = ("onnxruntime", "openvino")
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
FINETUNE = Finetune(epochs=EPOCHS, optimizer="nesterov", lr=0.02, weight_decay=5e-4, precision="bfloat16")
REMARKS = [
    ACCURACY,
    "Seeds draw the samples of the saliencies and the order of fine-tuning; the float network is one.",
    f"Fine-tuning is {EPOCHS * STEPS} batches of {BATCH} images for all: a comparison, not what can be reached.",
    f"Settings were chosen on 1,000 validation images; saliencies see {SAMPLES} training images.",
    f"Torch-Pruning {torch_pruning.installed() or '(not installed)'}, its defaults.",
    "Speeds are of the first seed, one image a call, every file in turns in one run.",
    "ImageNet's ResNet-50, which the paper prunes, is more than the machine of this run trains.",
]


Cost = Literal["macs", "parameters"]
COSTS: tuple[Cost, ...] = ("macs", "parameters")


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
class Point:
    """A method at a rate, over the seeds, and the mean shares of the network's costs that are left."""

    rate: Rate
    outcome: Outcome
    left: Mapping[Cost, float]

    @property
    def method(self) -> str:
        """Its name."""
        return self.outcome.setting.method


def measure(case: Case, quick: bool, threads: int, events: Events) -> Measured:
    """Measure every method at every rate; quick: two of them at one rate, hardly trained."""
    seeds = case.seeds[:1] if quick else case.seeds
    task = short(case.task, quick, STEPS, events)
    base = compress(task, Recipe([]), threads=threads, events=events)
    rates = {RATES[0]: ["SOSP-H", "L2"]} if quick else case.methods
    points = [
        pruned(case.network, task, method, rate, seeds, threads, events)
        for rate, names in rates.items()
        for method in names or methods()
    ]
    return Measured(
        rows=[_row(base, point) for point in points],
        checks=[] if quick else [check for rate in rates for check in _checks(rate, points)],
        sheets=[_sheet(task, base, points, threads, 0.05 if quick else 0.5)],
    )


def plot(rows: Sequence[Row]) -> Plot:
    """Return the accuracy of each method, a panel for each rate."""
    titles = dict.fromkeys(f"{row.network}, {row.setting}" for row in rows)
    return ranking(
        {title: {r.method: r for r in rows if f"{r.network}, {r.setting}" == title} for title in titles}
    )


def methods() -> list[str]:
    """Return every method that can be measured here."""
    return [*SALIENCIES, *(RIVALS if torch_pruning.installed() else ()), ROUNDS, BY_EIGHT]


def pruned(
    network: str, task: Short, method: str, rate: Rate, seeds: Sequence[int], threads: int, events: Events
) -> Point:
    """Prune the task's network by a method, fine-tune it, write it, and count what it costs, seed by seed.

    Args:
        network: its name in the table.
        task: gives the network and its data.
        method: one of `methods()`.
        rate: what is left of what.
        seeds: one file each.
        threads: compute threads.
        events: where progress goes.
    """
    example, setting = task.example(), Setting(method, rate.name, recipe(method, rate))
    whole = dict(zip(COSTS, spent(task.model(), example), strict=True))
    outcomes: list[Outcome] = []
    for seed in seeds:
        own = task
        if method in RIVALS:
            smaller = torch_pruning.torch_pruned(
                task, RIVALS[method], seed, lambda module: spent(module, example)[COSTS.index(rate.of)],
                rate.keep * whole[rate.of],
            )  # fmt: skip
            own = Short(task, task.steps, 1000, model=smaller)
        outcomes += measured(network, own, [setting], [seed], threads, events)
    files = [one.files[0] for one in outcomes]
    means = np.mean([left(file, task) for file in files], axis=0)
    shares = {cost: float(mean / whole[cost]) for cost, mean in zip(COSTS, means, strict=True)}
    return Point(rate, Outcome(network, task.dataset, setting, files), shares)


def recipe(method: str, rate: Rate) -> Steps:
    """Return the steps of a method; what comes pruned is fine-tuned alone."""
    if method in RIVALS:
        return [FINETUNE]
    saliency = SALIENCIES["SOSP-I" if method in (ROUNDS, BY_EIGHT) else method]
    rounds = (1, 1, EPOCHS - 2) if method == ROUNDS else (EPOCHS,)
    multiple = 8 if method == BY_EIGHT else 1
    prune = Prune(keep=rate.keep ** (1 / len(rounds)), of=rate.of, saliency=saliency, multiple=multiple)
    steps: Steps = []
    for epochs in rounds:
        steps += [prune, replace(FINETUNE, epochs=epochs)]
    return steps


def _row(base: Compressed, point: Point) -> Row:
    summary, line = base.summary, row(point.outcome, "nothing is encoded (float32)")
    # A network that a rival has pruned is compared with the whole network, too.
    return replace(
        line,
        baseline=summary.baseline["test"][summary.primary],
        ratio=summary.float_bytes / line.nbytes,
        paired=None,
    )


def _sheet(task: Task, base: Compressed, points: Sequence[Point], threads: int, seconds: float) -> Sheet:
    """Return what each point costs, counted and timed: the file of the first seed, all in turns, one image a call."""
    image = np.asarray(task.example())[:1]
    files = [base.artifact, *(point.outcome.files[0].artifact for point in points)]
    calls = {
        f"{runtime} {number}": partial(file.session(runtime=runtime, threads=threads).run, image)
        for number, file in enumerate(files)
        for runtime in RUNTIMES
    }
    speed = {t.name: 1000 / t.milliseconds for t in interleaved(calls, seconds=seconds)}
    head = ["left", "method", "MACs", "parameters", "validation after pruning", "after fine-tuning"]
    head += [f"frames a second, {runtime}" for runtime in RUNTIMES]
    head += [f"times as fast, {runtime}" for runtime in RUNTIMES]
    rows: list[list[Cell]] = []
    for number, point in enumerate(points, 1):
        stages = [[s.stages[k].metrics[s.primary] for s in point.outcome.summaries] for k in (-2, -1)]
        frames = [speed[f"{runtime} {number}"] for runtime in RUNTIMES]
        gains = [f / speed[f"{runtime} 0"] for f, runtime in zip(frames, RUNTIMES, strict=True)]
        shares = [*point.left.values(), *(mean_spread(stage)[0] for stage in stages)]
        rows.append(
            [
                point.rate.name, point.method, *(f"{100 * share:.1f} %" for share in shares),
                *(f"{f:,.0f}" for f in frames), *(f"{g:.2f}x" for g in gains),
            ]
        )  # fmt: skip
    return Sheet("What is left, and how fast it runs", head, rows)


def _checks(rate: Rate, points: Sequence[Point]) -> list[Check]:
    """Return whether costs are equal at a rate, whether SOSP-H leads, and what rounds give."""
    here = {point.method: point for point in points if point.rate == rate}
    one_shot = {name: point for name, point in here.items() if name not in (ROUNDS, BY_EIGHT)}
    shares = [point.left[rate.of] for name, point in here.items() if name not in (*RIVALS, BY_EIGHT)]
    best = max(one_shot, key=lambda name: one_shot[name].outcome.accuracy[0])
    led = here[best].outcome.accuracy
    first, second = (here[name].outcome.accuracy for name in ("SOSP-H", "SOSP-I"))
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
        rounds, name = (
            here[ROUNDS].outcome.accuracy,
            f"{rate.name}: rounds against one shot, fine-tuned equally long",
        )
        checks.append(Check(name, f"better than {_said(second)}", _said(rounds), rounds > second))
    return checks


def _said(accuracy: tuple[float, float]) -> str:
    return f"{100 * accuracy[0]:.2f} +- {100 * accuracy[1]:.2f} %"
