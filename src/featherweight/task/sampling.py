"""Samples of a task: whole batches until there are enough, or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from featherweight.errors import TaskError, UnsupportedError
from featherweight.task.protocol import Batch, Split, Task
from featherweight.task.samples import mapped, size_of


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
