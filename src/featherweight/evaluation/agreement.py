"""How two computations of a network compare: the share of samples with the same top-1 class, and steps apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.graph.pytree import flatten_outputs
from featherweight.task import Inputs, Predict, Task
from featherweight.task.samples import size_of
from featherweight.task.sampling import drawn

SAMPLES = 256
LEVELS = 255  # steps of the range of an output
NEAR = 8  # steps, within which numbers agree that are no scores of classes


@dataclass(frozen=True)
class Comparison:
    """How two computations of one network compare.

    Attributes:
        samples: on how many.
        same: share of them whose greatest output is the same one; where outputs are not scores of classes,
            share of their numbers that are within 8 steps.
        steps: share of output numbers 0, 1, 2, and 3 or more steps apart; a step is 1/255 of the range.
    """

    samples: int
    same: float
    steps: tuple[float, float, float, float]

    def __str__(self) -> str:
        """Return it as a sentence."""
        apart = ", ".join(f"{share:.1%} {name}" for share, name in zip(self.steps, _NAMES, strict=True))
        return f"same top-1 class on {self.same:.1%} of {self.samples} samples; output steps apart: {apart}"


_NAMES = ("0", "1", "2", "3 or more")


def agreement(first: Predict, second: Predict, task: Task, samples: int = SAMPLES) -> Comparison:
    """Return how `first` and `second` compare on validation inputs."""
    same, numbers, seen = [], np.zeros(4), 0
    for batch in drawn(task, "validation", samples, 0):
        inputs = task.inputs(batch)
        for ours, theirs in zip(_arrays(first, inputs), _arrays(second, inputs), strict=True):
            step = max(float(np.ptp(ours)), 1e-30) / LEVELS
            apart = np.rint(np.abs(ours - theirs) / step).astype(np.int64)
            numbers += np.bincount(np.minimum(apart.reshape(-1), 3), minlength=4)
            scores = ours.ndim == 2 and ours.shape[1] > 1
            same.append((ours.argmax(1) == theirs.argmax(1)) if scores else (apart <= NEAR).reshape(-1))
        seen += size_of(inputs)
    a, b, c, d = (numbers / max(numbers.sum(), 1)).tolist()
    return Comparison(seen, float(np.concatenate(same).mean()), (a, b, c, d))


def _arrays(predict: Predict, inputs: Inputs) -> list[NDArray[Any]]:
    return [tensor.detach().double().numpy() for tensor in flatten_outputs(predict(inputs))[1]]
