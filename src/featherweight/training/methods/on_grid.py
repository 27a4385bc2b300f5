"""A weight on a uniform grid whose steps train: what the methods that learn them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from featherweight.formats import Encoded, Format, Int
from featherweight.formats.base import Parts
from featherweight.formats.integer import COUNTED_BITS, grid
from featherweight.formats.view import Array, join, split
from featherweight.training.methods.base import Surrogate
from featherweight.training.methods.oscillations import Oscillations, Tracker

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.training.grids import Grid

LEAST = 2.0**-10  # of its start: a step gets no smaller, and never 0


def stepless(format: Format) -> str:
    """Return why tensors of a format have no steps that train, or an empty string if they have."""
    if not isinstance(format, Int) or not 2 <= format.bits <= COUNTED_BITS:
        return "only integers of 2 to 16 bits have steps that train"
    return "steps that train are float32, not float16" if format.half else ""


class WeightOnGrid(Surrogate):
    """A float weight that trains, rounded to a grid of which each unit, what shares a scale of the format, has one.

    A subclass makes what is learned beside the weight, and writes `grid`, `learned` and `passed`; it calls `follow`
    when it is made, and after each step.

    Args:
        weight: where training starts.
        encoded: the same as integers.
        narrow: whether grids do without the lowest integer, so that each has its negative.
        oscillations: what is done about weights that oscillate; None: nothing, and they are not counted.
    """

    def __init__(
        self, weight: Tensor, encoded: Encoded, narrow: bool, oscillations: Oscillations | None
    ) -> None:
        from torch import nn

        format = encoded.format
        assert isinstance(format, Int)
        self.encoded, self.bits, self.per, self.oscillations = encoded, format.bits, format.per, oscillations
        self.weight = nn.Parameter(weight.detach().clone())
        self.scale = encoded.parts["scale"].astype(np.float32).ravel()
        zero = encoded.parts.get("zero_point", np.zeros(self.scale.size)).astype(np.float32).ravel()
        low, high = (np.float32(end) - zero for end in grid(format.bits))
        if narrow:
            low, high = np.maximum(low, -high), np.minimum(high, -low)
        self.low, self.high = low, high
        self.tracker: Tracker | None = None

    def grid(self) -> Grid:
        """Return the grids of the units as they are now."""
        raise NotImplementedError

    def learned(self) -> list[nn.Parameter]:
        """Return what is learned beside the weight."""
        raise NotImplementedError

    def passed(self, grid: Grid, weights: Array, gradient: Array, steps: Array) -> tuple[Array, list[Array]]:
        """Return the gradients by the weight, `[units, n]`, and by what is learned.

        Args:
            grid: see `grid`.
            weights: `[units, n]`.
            gradient: by the rounded weights, likewise.
            steps: `[units]`, what is to be added to the gradients by the steps.
        """
        raise NotImplementedError

    def __call__(self) -> Tensor:
        """Return the rounded weight."""
        from torch import from_numpy

        from featherweight.training.gradients import with_gradient

        grid, weights = self.grid(), self.units(self.weight)
        frozen = self.tracker.frozen_in(grid) if self.tracker else None

        def backward(gradient: Tensor) -> tuple[Tensor, ...]:
            own, steps = self.units(gradient), np.zeros(len(weights))
            if frozen is not None:
                steps = np.where(frozen[0], own * frozen[1], 0).sum(axis=1, dtype=np.float64)
                own = np.where(frozen[0], np.float32(0), own)
            by_weight, others = self.passed(grid, weights, own, steps)
            return self.tensor(by_weight), *(from_numpy(np.asarray(other, np.float32)) for other in others)

        return with_gradient(
            self.tensor(self.rounded(grid, weights)), (self.weight, *self.learned()), backward
        )

    def rounded(self, grid: Grid, weights: Array) -> Array:
        """Return the rounded weights, `[units, n]`: those that are frozen at their integers."""
        rounded, frozen = grid.round(weights), self.tracker.frozen_in(grid) if self.tracker else None
        return rounded if frozen is None else np.where(frozen[0], frozen[1] * grid.step[:, None], rounded)

    def units(self, tensor: Tensor) -> Array:
        """Return a tensor of the weight's shape as `[units, n]`: what shares a step is a row."""
        return split(self.encoded.view.matrix(tensor.detach().numpy()), self.encoded.view, self.per)

    def tensor(self, units: Array) -> Tensor:
        """Return what `units` gave of a tensor as a tensor."""
        from torch import from_numpy

        return from_numpy(self.encoded.view.tensor(join(units, self.encoded.view, self.per)))

    def penalty(self, progress: float) -> Tensor | float:
        """Return the loss that dampens oscillations."""
        if self.oscillations is None:
            return 0.0
        self.progress = progress
        weight = self.oscillations.dampening_at(progress)
        return self.dampening(weight / max(self.encoded.view.cols, 1)) if weight else 0.0

    def dampening(self, factor: float) -> Tensor:
        """Return the sum of squared distances of weights inside the grid from what they are rounded to, times this."""
        from torch import tensor

        from featherweight.training.gradients import with_gradient

        grid, weights = self.grid(), self.units(self.weight)
        inside = (weights >= (grid.low * grid.step)[:, None]) & (weights <= (grid.high * grid.step)[:, None])
        missed = np.where(inside, weights - self.rounded(grid, weights), np.float32(0))
        value = tensor(factor * np.square(missed, dtype=np.float64).sum()).float()
        return with_gradient(value, (self.weight,), lambda g: (self.tensor(missed).mul(2 * factor * g),))

    def follow(self) -> None:
        """Track the integers of the weights, if that is asked for: at the start, and after each step of training."""
        if self.oscillations is None or self.bits > self.oscillations.most_bits:
            return
        grid = self.grid()
        steps = np.rint(self.rounded(grid, self.units(self.weight)) / grid.step[:, None])
        if self.tracker is None:
            self.tracker = Tracker(steps)
        else:
            self.tracker.follow(steps, self.oscillations, self.progress)

    def masks(self) -> dict[str, Tensor]:
        """Return which weights oscillate, and which are frozen."""
        return (
            {name: self.tensor(mask) for name, mask in self.tracker.found().items()} if self.tracker else {}
        )

    def state(self) -> dict[str, Tensor]:
        """Return what trains, and what is known of oscillations."""
        known = self.tracker.state() if self.tracker else {}
        return super().state() | {f"oscillation_{name}": tensor for name, tensor in known.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        super().load(state)
        if self.tracker:
            self.tracker.load({name: state[f"oscillation_{name}"] for name in self.tracker.state()})

    def freeze(self) -> Encoded:
        """Return the rounded weight as the integers that it is made of."""
        parts = {**self.encoded.parts, **self.learned_parts()}
        return self.encoded.format.encode(self().detach().numpy(), view=self.encoded.view, parts=parts)

    def learned_parts(self) -> Parts:
        """Return the scales, and other parts of the format that are learned."""
        return {"scale": self.grid().step.reshape(self.encoded.parts["scale"].shape).copy()}
