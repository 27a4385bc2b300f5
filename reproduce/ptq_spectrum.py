"""The spectrum of post-training methods: what each needs of the customer, how long it takes, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.errors import UnsupportedError
from featherweight.events import Events
from featherweight.formats import Int, View
from featherweight.formats.coders import Rans
from featherweight.model import Model
from featherweight.runtime.timing import Timing, interleaved
from featherweight.search import Compressed
from featherweight.task import Task, call
from featherweight.techniques import (
    Calibrate,
    Context,
    CorrectBias,
    Encode,
    Equalize,
    Finetune,
    Fold,
    Gptq,
    Train,
)
from featherweight.zoo.tasks import resolve
from reproduce.plots import ranking
from reproduce.results import Cell, Check, Measured, Plot, Row, Sheet
from reproduce.settings import REST, Outcome, Setting, measured, row
from reproduce.tasks import agreement

ABOUT = "Post-training methods by what they need: data, graph, optimisation, time; and what they give."
RUNTIMES = ("onnxruntime", "openvino")
EXEMPT = "biases and batch norm (float16); input, output and every layer in 8-bit activations"
NETWORKS = {"LeNet": "lenet-mnist", "ResNet-20": "resnet20-cifar10", "MobileNetV2": "mobilenetv2-cifar10"}
UNLABELLED = {
    "EfficientNet-Lite0": "efficientnet-lite0-imagenet"
}  # accuracy: agreement with the float network
LR = 1e-4  # an epoch at ten times as much costs ResNet-20 half a point without any rounding
REMARKS = [
    "Accuracy is of the reloaded file, computed by ONNX Runtime in integers on the test set once.",
    "seconds: of all steps after training, on the processor of this run.",
    "compiler only: the float network, optimised by the runtime itself; frames a second are relative to it.",
    "Weights of 4 bits are stored as such and expanded to int8 for the session: they are smaller, not faster.",
    "Fine-tuning: one epoch at a learning rate of 1e-4, which was chosen on ResNet-20's validation images.",
    "One sample a call; every file and runtime is timed in turns in one run.",
    "The ReLU is of each layer's own output; in ResNet-20 a sum stands between every second one and its ReLU.",
    "EfficientNet-Lite0: accuracy is agreement with the float network on unlabelled images; no training.",
]


def methods() -> list[Setting]:
    """Return the spectrum, from what needs nothing to what needs labels."""
    fold = Fold()

    def weights(bits: int, scale_by: str = "minmax", per: Any = "channel") -> Int:
        return Int(bits=bits, per=per, scale_by=scale_by)  # type: ignore[arg-type]

    def encoded(bits: int, scale_by: str = "minmax", per: Any = "channel") -> Encode:
        return Encode(format=weights(bits, scale_by, per), coder=Rans())

    minmax, mse = Calibrate(ranges="minmax"), Calibrate(ranges="mse")
    four = Gptq(format=weights(4, "mse"), coder=Rans())
    tuned = Finetune(format=weights(4, "mse"), coder=Rans(), epochs=1, lr=LR)
    return [
        Setting("compiler only", "float32", ()),
        Setting("nearest, a scale a tensor", "W8A8", (fold, encoded(8, per="tensor"), minmax, REST)),
        Setting("nearest, a scale a channel", "W8A8", (fold, encoded(8), minmax, REST)),
        Setting("ranges by squared error", "W8A8", (fold, encoded(8, "mse"), mse, REST)),
        Setting("nearest, a scale a channel", "W4A8", (fold, encoded(4), minmax, REST)),
        Setting("ranges by squared error", "W4A8", (fold, encoded(4, "mse"), mse, REST)),
        Setting("+ equalisation", "W4A8", (fold, Equalize(), encoded(4, "mse"), mse, REST)),
        Setting("+ bias correction", "W4A8", (fold, encoded(4, "mse"), CorrectBias(), mse, REST)),
        Setting("GPTQ", "W4A8", (fold, four, mse, REST)),
        Setting("GPTQ + bias correction", "W4A8", (fold, four, CorrectBias(), mse, REST)),
        Setting("fine-tuning, straight-through", "W4A8", (fold, tuned, mse, REST)),
    ]


def graph(setting: Setting) -> str:
    """Return whether a setting changes the network's structure or only its numbers."""
    return "changed" if any(isinstance(step, Fold | Equalize) for step in setting.steps) else "read"


