"""Training through quantizers: the methods of papers at equal budgets, beside post-training and float training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec.structs import replace

from featherweight.evaluation.metrics import Evaluator
from featherweight.events import Events
from featherweight.formats import Basis, Format, Int
from featherweight.recipe import Recipe, run
from featherweight.runtime.timing import interleaved
from featherweight.task import Split, Task
from featherweight.techniques import AnyStep, Calibrate, Encode, Finetune, Fold, Gptq
from featherweight.training.losses import Distillation
from featherweight.training.methods import AnyMethod, Dorefa, Dsq, LqNets, Lsq, Pact
from featherweight.workspace import Workspace, pinned
from reproduce.figure import new_figure, svg
from reproduce.results import Cell, Check, Measured, Plot, Sheet, mean_spread
from reproduce.roofline import processor
from reproduce.settings import REST, Setting, measured
from reproduce.tasks import Short, short

ABOUT = (
    "ResNet-20 on small images with weights and activations of 4 and 2 bits: the methods of papers at equal, short "
    "budgets; training beside post-training."
)
SEEDS, STEPS, LONGER, QUICK = (0, 1, 2), 40, 175, 2
REMARKS = [
    (
        "Each training sees the same number of batches of 128 images, from the zoo's trained network, and float "
        "training as many. Learning rates are chosen for each method on validation, of the same three, with seed 0."
    ),
    (
        "What layers read and their weights are rounded; sums and what layers write stay in float, as in the papers. "
        "The first and the last layer have 8 bits, their weights rounded to nearest after training."
    ),
    "Accuracy is of the simulation on the test split; where files are named, of the file in ONNX Runtime.",
    (
        f"Budgets are short: {STEPS} or {LONGER} batches, where papers take up to 200 epochs. DoReFa and PACT squeeze "
        "weights by tanh and are trained from scratch there: from a trained network they have the longest way."
    ),
    (
        "Distilled: from the float network before training, without labels. Fitted steps: of least squared error; the "
        "paper's are 1.8 times as wide for normal weights of 4 bits."
    ),
    "The public weights of ResNet-20 have seen the validation images: it is higher than test, and tells less.",
]
INTEGERS = Int(scale_by="mse")
RATES = (0.01, 0.03, 0.1)
ENDS = ("conv1", "linear")


@dataclass(frozen=True)
class Way:
    """How a network is trained: by a method, towards formats of its own; or as it is, in float."""

    name: str
    method: AnyMethod | None = None
    format: Int | Basis = INTEGERS
    loss: Distillation | None = None

    def steps(self, ends: Sequence[str], bits: int, lr: float) -> list[AnyStep]:
        """Return the training, and what goes before and after it."""
        tuned = Finetune(
            epochs=1, optimizer="nesterov", lr=lr, weight_decay=1e-4, precision="float32", loss=self.loss
        )
        if self.method is None:
            return [tuned]
        ended = [f"{end}.weight" for end in ends]
        where = ["weights", *(f"!{name}" for name in ended)]
        return [
            Calibrate(bits=bits, others="float", widths=dict.fromkeys(ends, 8)),
            replace(tuned, where=where, format=replace(self.format, bits=bits), method=self.method),
            Encode(where=ended, format=Int(bits=8, scale_by="mse")),
        ]  # fmt: skip


FLOAT = Way("float32, trained as long")
LSQ = Way("LSQ", Lsq())
TAUGHT = Way("LSQ from fitted steps, distilled", Lsq(start="encoded"), loss=Distillation(temperature=4.0))
WAYS = (
    Way("DoReFa", Dorefa(), Basis(per="tensor")),
    Way("PACT", Pact(), Basis(per="tensor")),
    Way("LQ-Nets", LqNets(), Basis(per="channel")),
    Way("DSQ", Dsq()),
    LSQ,
)


@dataclass(frozen=True)
class Tried:
    """A way of training a network, with the learning rate chosen for it."""

    way: Way
    validation: dict[float, float]
    test: list[float]

    @property
    def rate(self) -> float:
        """The learning rate of greatest accuracy on validation."""
        return max(self.validation, key=self.validation.__getitem__)


@dataclass(frozen=True)
class Runner:
    """What all trainings share."""

    threads: int
    events: Events
    seeds: Sequence[int]
    rates: Sequence[float]

    def tried(self, task: Task, way: Way, bits: int) -> Tried:
        """Return what a way comes to: learning rates on validation with the first seed, the best on test with all."""
        ends, first = ENDS, self.seeds[0]
        validation = {
            lr: self.accuracy(task, way.steps(ends, bits, lr), first, "validation") for lr in self.rates
        }
        found = Tried(way, validation, [])
        steps = way.steps(ends, bits, found.rate)
        found.test.extend(self.accuracy(task, steps, seed, "test") for seed in self.seeds)
        return found

    def accuracy(self, task: Task, steps: Sequence[AnyStep], seed: int, split: Split) -> float:
        """Return the primary metric on a split of the network after these steps, simulated; the store keeps both."""
        made = run(Recipe(list(steps)), task, seed=seed, threads=self.threads, events=self.events)
        evaluator = Evaluator(Workspace(task, threads=self.threads), made[-1].model, None)
        return evaluator.evaluation(made[-1].model, split).metrics[task.primary]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure everything; quick: one seed and rate, two steps, one method at 2 bits, no file but the float one."""
    sheets: list[Sheet] = []
    checks: list[Check] = []
    plots: list[Plot] = []
    runner = Runner(threads, events, SEEDS[:1] if quick else SEEDS, RATES[:1] if quick else RATES)
    with pinned(threads):
        resnet = short("resnet20-cifar10", quick, QUICK if quick else STEPS, events)
        four = [runner.tried(resnet, way, 4) for way in (FLOAT, LSQ, TAUGHT)]
        two = [runner.tried(resnet, way, 2) for way in (WAYS[:1] if quick else WAYS)]
        sheets += [_sheet("ResNet-20, weights and activations of 4 bits", four)]
        if not quick:
            longer = _longer(runner, four)
            sheets.append(_sheet(f"The same, {LONGER} batches, by the learning rates chosen above", longer))
            checks += _near(longer)
        sheets += [_sheet("ResNet-20, weights and activations of 2 bits", [four[0], *two])]
        plots += [picture("two-bits.svg", "ResNet-20 at 2 bits", [four[0], *two])]
        sheets.append(_spectrum(resnet, quick, threads, events))
    sheets.append(
        Sheet("The machine", ["what", "it is"], [["processor", processor()], ["threads", str(threads)]])
    )
    return Measured([], checks, sheets, plots)


