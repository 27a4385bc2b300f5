"""Whether a task works at all, on its own example and the first batches: looked at before hours are spent on it."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn

from featherweight.errors import TaskError
from featherweight.evaluation.metrics import predictor
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Inputs, Output, Predict, Split, Task, call
from featherweight.task.failures import failures
from featherweight.task.samples import leaves
from featherweight.workspace import Workspace


def check(workspace: Workspace) -> None:
    """Build the network of a task, call it once on the example, and begin to measure it.

    The metrics of validation and test are begun on their first batch: labels that are missing, or fit no metric,
    are found here and not after the search.

    Raises:
        TaskError: the user's code fails on the way; says where, and of types that differ what to do.
        UnsupportedError: the network cannot be taken over.
    """
    task = workspace.task
    _ = workspace.fingerprint
    with failures(f"{task.name}, model"):
        network = task.model()
    module = Model.of(network).module
    with failures(f"{task.name}, example"):
        example = task.example()
    with failures(f"{task.name}, network on its example"), torch.no_grad():
        try:
            call(to_call(module), example)
        except RuntimeError as error:
            if differ := _types(module, example):
                raise differ from error
            raise
    for split in ("validation", "test"):
        _begin(task, predictor(to_call(module)), split)


class _Enough(BaseException):
    """The first batch was measured; no `Exception`, so that no code of the user's takes it for a failure."""


def _begin(task: Task, predict: Predict, split: Split) -> None:
    """Let a task measure its first batch, and stop it at the second."""
    batch = count()

    def once(inputs: Inputs) -> Output:
        if next(batch):
            raise _Enough
        return predict(inputs)

    try:
        with failures(f"{task.name}, metrics on {split}"):
            task.metrics(once, split)
    except _Enough:
        pass


def _types(module: nn.Module, example: Inputs) -> TaskError | None:
    """Return what to say of weights of one floating-point type and inputs of another, if that is so."""
    weights = {str(p.dtype) for p in module.parameters() if p.is_floating_point()}
    inputs = {str(x.dtype) for x in leaves(example) if isinstance(x, Tensor) and x.is_floating_point()}
    if not weights or not inputs or weights == inputs:
        return None
    return TaskError(
        "inputs are not of the type of the weights",
        got=", ".join(sorted(inputs)),
        expected=", ".join(sorted(weights)),
        hint="network.float(); or tensors of the weights' type (arrays of float64 are read as float32)",
    )
