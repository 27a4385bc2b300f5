"""Whether a task's network runs on its own example: looked at before hours are spent on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featherweight.errors import TaskError
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Inputs, Task, call
from featherweight.task.failures import failures
from featherweight.task.samples import leaves


def check(task: Task) -> None:
    """Build the network of a task and call it once on the example.

    Raises:
        TaskError: the user's code fails on the way; says where, and of types that differ what to do.
        UnsupportedError: the network cannot be taken over.
    """
    with failures(f"{task.name}, fingerprint"):
        task.fingerprint()
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
