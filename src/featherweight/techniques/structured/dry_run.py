"""What the trace of a network cannot show, found by trying: a size written out in code, an operator of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from featherweight.errors import UnsupportedError
from featherweight.graph.groups import Channels
from featherweight.graph.program import eval_mode
from featherweight.graph.pytree import flatten_outputs
from featherweight.task import Inputs, call
from featherweight.techniques.structured.surgery import pruned, silenced

if TYPE_CHECKING:
    from featherweight.model import Model, Note

Array = NDArray[Any]

TOLERANCE = 1e-3  # of the output's scale; a wrong channel is far beyond, rounding far below


def prunable(model: Model, channels: Channels, example: Inputs) -> tuple[Channels, list[Note]]:
    """Return the groups that can be pruned: each loses a channel, and the network computes what it should.

    First all of them together; if that fails, one by one.

    Raises:
        UnsupportedError: they can go one by one, not together.
    """
    from featherweight.model import Note

    if not channels.groups or not mismatch(model, channels, one_less(channels), example):
        return channels, []
    chosen, notes = [], []
    for number, group in enumerate(channels.groups):
        alone = channels.only([number])
        if reason := mismatch(model, alone, one_less(alone), example):
            notes.append(Note("skipped", group.name, f"keeps its channels: {reason}"))
        else:
            chosen.append(number)
    found = channels.only(chosen)
    if found.groups and (reason := mismatch(model, found, one_less(found), example)):
        raise UnsupportedError(
            f"its channels cannot go together: {reason}", where=type(model.module).__name__
        )
    return found, notes


def one_less(channels: Channels) -> Array:
    """Return which channels stay when each group of several loses its last one."""
    kept = np.ones(channels.count, bool)
    ends = np.cumsum([group.size for group in channels.groups]) - 1
    kept[[end for end, group in zip(ends, channels.groups, strict=True) if group.size > 1]] = False
    return kept


def mismatch(model: Model, channels: Channels, kept: Array, example: Inputs) -> str:
    """Return how the pruned network differs from the one with silent channels on `example`, or an empty string."""
    return difference(lambda: pruned(model, channels, kept), silenced(model, channels, kept), example)


def difference(make: Callable[[], Model], expected: Model, example: Inputs) -> str:
    """Return how a network that is made differs from what is expected on `example`, or an empty string."""
    try:
        found = computed(make(), example)
    except Exception as error:  # the network is anyone's code
        return f"the network fails with another number: {(str(error).strip().splitlines() or [''])[0][:160]}"
    for a, b in zip(found, computed(expected, example), strict=True):
        if a.shape != b.shape:
            return f"an output would have the shape {tuple(a.shape)}, not {tuple(b.shape)}"
        scale = float(b.abs().max()) if b.numel() else 0.0
        if not torch.allclose(a, b, rtol=0, atol=TOLERANCE * max(scale, 1e-6), equal_nan=True):
            return "the network does not compute the same with another number"
    return ""


def computed(model: Model, example: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the outputs of a model on `example`, flat."""
    with eval_mode(model.module):
        return flatten_outputs(call(model.module, example))[1]
