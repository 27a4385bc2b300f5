"""Whether a changed network computes what it should: what a trace cannot show is found by running it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from featherweight.capture.program import eval_mode
from featherweight.capture.pytree import flatten_outputs
from featherweight.errors import TaskError, UnsupportedError
from featherweight.graph.channels import Channels
from featherweight.structure import to_call
from featherweight.task import Inputs, call
from featherweight.techniques.structured.surgery import pruned, silenced

if TYPE_CHECKING:
    from featherweight.model import Model, Note

Array = NDArray[Any]
Part = TypeVar("Part", bound=Hashable)

TOLERANCE = 1e-3  # of the output's scale; a wrong channel is far beyond, rounding far below


def failing(parts: Iterable[Part], trial: Callable[[Sequence[Part]], str], where: str) -> dict[Part, str]:
    """Return the parts of a change that the network cannot take, with the reason: tried together, then one by one.

    Args:
        parts: what is to change: layers, or groups of channels.
        trial: how the network with some of them changed differs from what it should compute; empty: it does not.
        where: name of the network.

    Raises:
        UnsupportedError: the others work one by one, not together.
    """
    parts = tuple(parts)
    if not parts or not trial(parts):
        return {}
    failed = {part: reason for part in parts if (reason := trial([part]))}
    rest = [part for part in parts if part not in failed]
    if rest and (reason := trial(rest)):
        raise UnsupportedError(f"its layers cannot change together: {reason}", where=where)
    return failed


def prunable(model: Model, channels: Channels, example: Inputs) -> tuple[Channels, list[Note]]:
    """Return the groups that can be pruned, and notes on the others: each loses a channel, as a trial.

    Raises:
        UnsupportedError: they can go one by one, not together.
    """
    from featherweight.model import Note

    def trial(numbers: Sequence[int]) -> str:
        some = channels.only(numbers)
        return mismatch(model, some, one_less(some), example)

    every = range(len(channels.groups))
    failed = failing(every, trial, type(model.module).__name__)
    notes = [
        Note("skipped", channels.groups[n].name, f"keeps its channels: {why}") for n, why in failed.items()
    ]
    return channels.only([number for number in every if number not in failed]), notes


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
    """Return how a changed network differs from what it should compute on `example`, or an empty string.

    Args:
        make: makes the changed network; what it raises is a difference.
        expected: a network that computes what the changed one should.
        example: inputs.
    """
    try:
        found = computed(make(), example)
    except Exception as error:  # the network is anyone's code
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        return f"the changed network fails: {type(error).__name__}: {reason}"
    for a, b in zip(found, computed(expected, example), strict=True):
        if a.shape != b.shape:
            return f"an output would have the shape {tuple(a.shape)}, not {tuple(b.shape)}"
        scale = float(b.abs().max()) if b.numel() else 0.0
        if not torch.allclose(a, b, rtol=0, atol=TOLERANCE * max(scale, 1e-6), equal_nan=True):
            return "the changed network does not compute the same"
    return ""


def computed(model: Model, example: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the outputs of a model on `example`, flat.

    Raises:
        TaskError: one holds NaN or infinity.
    """
    module = to_call(model.module)
    with eval_mode(module):
        outputs = flatten_outputs(call(module, example))[1]
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise TaskError("the network's output holds NaN or infinity", where="the task's example")
    return outputs
