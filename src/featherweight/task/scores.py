"""The primary metric of each sample: what a comparison of two networks on the same samples needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.errors import TaskError
from featherweight.task.classification import Classification, logits
from featherweight.task.failures import failures
from featherweight.task.protocol import Predict, Split, Task
from featherweight.task.regression import Regression, values

Array = NDArray[np.float64]


def scores(task: Task, predict: Predict, split: Split) -> Array | None:
    """Return the primary metric of each sample of a split `[n]`, whose mean is that of the split; None if unknown.

    A task says it by a method `scores(predict, split)`. For `Classification` it is 1 where the label has the
    highest score, else 0; for `Regression` 1 - squared error / variance of the labels. These stand here and not in
    the classes because a task's class is part of its fingerprint, and no result depends on how it is compared.

    Raises:
        TaskError: the task's own method fails, or returns something else than one finite number a sample.
    """
    where = f"{task.name}, scores on {split}"
    own = getattr(task, "scores", None)
    with failures(where), torch.no_grad():
        if own is not None:
            found: Any = own(predict, split)
        elif isinstance(task, Classification):
            found = _correct(task, predict, split)
        elif isinstance(task, Regression):
            found = _explained(task, predict, split)
        else:
            return None
        made: Array = np.asarray(found, np.float64)
    if made.ndim != 1 or not made.size or not np.isfinite(made).all():
        raise TaskError("not one finite number a sample", where=where, got=f"shape {list(made.shape)}")
    return made


def _correct(task: Classification, predict: Predict, split: Split) -> Tensor:
    hits = [
        logits(predict(inputs)).argmax(1) == labels for inputs, labels in task.batches(split, seed=0, epoch=0)
    ]
    return torch.cat([hit.reshape(len(hit), -1).double().mean(1) for hit in hits])


def _explained(task: Regression, predict: Predict, split: Split) -> Tensor:
    pairs = [(values(predict(x), y).double(), y.double()) for x, y in task.batches(split, seed=0, epoch=0)]
    outputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    errors = (outputs - labels).square().reshape(len(labels), -1).mean(1)
    variance = labels.var(correction=0)
    return 1 - errors / variance if variance else torch.zeros_like(errors)