def optimisation(setting: Setting) -> str:
    """Return what a setting solves."""
    if setting.retrained:
        return "descent, labels"
    if any(isinstance(step, Gptq | Equalize | CorrectBias) for step in setting.steps):
        return "closed form"
    searched = any(isinstance(step, Calibrate) and step.ranges == "mse" for step in setting.steps)
    return "search" if searched else "none"


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every method on every network; quick: LeNet after one epoch, a few methods, short timings."""
    chosen = [methods()[0], methods()[3], methods()[8]] if quick else methods()
    rows: list[Row] = []
    sheets: list[Sheet] = []
    checks: list[Check] = []
    for name, task in _tasks(quick, events):
        trains = getattr(task, "training", None) is not None
        before = [Train(epochs=1) if quick else Train()] if trains else []
        fitting = [
            replace(method, steps=[*before, *method.steps])
            for method in chosen
            if name not in UNLABELLED or method.needs != "labelled"
        ]
        made = measured(name, task, fitting, [0], threads, events)
        speeds = _speeds(task, made, threads, 0.05 if quick else 1.0)
        rows += [row(outcome, "everything (float32)" if outcome is made[0] else EXEMPT) for outcome in made]
        sheets += [_sheet(name, made, speeds), _relu_sheet(name, removed(task, made[0].files[0]))]
        checks += [] if quick else _checks(name, made, speeds)
    return Measured(rows, checks, sheets)


def plot(rows: Sequence[Row]) -> Plot:
    """Return the accuracy of each method, a panel for each network."""
    titles = {row.network: f"{row.network}, {row.data}" for row in rows}
    panels = {
        title: {f"{r.setting} {r.method}": r for r in rows if r.network == name}
        for name, title in titles.items()
    }
    return ranking(panels, columns=2)


def _tasks(quick: bool, events: Events) -> Iterator[tuple[str, Task]]:
    """Yield the networks by name; quick: the first."""
    for name, task_name in NETWORKS.items():
        yield name, resolve(task_name, events)
        if quick:
            return
    for name, task_name in UNLABELLED.items():
        yield name, agreement(resolve(task_name, events))


def _speeds(task: Task, made: Sequence[Outcome], threads: int, seconds: float) -> Mapping[str, Timing]:
    """Time every file in every runtime that runs it, one sample a call, all in turns.

    OpenVINO refuses 8-bit weights that saturate on a processor without VNNI.
    """
    example = np.asarray(task.example())[:1]
    calls = {}
    for number, outcome in enumerate(made):
        for runtime in RUNTIMES:
            with suppress(UnsupportedError):
                session = outcome.files[0].artifact.session(runtime=runtime, threads=threads)
                calls[f"{runtime} {number}"] = partial(session.run, example)
    return {timing.name: timing for timing in interleaved(calls, seconds=seconds)}


def _sheet(network: str, made: Sequence[Outcome], speeds: Mapping[str, Timing]) -> Sheet:
    head = ["method", "bits", "data", "graph", "optimisation", "seconds", "accuracy", "points", "bytes"]
    head += [f"frames a second, {runtime}" for runtime in RUNTIMES] + ["quiet"]
    rows: list[list[Cell]] = []
    for number, outcome in enumerate(made):
        (summary,) = outcome.summaries
        setting, seconds = outcome.setting, sum(stage.seconds for stage in summary.stages[1:])
        after, before = summary.test[summary.primary], summary.baseline["test"][summary.primary]
        timings = [speeds.get(f"{runtime} {number}") for runtime in RUNTIMES]
        rows.append(
            [
                setting.method, setting.setting, setting.needs, graph(setting), optimisation(setting),
                f"{seconds:.1f}", f"{100 * after:.2f} %", f"{100 * (after - before):+.2f}", summary.file_bytes,
                *("refused" if t is None else f"{1000 / t.milliseconds:,.0f}" for t in timings),
                "yes" if all(t.quiet for t in timings if t is not None) else "no",
            ]
        )  # fmt: skip
    return Sheet(f"{network}: what is needed, what is given", head, rows)


def _relu_sheet(network: str, found: Sequence[Removed]) -> Sheet:
    return Sheet(
        f"{network}: error before and after the ReLU, weights at 4 bits",
        ["layer", "negative before it", "error before, of the output's energy", "error after", "removed"],
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


def _checks(network: str, made: Sequence[Outcome], speeds: Mapping[str, Timing]) -> list[Check]:
    accuracy = {(o.setting.setting, o.setting.method): o.accuracy[0] for o in made}
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
        if f"{runtime} 3" not in speeds:  # refused, as the sheet says
            continue
        gain = speeds[f"{runtime} 0"].milliseconds / speeds[f"{runtime} 3"].milliseconds
        checks.append(
            Check(f"{network}: W8A8 in {runtime} faster than float", "1x", f"{gain:.2f}x", gain > 1)
        )
    return checks


@dataclass(frozen=True)
class Removed:
    """One layer that a ReLU follows.

    Attributes:
        layer: its path.
        negative: share of its outputs below zero.
        before: squared error of its outputs over their energy.
        after: the same behind the ReLU, over the same energy.
    """

    layer: str
    negative: float
    before: float
    after: float

    @property
    def share(self) -> float:
        """The share of the squared error that is gone behind the ReLU."""
        return 1 - self.after / self.before if self.before else 0.0


def removed(task: Task, plain: Compressed, *, bits: int = 4) -> list[Removed]:
    """Return, of every convolution and linear layer, what a ReLU behind it removes of the error of its weights.

    Batch norms are folded before. Each layer alone is rounded to `bits` bits, a scale a channel; its inputs are
    those of the float network.

    Args:
        task: gives one batch of validation.
        plain: the float network, uncompressed.
        bits: width of the rounded weights.
    """
    module = Fold().apply(Model.of(plain.artifact.into(task.model())), task, Context()).module
    inputs: dict[str, Tensor] = {}
    layers = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, layer in layers.items()
    ]
    with torch.inference_mode():
        call(module, task.inputs(next(iter(task.batches("validation", seed=0, epoch=0)))))
        found = [_one(name, layer, inputs[name], bits) for name, layer in layers.items() if name in inputs]
    for hook in hooks:
        hook.remove()
    return found[:-1]  # no ReLU behind the last


def _one(name: str, layer: nn.Module, given: Tensor, bits: int) -> Removed:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    format_ = Int(bits=bits, per="channel", scale_by="mse")
    rounded = torch.from_numpy(
        format_.encode(weight.detach().numpy(), view=View.of(tuple(weight.shape))).decode()
    )
    exact = layer(given)
    off = torch.func.functional_call(layer, {"weight": rounded}, (given,))
    energy = float(exact.square().sum())
    before = float((off - exact).square().sum()) / energy
    after = float((off.relu() - exact.relu()).square().sum()) / energy
    return Removed(name, float((exact < 0).float().mean()), before, after)