def _sheet(title: str, found: Sequence[Tried]) -> Sheet:
    """Return ways from the best to the worst, the first of them in float."""
    base = mean_spread(found[0].test)[0]
    rows: list[list[Cell]] = []
    for tried in [found[0], *sorted(found[1:], key=lambda one: -mean_spread(one.test)[0])]:
        mean, spread = mean_spread(tried.test)
        chosen = ", ".join(f"{lr:g}: {value:.1%}" for lr, value in tried.validation.items())
        rows.append(
            [
                tried.way.name, f"{mean:.2%}", f"{100 * spread:.2f}", f"{100 * (mean - base):+.2f}",
                str(len(tried.test)), f"{tried.rate:g}", chosen,
            ]
        )  # fmt: skip
    head = ["method", "accuracy on test", "spread", "points against float", "seeds", "learning rate"]
    return Sheet(title, [*head, "validation by learning rate"], rows)


def _longer(runner: Runner, found: Sequence[Tried]) -> list[Tried]:
    """Return what the same ways come to in more batches."""
    task = short("resnet20-cifar10", False, LONGER, runner.events)
    return [dataclasses.replace(runner, rates=[one.rate]).tried(task, one.way, 4) for one in found]


def _near(found: Sequence[Tried]) -> list[Check]:
    base = mean_spread(found[0].test)[0]
    changes = {one.way.name: 100 * (mean_spread(one.test)[0] - base) for one in found[1:]}
    about, goal = f"with 4 bits, {LONGER} batches: against float trained as long", "-0.5 points or better"
    return [
        Check(f"ResNet-20, {name}, {about}", goal, f"{change:+.2f} points", change >= -0.5)
        for name, change in changes.items()
    ]


