"""Metrics of a model, and of a reloaded file as its runtime computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.artifact import Artifact, StoredGraph
from featherweight.capture.memory_format import channels_last, takes_channels_last
from featherweight.capture.pytree import flatten_outputs
from featherweight.capture.rounding import TOLERANCE, in_float64, rounding
from featherweight.errors import TaskError, UnsupportedError
from featherweight.evaluation.paired_test import Paired, paired
from featherweight.export.check import arrays
from featherweight.model import Model
from featherweight.packing import unpack
from featherweight.runtime import Session
from featherweight.simulation import simulate
from featherweight.structure import to_call
from featherweight.task import Inputs, Output, Predict, Split, Task, call
from featherweight.task.identity import hashed
from featherweight.task.protocol import failures
from featherweight.task.samples import mapped, nbytes
from featherweight.workspace import Workspace

Array = NDArray[np.float64]
SAME = 1e-6
REMEMBERED = 1 << 26  # bytes of outputs that are kept; of larger splits the rest is computed again


class Evaluation(msgspec.Struct, frozen=True):
    """What one pass over a split found.

    Attributes:
        metrics: of the task.
        each: the primary metric of each sample, float64; empty where the task does not tell.
    """

    metrics: dict[str, float]
    each: bytes = b""

    @property
    def scores(self) -> Array | None:
        """The primary metric of each sample `[n]`, whose mean is that of the split; None if unknown."""
        return np.frombuffer(self.each, np.float64) if self.each else None

    def against(self, before: Evaluation) -> Paired | None:
        """Return how the metric of each sample changed; None where it is not known on the same samples."""
        old, new = before.scores, self.scores
        return None if old is None or new is None or old.shape != new.shape else paired(old, new)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluates the models of one run, each state once: the store keeps what was found.

    Attributes:
        workspace: gives task, threads and store.
        model: the one that `graph` belongs to.
        graph: its float graph, if there is one. Models of that structure run in ONNX Runtime, which is faster than
            torch, unless their activations are quantized.
    """

    workspace: Workspace
    model: Model
    graph: StoredGraph | None

    def evaluation(self, model: Model, split: Split) -> Evaluation:
        """Return what a model does on a split; with quantized activations it is simulated."""
        task, threads = self.workspace.task, self.workspace.threads
        runs = self.graph if model.structure == self.model.structure and not model.activations else None

        def make() -> Evaluation:
            if runs is not None:
                session = Session.of(runs, arrays(model.module), threads=threads)
                return evaluated(session_predictor(session), task, split)
            known = self.simulated if model is self.model else model_predictor(model, task)
            return evaluated(known, task, split)

        key = self.workspace.key("evaluation", model.hash, split, threads, runs is not None)
        return self.workspace.recall(key, Evaluation, make)

    @cached_property
    def simulated(self) -> Predict:
        """The model as integer hardware computes it, where its activations are quantized; outputs are remembered."""
        return remembered(model_predictor(self.model, self.workspace.task))


def evaluated(predict: Predict, task: Task, split: Split) -> Evaluation:
    """Return what `predict` does on a split, each batch computed once."""
    predict = remembered(predict)
    found = metrics(predict, task, split)
    try:
        each = scores(task, predict, split)
    except TaskError:
        if not _inherited_scores(task):
            raise
        each = None
    if each is None or abs(float(each.mean()) - found[task.primary]) > SAME:  # a task may have its own metric
        return Evaluation(found)
    return Evaluation(found, each.tobytes())


def scores(task: Task, predict: Predict, split: Split) -> Array | None:
    """Return what the method `scores` of a task says of each sample of a split `[n]`; None if it has none."""
    where = f"{task.name}, scores on {split}"
    own: Any = getattr(task, "scores", None)
    if own is None:
        return None
    with failures(where), torch.no_grad():
        made: Array = np.asarray(own(predict, split), np.float64)
    if made.ndim != 1 or not made.size or not np.isfinite(made).all():
        raise TaskError("not one finite number a sample", where=where, got=f"shape {list(made.shape)}")
    return made


def _inherited_scores(task: Task) -> bool:
    """Return whether the class of a task has metrics of its own, and scores of samples from a class above it."""
    for kind in type(task).__mro__:
        if "scores" in vars(kind):
            return False
        if "metrics" in vars(kind):
            return True
    return False


def predictor(module: nn.Module) -> Predict:
    """Return `predict` of a module, without gradients."""

    def predict(inputs: Inputs) -> Output:
        with torch.inference_mode():
            return call(module, inputs)

    return predict


