"""The spectrum of post-training methods: what each needs of the customer, how long it takes, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from featherweight.events import Events
from featherweight.formats import Float, Int
from featherweight.formats.coders import Rans
from featherweight.recipe import Recipe
from featherweight.report.plot import new_figure, svg
from featherweight.runtime import Runtime
from featherweight.runtime.timing import Timing, interleaved
from featherweight.search import Compressed, compress
from featherweight.task import Needs, Task
from featherweight.techniques import (
    AnyStep,
    Calibrate,
    CorrectBias,
    Encode,
    Equalize,
    Finetune,
    Fold,
    Gptq,
    Train,
)
from featherweight.zoo.tasks import resolve
from reproduce.agreement import agreement
from reproduce.relu import Wiped, wiped
from reproduce.results import Check, Measured, Plot, Row, Sheet, row_of

ABOUT = "Post-training methods by what they need: data, graph, optimisation, time; and what they give."
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
EXEMPT = "biases and batch norm (float16); input, output and every layer in 8-bit activations"
NETWORKS = {"LeNet": "lenet-mnist", "ResNet-20": "resnet20-cifar10", "MobileNetV2": "mobilenetv2-cifar10"}
UNLABELLED = {
    "EfficientNet-Lite0": "efficientnet-lite0-imagenet"
}  # accuracy: agreement with the float network
LR = 1e-4  # an epoch at ten times as much costs ResNet-20 half a point without any rounding
ORDER: dict[Needs, int] = {"none": 0, "unlabelled": 1, "labelled": 2}


@dataclass(frozen=True)
class Method:
    """One row of the spectrum.

    Attributes:
        name: what the table calls it.
        steps: what it does to the float network.
        optimisation: what it solves: nothing, a closed form, or a descent.
        bits: of weights and activations, as one writes them.
    """

    name: str
    steps: tuple[AnyStep, ...]
    optimisation: str
    bits: str

    @property
    def needs(self) -> Needs:
        """The most that a step of it needs of the data."""
        return max((step.needs for step in self.steps), key=lambda need: ORDER[need], default="none")

    @property
    def graph(self) -> str:
        """Whether it changes the network's structure or only its numbers."""
        return "changed" if any(isinstance(step, Fold | Equalize) for step in self.steps) else "read"


def methods() -> list[Method]:
    """Return the spectrum, from what needs nothing to what needs labels."""
    fold, rest = Fold(), Encode(where=["*", "!weights"], format=Float("float16"))

    def weights(bits: int, scale_by: str = "minmax", per: Any = "channel") -> Int:
        return Int(bits=bits, per=per, scale_by=scale_by)  # type: ignore[arg-type]

    def encoded(bits: int, scale_by: str = "minmax", per: Any = "channel") -> Encode:
        return Encode(format=weights(bits, scale_by, per), coder=Rans())

    minmax, mse = Calibrate(ranges="minmax"), Calibrate(ranges="mse")
    four = Gptq(format=weights(4, "mse"), coder=Rans())
    tuned = Finetune(format=weights(4, "mse"), coder=Rans(), epochs=1, lr=LR)
    return [
        Method("compiler only", (), "none", "float32"),
        Method("nearest, a scale a tensor", (fold, encoded(8, per="tensor"), minmax, rest), "none", "W8A8"),
        Method("nearest, a scale a channel", (fold, encoded(8), minmax, rest), "none", "W8A8"),
        Method("ranges by squared error", (fold, encoded(8, "mse"), mse, rest), "search", "W8A8"),
        Method("nearest, a scale a channel", (fold, encoded(4), minmax, rest), "none", "W4A8"),
        Method("ranges by squared error", (fold, encoded(4, "mse"), mse, rest), "search", "W4A8"),
        Method("+ equalisation", (fold, Equalize(), encoded(4, "mse"), mse, rest), "closed form", "W4A8"),
        Method(
            "+ bias correction", (fold, encoded(4, "mse"), CorrectBias(), mse, rest), "closed form", "W4A8"
        ),
        Method("GPTQ", (fold, four, mse, rest), "closed form", "W4A8"),
        Method("GPTQ + bias correction", (fold, four, CorrectBias(), mse, rest), "closed form", "W4A8"),
        Method("fine-tuning, straight-through", (fold, tuned, mse, rest), "descent, labels", "W4A8"),
    ]