def picture(name: str, title: str, found: Sequence[Tried]) -> Plot:
    """Return the accuracies of ways, each with its spread over seeds."""
    figure = new_figure(6.0, 0.9 + 0.32 * len(found))
    (ax,) = figure.subplots(1, 1, squeeze=False).flat
    ordered = sorted(found, key=lambda one: mean_spread(one.test)[0])
    for place, tried in enumerate(ordered):
        mean, spread = (100 * value for value in mean_spread(tried.test))
        ax.errorbar(
            mean, place, xerr=spread, fmt="o", color="0.3" if tried.way.method is None else "C0", capsize=3
        )
    ax.set_yticks(range(len(ordered)), [tried.way.name for tried in ordered])
    ax.set_ylim(-0.6, len(ordered) - 0.4)
    ax.set_xlabel(f"{title}: accuracy on test, %")
    ax.grid(alpha=0.3, axis="x")
    return Plot(name, svg(figure))


def _spectrum(task: Short, quick: bool, threads: int, events: Events) -> Sheet:
    """Return what post-training and training need and give, of files that run in integers."""
    ends = ENDS
    eight, four = Int(bits=8, scale_by="mse"), Int(bits=4, scale_by="mse")
    last: dict[str, Format] = {f"{end}.weight": eight for end in ends}
    nearest = _nearest(ends)
    narrow = Calibrate(bits=4, others=8, widths=dict.fromkeys(ends, 8))
    trained = Finetune(
        format=four, formats=last, method=Lsq(narrow=True), epochs=1, optimizer="nesterov", lr=RATES[1],
        weight_decay=1e-4, precision="float32",
    )  # fmt: skip
    settings = [
        Setting("none", "float32", ()),
        Setting("nearest", "W8A8", (Fold(), Encode(format=eight, portable=True), Calibrate(), REST)),
        Setting("nearest", "W4A4", (Fold(), *nearest, narrow, REST)),
        Setting("GPTQ", "W4A4", (Fold(), Gptq(format=four, formats=last), narrow, REST)),
        Setting("LSQ", "W4A4", (narrow, trained, Fold(), REST)),
    ]
    made = measured("ResNet-20", task, settings[:1] if quick else settings, [0], threads, events)
    example = np.asarray(task.example())[:1]
    calls = {
        str(number): partial(outcome.files[0].artifact.session(threads=threads).run, example)
        for number, outcome in enumerate(made)
    }
    timings = {timing.name: timing for timing in interleaved(calls, seconds=0.05 if quick else 1.0)}
    rows: list[list[Cell]] = []
    for number, outcome in enumerate(made):
        (summary,), timing = outcome.summaries, timings[str(number)]
        seconds = sum(stage.seconds for stage in summary.stages[1:])
        after, before = summary.test[summary.primary], summary.baseline["test"][summary.primary]
        rows.append(
            [
                outcome.setting.method, outcome.setting.setting, outcome.setting.needs, f"{seconds:.1f}",
                f"{after:.2%}", f"{100 * (after - before):+.2f}", summary.file_bytes,
                f"{1000 / timing.milliseconds:,.0f}", "yes" if timing.quiet else "no",
            ]
        )  # fmt: skip
    head = [
        "method",
        "bits",
        "data",
        "seconds",
        "accuracy of the file",
        "points",
        "bytes",
        "frames a second",
        "quiet",
    ]
    return Sheet("ResNet-20: what is needed, what is given, files in integers in ONNX Runtime", head, rows)


def _nearest(ends: Sequence[str]) -> list[AnyStep]:
    """Return weights rounded to nearest, of 4 bits and at both ends of 8."""
    ended = [f"{end}.weight" for end in ends]
    return [
        Encode(where=["weights", *(f"!{name}" for name in ended)], format=Int(bits=4, scale_by="mse")),
        Encode(where=ended, format=Int(bits=8, scale_by="mse")),
    ]