def model_predictor(model: Model, task: Task) -> Predict:
    """Return `predict` of a model: of its network, or with quantized activations of the simulation of it."""
    example = task.example()
    if model.activations:
        return predictor(simulate(model, example))
    predict = predictor(to_call(model.module))
    if not takes_channels_last(model.module, example):
        return predict
    return lambda inputs: predict(mapped(channels_last, inputs))


def session_predictor(session: Session) -> Predict:
    """Return `predict` of a runtime session: torch tensors in, torch tensors out."""

    def predict(inputs: Inputs) -> Output:
        given = mapped(lambda x: x.detach().contiguous().numpy() if isinstance(x, Tensor) else x, inputs)
        return mapped(torch.from_numpy, session.run(given))

    return predict


def remembered(predict: Predict, most: int = REMEMBERED) -> Predict:
    """Return `predict` that computes the outputs of the same inputs once, and keeps up to `most` bytes of them."""
    known, left = dict[str, Output](), most

    def asked(inputs: Inputs) -> Output:
        nonlocal left
        key = hashed(inputs)
        if key in known:
            return known[key]
        output = predict(inputs)
        left -= nbytes(output)
        if left >= 0:
            known[key] = output
        return output

    return asked


def metrics(predict: Predict, task: Task, split: Split) -> dict[str, float]:
    """Return the metrics of a task as plain finite numbers."""
    where, found = f"{task.name}, {split} split", dict[str, float]()
    with failures(f"{task.name}, metrics on {split}"):
        given = dict(task.metrics(predict, split))
    for name, value in given.items():
        try:
            found[str(name)] = number = float(value)
        except (TypeError, ValueError):
            raise TaskError(f"metric {name} is no number", where=where, got=repr(value)) from None
        if not math.isfinite(number):
            hint = "look for NaN in the data, and for weights that diverged"
            raise TaskError(f"metric {name} is not finite", where=where, got=number, hint=hint)
    if (primary := task.primary) not in found:
        raise TaskError("the primary metric is missing", where=where, got=", ".join(found), expected=primary)
    return found


@dataclass(frozen=True)
class Parity:
    """How a session compares with the decoded module on the example.

    Attributes:
        difference: largest difference, relative to the output: max |session - module| / max(1, max |module|).
        bound: what rounding explains, see `featherweight.export.check.bound`.
    """

    difference: float
    bound: float


def parity(session: Session, module: nn.Module, task: Task) -> Parity:
    """Return how a session of a file compares with the decoded module, on the task's example."""

    def double(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    example, own = task.example(), to_call(module)
    theirs, ours = _named(session_predictor(session)(example)), _named(predictor(own)(example))
    if theirs.keys() != ours.keys():
        what = "session and module differ in their outputs"
        raise UnsupportedError(what, got=list(theirs), expected=list(ours))
    try:
        exact = in_float64(module, lambda wide: _named(predictor(wide)(mapped(double, example))))
        bound = rounding(ours.values(), (exact[name] for name in ours))
    except Exception:  # a network may insist on its own type: then its rounding is not known
        bound = TOLERANCE
    found = 0.0
    for name, output in ours.items():
        if theirs[name].shape != output.shape:
            got, expected = tuple(theirs[name].shape), tuple(output.shape)
            raise UnsupportedError("shape of an output", where=name, got=got, expected=expected)
        if output.numel():
            apart = float((theirs[name].double() - output.double()).abs().max())
            found = max(found, apart / max(1.0, float(output.abs().max())))
    return Parity(found, bound)


def _named(output: Output) -> dict[str, Tensor]:
    """Return the tensors of an output by their place in it; a dataclass or named tuple is as a mapping."""
    nest, tensors = flatten_outputs(output)
    found: dict[str, Tensor] = {}

    def walk(nest: Any, place: str) -> None:
        if isinstance(nest, int):
            found[place] = tensors[nest].detach()
        elif nest is not None:
            entries = nest.items() if isinstance(nest, Mapping) else enumerate(nest)
            for key, entry in entries:
                walk(entry, f"{place}.{key}".lstrip("."))

    walk(nest, "")
    return found


def reloaded_predictor(
    artifact: Artifact, task: Task, threads: int, runtime: str = "onnxruntime"
) -> tuple[Predict, str]:
    """Return `predict` of a file and the name of what computes it: a runtime, or torch where it holds no graph."""
    if artifact.graph is None:
        return model_predictor(unpack(artifact, task), task), "torch"
    return session_predictor(artifact.session(runtime=runtime, threads=threads)), runtime
