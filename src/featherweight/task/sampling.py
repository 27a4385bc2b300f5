"""Samples of a task: whole batches until there are enough, or one by one; and a check of what a batch gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import TaskError, UnsupportedError
from featherweight.task.protocol import Batch, Inputs, Split, Task
from featherweight.task.samples import leaves, mapped, size_of


def drawn(task: Task, split: Split, samples: int, seed: int) -> list[Batch]:
    """Return the first batches of a split until `samples` are seen; whole batches are taken.

    Raises:
        TaskError: the split has no batches.
    """
    batches, seen = [], 0
    for batch in task.batches(split, seed=seed, epoch=0):
        batches.append(batch)
        seen += size_of(task.inputs(batch))
        if seen >= samples:
            break
    if not batches:
        raise TaskError(f"the {split} split has no batches", where=task.name)
    return batches


def singly(task: Task, batch: Batch) -> Iterator[Batch]:
    """Return the samples of a batch as batches of one."""
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

    Raises:
        TaskError: names the batch, and the first sample of its inputs that holds NaN or infinity itself.
    """
    largest = torch._foreach_norm([value.detach() for value in values if value.numel()], inf)
    if not largest or bool(torch.stack(largest).isfinite().all()):
        return
    hint = ""
    if inputs is not None:
        odd = [
            int(bad.to(torch.uint8).argmax()) for t in leaves(inputs) if t.dim() and (bad := _odd(t)).any()
        ]
        hint = (
            f"sample {min(odd)} of its inputs holds NaN or infinity: mend it, or leave it out"
            if odd
            else "its inputs are finite: look at what the network and the loss compute on them"
        )
    raise TaskError(f"{what} hold NaN or infinity", where=f"{where}, batch {batch} (from 0)", hint=hint)


def _odd(tensor: Tensor) -> Tensor:
    """Return which samples hold NaN or infinity."""
    return ~tensor.detach().isfinite().reshape(len(tensor), -1).all(1)