@dataclass(frozen=True, eq=False)
class Made:
    """A method, done to a network."""

    method: Method
    result: Compressed
    seconds: float


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every method on every network; quick: LeNet after one epoch, a few methods, short timings."""
    chosen = [methods()[0], methods()[3], methods()[8]] if quick else methods()
    rows: list[Row] = []
    sheets: list[Sheet] = []
    checks: list[Check] = []
    for name, task in _tasks(quick, events):
        fitting = [method for method in chosen if name not in UNLABELLED or method.needs != "labelled"]
        made = [_made(task, method, quick, threads, events) for method in fitting]
        speeds = _speeds(task, made, threads, 0.05 if quick else 1.0)
        rows += [_row(name, task, entry) for entry in made]
        sheets += [_sheet(name, made, speeds), _relu_sheet(name, wiped(task, made[0].result))]
        checks += [] if quick else _checks(name, made, speeds)
    return Measured(rows, checks, [_plot(rows)], _remarks(quick), sheets)


def _tasks(quick: bool, events: Events) -> Iterator[tuple[str, Task]]:
    """Yield the networks by name; quick: the first."""
    for name, task_name in NETWORKS.items():
        yield name, resolve(task_name, events)
        if quick:
            return
    for name, task_name in UNLABELLED.items():
        yield name, agreement(resolve(task_name, events))[0]


def _made(task: Task, method: Method, quick: bool, threads: int, events: Events) -> Made:
    trains = getattr(task, "training", None) is not None
    before: list[AnyStep] = [Train(epochs=1) if quick else Train()] if trains else []
    result = compress(task, Recipe([*before, *method.steps]), seed=0, threads=threads, events=events)
    seconds = sum(stage.seconds for stage in result.summary.stages[1:])
    return Made(method, result, seconds)


def _speeds(task: Task, made: Sequence[Made], threads: int, seconds: float) -> Mapping[str, Timing]:
    """Time every file in every runtime, one sample a call, all in turns."""
    example = np.asarray(task.example())[:1]
    calls = {}
    for number, entry in enumerate(made):
        for runtime in RUNTIMES:
            session = entry.result.artifact.session(runtime=runtime, threads=threads)
            calls[f"{runtime} {number}"] = lambda session=session: session.run(example)
    return {timing.name: timing for timing in interleaved(calls, seconds=seconds)}


def _row(network: str, task: Task, made: Made) -> Row:
    return row_of(
        [made.result.summary],
        network=network,
        data=getattr(task, "dataset", task.name),
        method=made.method.name,
        setting=made.method.bits,
        exempt=EXEMPT if made.method.steps else "everything (float32)",
    )


def _sheet(network: str, made: Sequence[Made], speeds: Mapping[str, Timing]) -> Sheet:
    head = ["method", "bits", "data", "graph", "optimisation", "seconds", "accuracy", "points", "bytes"]
    head += [f"frames a second, {runtime}" for runtime in RUNTIMES] + ["quiet"]
    rows: list[list[int | float | str | None]] = []
    for number, entry in enumerate(made):
        summary = entry.result.summary
        after, before = summary.test[summary.primary], summary.baseline["test"][summary.primary]
        timings = [speeds[f"{runtime} {number}"] for runtime in RUNTIMES]
        rows.append(
            [
                entry.method.name, entry.method.bits, entry.method.needs, entry.method.graph,
                entry.method.optimisation, f"{entry.seconds:.1f}", f"{100 * after:.2f} %",
                f"{100 * (after - before):+.2f}", summary.file_bytes,
                *(f"{1000 / t.milliseconds:,.0f}" for t in timings),
                "yes" if all(t.quiet for t in timings) else "no",
            ]
        )  # fmt: skip
    return Sheet(f"{network}: what is needed, what is given", head, rows)


def _relu_sheet(network: str, found: Sequence[Wiped]) -> Sheet:
    return Sheet(
        f"{network}: error before and after the ReLU, weights at 4 bits",
        ["layer", "negative before it", "error before, of the output's energy", "error after", "taken away"],
        [
            [
                w.layer,
                f"{100 * w.negative:.1f} %",
                f"{w.before:.2e}",
                f"{w.after:.2e}",
                f"{100 * w.share:.1f} %",
            ]
            for w in found
        ],
    )


def _checks(network: str, made: Sequence[Made], speeds: Mapping[str, Timing]) -> list[Check]:
    accuracy = {
        (entry.method.bits, entry.method.name): entry.result.summary.test[entry.result.summary.primary]
        for entry in made
    }
    fed_back = max(value for (bits, name), value in accuracy.items() if "GPTQ" in name)
    steps = {
        "nearest": accuracy["W4A8", "nearest, a scale a channel"],
        "ranges": accuracy["W4A8", "ranges by squared error"],
        "GPTQ": fed_back,
        "fine-tuning": accuracy.get(("W4A8", "fine-tuning, straight-through")),
    }
    chain = {step: value for step, value in steps.items() if value is not None}
    checks = [
        Check(
            f"{network}: W4A8 in order: {', '.join(chain)}",
            "each as good as the one before, up to 0.1 points",
            " < ".join(f"{100 * value:.2f}" for value in chain.values()),
            all(b >= a - 1e-3 for a, b in pairwise(chain.values())),
        )
    ]
    for runtime in RUNTIMES:
        gain = speeds[f"{runtime} 0"].milliseconds / speeds[f"{runtime} 3"].milliseconds
        checks.append(
            Check(f"{network}: W8A8 in {runtime} faster than float", "1x", f"{gain:.2f}x", gain > 1)
        )
    return checks


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime in integers on the test set once.",
        "seconds: of all steps after training, on the processor of this run.",
        "compiler only: the float network, optimised by the runtime itself; frames a second are relative to it.",
        "Weights of 4 bits are stored as such and expanded to int8 for the session: they are smaller, not faster.",
        "Fine-tuning: one epoch at a learning rate of 1e-4, which was chosen on ResNet-20's validation images.",
        "One sample a call; every file and runtime is timed in turns in one run.",
        "The ReLU is of each layer's own output; in ResNet-20 a sum stands between every second one and its ReLU.",
        "EfficientNet-Lite0: accuracy is agreement with the float network on unlabelled images; no training.",
        *(["Quick form: its figures are not results."] if quick else []),
    ]


def _plot(rows: Sequence[Row]) -> Plot:
    networks = list(dict.fromkeys(row.network for row in rows))
    columns = min(len(networks), 2)
    lines = -(-len(networks) // columns)
    figure = new_figure(4.2 * columns, 4.0 * lines)
    for ax, network in zip(figure.subplots(lines, columns, squeeze=False).flat, networks, strict=False):
        here = [row for row in rows if row.network == network]
        names = [f"{row.setting} {row.method}" for row in here]
        ax.barh(names, [100 * row.accuracy for row in here], color="#4d7ea8")
        ax.axvline(100 * here[0].baseline, color="#4d4d4d", linestyle="--", linewidth=1)
        low, high = (f(100 * row.accuracy for row in here) for f in (min, max))
        room = 0.15 * (high - low) + 0.02
        ax.set_xlim(max(0.0, low - room), min(100.0, high + room))
        ax.invert_yaxis()
        ax.set_title(f"{network}\n{here[0].data}", fontsize=7)
        ax.set_xlabel("test accuracy, %")
        ax.tick_params(labelsize=7)
    return Plot("ptq-spectrum.svg", svg(figure))
