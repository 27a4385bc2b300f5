"""Metrics of a model, and of a reloaded file as its runtime computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.artifact import Artifact
from featherweight.errors import TaskError, UnsupportedError
from featherweight.graph.memory_format import channels_last, takes_channels_last
from featherweight.graph.pytree import flatten_outputs
from featherweight.model import Model
from featherweight.packing import unpack
from featherweight.runtime import Runtime, Session
from featherweight.simulation import simulate
from featherweight.store import Store, key_of
from featherweight.structure import to_call
from featherweight.task import Inputs, Output, Predict, Split, Task, call
from featherweight.task.failures import failures
from featherweight.task.identity import hashed, identity_of
from featherweight.task.samples import mapped
from featherweight.task.scores import scores
from featherweight.workspace import versions

Array = NDArray[np.float64]
SAME = 1e-6


def predictor(module: nn.Module) -> Predict:
    """Return `predict` of a module, without gradients."""

    def predict(inputs: Inputs) -> Output:
        with torch.inference_mode():
            return call(module, inputs)

    return predict


def model_predictor(model: Model, task: Task) -> Predict:
    """Return `predict` of a model: of its network, or with quantized activations of the simulation of it."""
    example = task.example()
    predict = predictor(simulate(model, example))
    if model.activations or not takes_channels_last(model.module, example):
        return predict
    return lambda inputs: predict(mapped(channels_last, inputs))


def session_predictor(session: Session) -> Predict:
    """Return `predict` of a runtime session: torch tensors in, torch tensors out."""

    def predict(inputs: Inputs) -> Output:
        return _map(session.run(_map(inputs, _numpy)), torch.from_numpy)

    return predict


def remembered(predict: Predict) -> Predict:
    """Return `predict` that computes the outputs of the same inputs once, and keeps them."""
    known: dict[str, Output] = {}

    def asked(inputs: Inputs) -> Output:
        key = hashed(inputs)
        if key not in known:
            known[key] = predict(inputs)
        return known[key]

    return asked


def measured(task: Task, predict: Predict, split: Split) -> dict[str, float]:
    """Return the metrics of a task as plain finite numbers.

    Raises:
        TaskError: a metric is no number, is NaN or infinite, or the primary one is missing.
    """
    where = f"{task.name}, {split} split"
    found: dict[str, float] = {}
    with failures(f"{task.name}, metrics on {split}"):
        given = dict(task.metrics(predict, split))
    for name, value in given.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            raise TaskError(f"metric {name} is no number", where=where, got=repr(value)) from None
        if not math.isfinite(found[str(name)]):
            hint = "look for NaN in the data, and for weights that diverged"
            raise TaskError(f"metric {name} is not finite", where=where, got=found[str(name)], hint=hint)
    if task.primary not in found:
        raise TaskError(
            "the primary metric is missing", where=where, got=", ".join(found), expected=task.primary
        )
    return found


def metrics(
    model: Model, task: Task, split: Split, store: Store, threads: int, predict: Predict | None = None
) -> dict[str, float]:
    """Return the metrics of a model on a split, out of the store where they stand there already.

    `predict` is the model's, where the caller has it.
    """
    key = key_of("metrics", model.hash, task.fingerprint(), split, threads, versions())
    kept = store.get(key)
    if kept is None:
        kept = msgspec.json.encode(measured(task, predict or model_predictor(model, task), split))
        store.put(key, kept)
    return msgspec.json.decode(kept, type=dict[str, float])


def scored(
    model: Model, task: Task, split: Split, store: Store, threads: int, predict: Predict | None = None
) -> Array | None:
    """Return the primary metric of each sample `[n]`, None if unknown; out of the store where it stands there.

    `predict` is the model's, where the caller has it.
    """
    own = identity_of(getattr(type(task), "scores", None))
    key = key_of("scores", model.hash, task.fingerprint(), own, split, threads, versions())
    kept = store.get(key)
    if kept is None:
        found = scores(task, predict or model_predictor(model, task), split)
        kept = b"" if found is None else found.tobytes()
        store.put(key, kept)
    return np.frombuffer(kept, np.float64) if kept else None


def comparable(each: Array | None, metrics: Mapping[str, float], task: Task) -> Array | None:
    """Return the scores of samples if their mean is the primary metric: a task may define that anew, alone."""
    if each is None or abs(float(each.mean()) - metrics[task.primary]) > SAME:
        return None
    return each


def parity(session: Session, module: nn.Module, task: Task) -> float:
    """Return the largest difference between session and module on the task's example, relative to the output.

    max |session - module| / max(1, max |module|), over all outputs.
    """
    example = task.example()
    theirs, ours = _named(session_predictor(session)(example)), _named(predictor(to_call(module))(example))
    if theirs.keys() != ours.keys():
        raise UnsupportedError(
            "session and module differ in their outputs", got=list(theirs), expected=list(ours)
        )
    worst = 0.0
    for name, b in ours.items():
        a = theirs[name]
        if a.shape != b.shape:
            raise UnsupportedError(
                "shape of an output", where=name, got=tuple(a.shape), expected=tuple(b.shape)
            )
        if a.numel():
            scale = max(1.0, float(b.abs().max()))
            worst = max(worst, float((a.double() - b.double()).abs().max()) / scale)
    return worst


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
    artifact: Artifact, task: Task, threads: int, runtime: Runtime = "onnxruntime"
) -> tuple[Predict, str]:
    """Return `predict` of a file and the name of what computes it: a runtime, or torch where it holds no graph."""
    if artifact.graph is None:
        return model_predictor(unpack(artifact, task), task), "torch"
    return session_predictor(artifact.session(runtime=runtime, threads=threads)), runtime


def _numpy(value: Any) -> Any:
    return np.ascontiguousarray(value.detach().numpy()) if isinstance(value, Tensor) else value


def _map(value: Any, function: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _map(entry, function) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_map(entry, function) for entry in value)
    return None if value is None else function(value)
