"""A task of the zoo with little data: for fine-tuning that must be short, and the same for every method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from featherweight.data.indexed import Indexed, Subset
from featherweight.data.order import permutation
from featherweight.task.classification import Classification
from featherweight.task.failures import known_length
from featherweight.task.protocol import Split
from featherweight.task.samples import Samples


class Short(Classification):
    """Another task's data, of which an epoch of training sees a few batches, drawn anew each time.

    Args:
        task: the other one; its network comes trained.
        steps: batches in an epoch.
        validation: samples of its validation split.
        test: samples of its test split; None: all.
        model: a network of one's own; by default the task's.
    """

    def __init__(
        self,
        task: Classification,
        steps: int,
        validation: int,
        *,
        test: int | None = None,
        model: nn.Module | None = None,
    ) -> None:
        splits = task._splits
        super().__init__(
            model or task.model(),
            train=splits["train"],
            validation=some(splits["validation"], validation),
            calibration=splits["calibration"],
            test=splits["test"] if test is None else some(splits["test"], test),
            name=task.name,
            dataset=task.dataset,
            batch_size=task.batch_size,
            augment=task._augment,
        )
        self.steps = steps

    def batches(self, split: Split, *, seed: int, epoch: int) -> Iterable[tuple[Any, Any]]:
        """Return the batches of a split, of `train` the first `steps`."""
        found = super().batches(split, seed=seed, epoch=epoch)
        return First(found, self.steps) if split == "train" else found


@dataclass(frozen=True, eq=False)
class First:
    """The first `count` of some batches."""

    batches: Iterable[tuple[Any, Any]]
    count: int

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return islice(self.batches, self.count)

    def __len__(self) -> int:
        """Return their number."""
        return min(self.count, known_length(self.batches) or self.count)


def some(data: Samples, count: int) -> Samples:
    """Return so many samples, drawn once and for all, or all of a stream."""
    if not isinstance(data, Indexed):
        return data
    return Subset(data, np.sort(permutation(len(data), count)[:count]))
