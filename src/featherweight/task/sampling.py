"""How samples of a task are drawn: whole batches, exact numbers of inputs, one by one; and a check of their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import inf
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import TaskError, UnsupportedError
from featherweight.task.protocol import Batch, Inputs, Split, Task
from featherweight.task.samples import leaves, mapped, size_of


def drawn(
    task: Task, split: Split, *, samples: float = inf, batches: float = inf, seed: int = 0
) -> Iterator[Batch]:
    """Yield the first batches of a split, whole ones, until enough are seen; every step draws its data by this.

    Args:
        task: whose data.
        split: which part of it.
        samples: to see, at least.
        batches: to see, at most.
        seed: of their order.
    """
    number = seen = 0
    for number, batch in enumerate(task.batches(split, seed=seed, epoch=0), 1):
        seen += size_of(task.inputs(batch)) if samples < inf else 0
        yield batch
        if seen >= samples or number >= batches:
            return
    if not number:
        raise TaskError(f"the {split} split has no batches", where=task.name)


def drawn_inputs(task: Task, split: Split, *, samples: int, at_once: int, seed: int = 0) -> Iterator[Inputs]:
    """Yield exactly so many inputs of a split, or all there are, a few at a time; labels are not read.

    A batch whose tensors are not all of one length is not cut, nor is any of a task whose batches are whole.

    Args:
        task: whose data.
        split: which part of it.
        samples: inputs to see.
        at_once: inputs that are yielded together, at most; a batch ends with fewer.
        seed: of their order.
    """
    for batch in drawn(task, split, samples=samples, seed=seed):
        inputs = task.inputs(batch)
        count = min(size_of(inputs), samples)
        samples -= count
        if getattr(task, "whole", False) or len({leaf.shape[:1] for leaf in leaves(inputs)}) > 1:
            yield inputs
            continue
        for start in range(0, count, at_once):
            few = slice(start, min(start + at_once, count))
            yield mapped(itemgetter(few), inputs)


def singly(task: Task, batch: Batch) -> Iterator[Batch]:
    """Return the samples of a batch as batches of one; a batch that is whole as it is."""
    if getattr(task, "whole", False):
        yield batch
        return
    for number in range(size_of(task.inputs(batch))):
        yield mapped(partial(_sample, number=number), batch)


def _sample(part: Any, number: int) -> Any:
    if part is None:
        return None
    if not isinstance(part, Tensor):
        raise UnsupportedError(
            "a batch that cannot be taken apart", where="per-sample derivatives", got=type(part).__name__,
            expected="tensors, or tuples, lists or mappings of them",
        )  # fmt: skip
    return part[number : number + 1]


def check_finite(
    values: Iterable[Tensor], what: str, *, where: str, batch: int, inputs: Inputs | None = None
) -> None:
    """Refuse NaN and infinity in what a batch gave.

    Args:
        values: floating-point tensors.
        what: they are, for the message.
        where: name of the task.
        batch: number of the batch, counted from 0.
        inputs: of the batch, where they are known.
    """
    largest = torch._foreach_norm([value.detach() for value in values if value.numel()], inf)
    if not largest or bool(torch.stack(largest).isfinite().all()):
        return
    hint = ""
    if inputs is not None:
        odd = odd_samples(inputs)
        hint = (
            f"sample {odd[0]} of its inputs holds NaN or infinity: mend it, or leave it out"
            if odd
            else "its inputs are finite: look at what the network and the loss compute on them"
        )
    raise TaskError(f"{what} hold NaN or infinity", where=f"{where}, batch {batch} (from 0)", hint=hint)


def odd_samples(batch: Batch) -> list[int]:
    """Return the numbers of the samples of a batch, or of its inputs, that hold NaN or infinity, in order."""
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    bad = [~tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in tensors]
    return sorted({int(number) for odd in bad for number in odd.nonzero()})
