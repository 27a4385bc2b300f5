"""Which samples a derivative is a mean over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from featherweight.errors import TaskError, UnsupportedError
from featherweight.task import Batch, Inputs, Split, Task


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


def size_of(inputs: Inputs) -> int:
    """Return the number of samples: the length of the first axis of the first tensor."""
    if isinstance(inputs, Mapping | tuple):
        return size_of(next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs)))
    return len(inputs)


def singly(task: Task, batch: Batch) -> Iterator[Batch]:
    """Return the samples of a batch as batches of one."""
    return (_taken(batch, number) for number in range(size_of(task.inputs(batch))))


def _taken(batch: Any, number: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[number : number + 1]
    if isinstance(batch, Mapping):
        return {key: _taken(part, number) for key, part in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_taken(part, number) for part in batch)
    raise UnsupportedError(
        "a batch that cannot be taken apart",
        where="per-sample derivatives",
        got=type(batch).__name__,
        expected="tensors, or tuples, lists or mappings of them",
    )
