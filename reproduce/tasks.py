"""Tasks made from tasks of the zoo: a short one, and one without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from featherweight.data.indexed import Indexed, Subset, permutation
from featherweight.events import Events
from featherweight.task import Split, Task
from featherweight.task.protocol import known_length
from featherweight.task.samples import Samples
from featherweight.task.tasks import Agreement, Classification
from featherweight.zoo.tasks import resolve


class Short(Classification):
    """Another task's data, of which an epoch of training sees a few batches, drawn again each time.

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


def short(name: str, quick: bool, steps: int, events: Events) -> Short:
    """Return a task of the zoo whose epochs are `steps` batches; quick: hardly any data at all."""
    whole = cast(Classification, resolve(name, events))
    return Short(whole, 2, 128, test=256) if quick else Short(whole, steps, 1000)


def agreement(task: Task, sizes: Sequence[int] = (), batch_size: int = 25) -> Agreement:
    """Return the task of the same images whose measure is agreement with the float network.

    Args:
        task: gives images; its labels are not used.
        sizes: how many images calibrate and how many validate, the rest tests; by default the task's own splits.
        batch_size: of the new task.
    """
    splits: list[Split] = ["train" if sizes else "calibration", "validation", "test"]
    batches = [[task.inputs(batch) for batch in task.batches(s, seed=0, epoch=0)] for s in splits]
    parts = [torch.cat(found) for found in batches]
    if sizes:
        parts = list(torch.cat(parts).tensor_split(np.cumsum(sizes).tolist()))
    calibration, validation, test = parts
    return Agreement(
        task.model(), train=calibration, calibration=calibration, validation=validation, test=test,
        name=f"{task.name}-agreement", dataset=f"agreement, {getattr(task, 'dataset', task.name)}",
        batch_size=batch_size,
    )  # fmt: skip
