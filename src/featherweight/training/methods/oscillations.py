"""Weights that oscillate between two integers while they train: counted, dampened, frozen."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta, Struct

from featherweight.checked import check_fields
from featherweight.formats.view import Array
from featherweight.training.methods.base import Trained

if TYPE_CHECKING:
    from featherweight.training.grids import Grid

OSCILLATES = 0.005  # a weight of this frequency or more is said to oscillate; training asks for it nowhere

Frequency = Annotated[float, Meta(gt=0, lt=1)]


class Oscillations(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is done about weights that oscillate; by default they are only counted.

    A weight oscillates in a step if its integer moves the other way than it moved last. Its frequency is the
    exponential moving average of that, 0 or 1 in each step.

    **Dampening** adds to the loss the squared distance of weights from the middle of their bins, what they are rounded
    to, summed over output channels and averaged over the weights of one; weights outside the grid have none, and no
    gradient goes to steps. Its factor rises from 0 to `dampening`.

    **Freezing**: a weight whose frequency exceeds a threshold stays at an integer until the end: the moving average of
    its integers, rounded. It follows its step, which trains on. The threshold falls from `from_threshold` to
    `freezing`.

    Both begin when a share `begins` of training is done, and follow half a cosine from there to the end. Progress shows
    the shares of weights that oscillate (frequency above 0.005, and not frozen) and that are frozen. Wide weights are
    only dampened: their integers move all the time.

    References: Nagel, Fournarakis, Bondarenko, Blankevoort, Overcoming oscillations in quantization-aware training,
    ICML 2022, arXiv 2203.11086; definitions, sums and schedules as in its authors' code (`oscillations-qat`: tracker
    of up to 4 bits, dampening loss of `kernel_mean`, cosine from a quarter). They dampen MobileNetV2 of 3 and 4 bits
    with up to 0.1, and freeze it from 0.1 to 0.011 and 0.01. What is said to oscillate is ours.

    Attributes:
        momentum: of the moving averages; well below the thresholds, or a weight is frozen when it first oscillates.
            0.01 for some thousand steps; the default of their training is 0.001.
        dampening: the last factor; 0: weights are not dampened.
        freezing: the last threshold; None: weights are not frozen.
        from_threshold: the first threshold.
        begins: share of training after which both begin.
        most_bits: width up to which weights are counted and frozen.
    """

    momentum: Frequency = 0.01
    dampening: Annotated[float, Meta(ge=0)] = 0.0
    freezing: Frequency | None = None
    from_threshold: Frequency = 0.1
    begins: Annotated[float, Meta(ge=0, lt=1)] = 0.25
    most_bits: Annotated[int, Meta(ge=2, le=16)] = 4

    def __post_init__(self) -> None:
        """Refuse what is no fraction.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, "oscillations")

    def dampening_at(self, progress: float) -> float:
        """Return the factor when a fraction of training is done.

        >>> [round(Oscillations(dampening=0.1).dampening_at(t), 3) for t in (0, 0.25, 0.625, 1)]
        [0.0, 0.0, 0.05, 0.1]
        """
        return self.dampening * (1 - self._falling(progress))

    def threshold_at(self, progress: float) -> float | None:
        """Return the threshold when a fraction of training is done; None: nothing is frozen.

        >>> [Oscillations(freezing=0.01).threshold_at(t) for t in (0.2, 0.25, 1)]
        [None, 0.1, 0.01]
        """
        if self.freezing is None or progress < self.begins:
            return None
        return self.freezing + (self.from_threshold - self.freezing) * self._falling(progress)

    def _falling(self, progress: float) -> float:
        """Return half a cosine, from 1 at `begins` to 0 at the end."""
        return (1 + cos(pi * max(progress - self.begins, 0.0) / (1 - self.begins))) / 2


class Tracker(Trained):
    """What is known of the integers of a weight, each of `[units, n]`.

    Args:
        steps: the integers, in steps from zero.
    """

    def __init__(self, steps: Array) -> None:
        from torch import bool as boolean
        from torch import from_numpy, zeros

        self.steps = from_numpy(steps.astype(np.float32))
        self.average = self.steps.clone()
        self.direction = zeros(steps.shape)  # of the last move: -1, 1; 0 before the first
        self.frequency = zeros(steps.shape)
        self.frozen = zeros(steps.shape, dtype=boolean)
        self.integers = zeros(steps.shape)  # of what is frozen

    def follow(self, steps: Array, options: Oscillations, progress: float) -> None:
        """Take in the integers after a step of training, when a fraction `progress` of it is done."""
        from torch import from_numpy, where

        found = from_numpy(steps.astype(np.float32))
        moved = (found - self.steps).sign_()
        oscillates = (moved * self.direction == -1).float()
        self.frequency = self.frequency.lerp(oscillates, options.momentum)
        self.direction, self.steps = where(moved != 0, moved, self.direction), found
        if (threshold := options.threshold_at(progress)) is not None:
            new = (self.frequency > threshold) & ~self.frozen
            self.integers = where(new, self.average.round(), self.integers)
            self.frozen = self.frozen | new
        self.average = self.average.lerp(found, options.momentum)

    def frozen_in(self, grid: Grid) -> tuple[Array, Array] | None:
        """Return where weights are frozen, and at which integers, which are on the grid; None: nowhere."""
        if not self.frozen.any():
            return None
        return self.frozen.numpy(), np.clip(self.integers.numpy(), grid.low[:, None], grid.high[:, None])

    def found(self) -> dict[str, Array]:
        """Return which weights oscillate, and which are frozen."""
        oscillates = (self.frequency > OSCILLATES) & ~self.frozen
        return {"oscillating": oscillates.numpy(), "frozen": self.frozen.numpy()}
