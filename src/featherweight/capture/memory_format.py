"""Channels last in memory: the layout that torch's convolutions are quickest in on a processor.

EfficientNet-Lite0 takes half the time in it. Convolutions, and all that works element by element, hand it on from
the network's inputs; what a captured network asks of its layout, `ANY` asks not. A network's own code may ask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.capture.pytree import flatten_outputs
from featherweight.structure import to_call
from featherweight.task import Inputs, call
from featherweight.task.samples import mapped

# Operators that refuse some layouts, and those that compute the same of all.
ANY: dict[Any, Callable[..., Any]] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


def channels_last(value: Any) -> Any:
    """Return a tensor, its channels next to each other in memory where it is `[n, channels, height, width]`.

    Its strides depend on its shape alone: torch takes those of an axis of one for anything, and chooses kernels by
    them. What is no tensor stays as it is.
    """
    if not isinstance(value, Tensor) or value.dim() != 4 or not value.is_floating_point():
        return value
    _, c, h, w = value.shape
    dense = value.stride() == (h * w * c, 1, w * c, c)
    return value if dense else value.clone(memory_format=torch.channels_last)


def takes_channels_last(module: nn.Module, example: Inputs) -> bool:
    """Return whether a network, as it is written, computes of channels-last inputs what it does of others.

    It is given copies of the example: it may write to its inputs.
    """
    if not any(parameter.dim() == 4 for parameter in module.parameters()):
        return False
    module = to_call(module)
    with torch.inference_mode():
        _, expected = flatten_outputs(call(module, copy.deepcopy(example)))
        try:
            _, found = flatten_outputs(call(module, mapped(channels_last, copy.deepcopy(example))))
        except RuntimeError:  # a view of what does not lie together
            return False
    pairs = zip(found, expected, strict=True)
    return all(torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-5) for a, b in pairs)


def trains_channels_last(module: nn.Module, example: Inputs) -> bool:
    """Return whether a network takes channels-last inputs as it is, and runs on them in training mode too."""
    if not takes_channels_last(module, example):
        return False
    with torch.no_grad(), suppress(ValueError):  # batch norm refuses a batch of one
        try:
            call(copy.deepcopy(module).train(), mapped(channels_last, copy.deepcopy(example)))
        except RuntimeError:  # a view in a branch that only training takes
            return False
    return True
