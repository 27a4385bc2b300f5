"""The primary metric of each sample: what a comparison of two networks on the same samples needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featherweight.errors import TaskError
from featherweight.task.failures import failures
from featherweight.task.protocol import Predict, Split, Task

Array = NDArray[np.float64]


def scores(task: Task, predict: Predict, split: Split) -> Array | None:
    """Return the primary metric of each sample of a split `[n]`, whose mean is that of the split; None if unknown.

    A task says it by a method `scores(predict, split)`.

    Raises:
        TaskError: the method fails, or returns something else than one finite number a sample.
    """
    where = f"{task.name}, scores on {split}"
    own: Any = getattr(task, "scores", None)
    if own is None:
        return None
    with failures(where), torch.no_grad():
        made: Array = np.asarray(own(predict, split), np.float64)
    if made.ndim != 1 or not made.size or not np.isfinite(made).all():
        raise TaskError("not one finite number a sample", where=where, got=f"shape {list(made.shape)}")
    return made
