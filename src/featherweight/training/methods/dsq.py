"""Differentiable soft quantization: gradients through a staircase of tanh, whose range and softness train (DSQ)."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.activations import Affine, Quantizer
from featherweight.formats import Encoded, Format, Int
from featherweight.formats.base import Parts
from featherweight.formats.integer import grid
from featherweight.formats.view import Array
from featherweight.task.training import Rate
from featherweight.training.methods.base import Group, Method, RangeSurrogate
from featherweight.training.methods.on_grid import LEAST, WeightOnGrid, stepless
from featherweight.training.methods.oscillations import Oscillations

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.training.grids import Grid

SOFTNESS = (0.01, 0.5)  # where alpha stays


class Dsq(Method, frozen=True, tag="dsq"):
    """The ends `l` and `u` of the range of each tensor, channel or activation, and the softness of its steps, train.

    Forward is the uniform grid of n intervals, of width `d = (u - l) / n`, between `l` and `u`. Backward, interval i
    with its middle m is the curve `l + d (i + (s tanh(k (x - m)) + 1) / 2)`, where `k d = log(2 / alpha - 1)` and
    `s = 1 / (1 - alpha)` make it run from one level to the next: the gradient is largest halfway between two levels.
    The sign that makes a level of it has the identity as its gradient. With D the slope of the curve, `r = (x - l) / d`
    and q the level, `dx = D`, `du = (q - D r) / n` and `dl = 1 - D - du` inside; `dl = 1` below and `du = 1` above.
    `alpha` is one number a tensor or activation; its gradient is that of the curve. With D = 1 these are the gradients
    of LSQ+, of a step and an offset.

    Other than in the paper, zero is on each grid, since that is what integers can write: each forward pass moves the
    range by less than a step, so that its low end is whole steps from zero; gradients see the range that was used.
    Symmetric weights have one end, u; the low one is in proportion to it. Where the range of an activation begins at
    zero (behind a ReLU), its low end stays there. Ranges start as the format fits them, and as
    the step `calibrate` found them. Ends and softness have no weight decay.

    References: Gong, Liu, Jiang, Li, Hu, Lin, Yu, Yan, Differentiable soft quantization: bridging full-precision and
    low-bit neural networks, 2019, arXiv 1908.05033, section 3.

    Attributes:
        alpha: softness at the start; towards 0 the curve becomes the staircase itself.
        learns_alpha: whether it trains, from 0.01 to 0.5.
        lr_scale: learning rate of ends and softness over that of other parameters.
        narrow: whether symmetric weights do without the lowest integer; see `lsq`.
        oscillations: what is done about weights that oscillate between two integers; None: they are not even counted.
    """

    alpha: Annotated[float, Meta(ge=SOFTNESS[0], le=SOFTNESS[1])] = 0.2
    learns_alpha: bool = True
    lr_scale: Rate = 1.0
    narrow: bool = False
    oscillations: Oscillations | None = None

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        if isinstance(format, Int) and format.scheme == "affine" and self.narrow:
            return "only symmetric integers can be narrow, for zero points train"
        return stepless(format)

    def surrogate(self, weight: Tensor, encoded: Encoded) -> SoftWeight:
        """Return the weight and the ranges of `encoded`, which train."""
        return SoftWeight(weight, encoded, self)

    def range(self, quantizer: Quantizer) -> SoftRange | None:
        """Return the range of integers, which trains; floating point stays as it is."""
        return SoftRange(quantizer, self) if isinstance(quantizer, Affine) else None


@dataclass(frozen=True)
class Curve:
    """The curve of an interval of width 1 around 0: `s tanh(sharpness t) / 2`, from -1/2 to 1/2.

    >>> curve = Curve(0.2)
    >>> round(curve.sharpness / 0.5, 3), curve.scale  # k and s of a step of 0.5
    (4.394, 1.25)
    """

    alpha: float

    @property
    def sharpness(self) -> float:
        """`log(2 / alpha - 1)`."""
        return log(2 / self.alpha - 1)

    @property
    def scale(self) -> float:
        """`1 / (1 - alpha)`."""
        return 1 / (1 - self.alpha)

    def passed(self, grid: Grid, x: Array, gradient: Array) -> tuple[Array, Array]:
        """Return the gradient by x, and sums `[units, 5]`.

        With D the slope and r the steps from the low end, they are those of the gradient inside times `level - D r`,
        and times `1 - D`; of that below the grid, and above; of that inside times the curve's derivative by alpha.
        """
        from featherweight.training.kernels import pass_softly

        rise, bend = self.scale**2 / 2, -self.scale / (self.alpha * (2 - self.alpha))
        numbers = (self.sharpness, self.scale * self.sharpness / 2, rise, bend)
        return grid.swept(pass_softly, x, gradient, 5, *map(np.float32, numbers))


class SoftWeight(WeightOnGrid):
    """A float weight, the ends of its ranges, `[units]`, and their softness, which train."""

    def __init__(self, weight: Tensor, encoded: Encoded, method: Dsq) -> None:
        from torch import from_numpy, nn, tensor

        super().__init__(weight, encoded, method.narrow, method.oscillations)
        assert isinstance(encoded.format, Int)
        self.method, self.length = method, self.high - self.low
        self.least = self.scale * np.float32(LEAST)
        affine = encoded.format.scheme == "affine"
        self.upper = nn.Parameter(from_numpy(self.scale * self.high))
        self.lower = nn.Parameter(from_numpy(self.scale * self.low)) if affine else None
        self.alpha = nn.Parameter(tensor(method.alpha), requires_grad=method.learns_alpha)
        self.follow()

    def grid(self) -> Grid:
        """Return the grids of the units as they are now."""
        from featherweight.training.grids import Grid

        upper = self.upper.detach().numpy()
        if self.lower is None:
            return Grid(upper / self.high, self.low, self.high)
        lower = self.lower.detach().numpy()
        step = (upper - lower) / self.length
        low = np.clip(np.rint(lower / step), -self.length, 0)
        return Grid(step, low, low + self.length)

    def learned(self) -> list[nn.Parameter]:
        """Return ends and softness."""
        return [self.upper, self.alpha, *([] if self.lower is None else [self.lower])]

    def passed(self, grid: Grid, weights: Array, gradient: Array, steps: Array) -> tuple[Array, list[Array]]:
        """Return the gradients by the weight, `[units, n]`, and by ends and softness."""
        by_weight, sums = Curve(float(self.alpha.detach())).passed(grid, weights, gradient)
        by_step, by_low = sums[:, 0] + self.length * sums[:, 3] + steps, sums[:, 1:4].sum(axis=1)
        by_alpha = np.asarray((sums[:, 4] * grid.step).sum())
        if self.lower is None:  # both ends are steps from zero
            by_step += self.low * by_low
            return by_weight, [by_step / self.high, by_alpha]
        by_upper = by_step / self.length
        return by_weight, [by_upper, by_alpha, by_low - by_upper]

    def groups(self) -> list[Group]:
        """Return the weight; and the rest, at a learning rate of its own and without decay."""
        return [Group([self.weight]), Group(self.learned(), self.method.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Keep steps positive, zero in the ranges, and the softness within its ends."""
        from torch import from_numpy, maximum

        self.alpha.clamp_(*SOFTNESS)
        if self.lower is None:
            self.upper.copy_(maximum(self.upper, from_numpy(self.least * self.high)))
        else:
            self.lower.clamp_(max=0.0)
            self.upper.copy_(
                maximum(self.upper.clamp_(min=0.0), self.lower + from_numpy(self.least * self.length))
            )
        self.follow()

    def learned_parts(self) -> Parts:
        """Return scales and, if they train, zero points."""
        if self.lower is None:
            return super().learned_parts()
        zero = self.encoded.parts["zero_point"]
        moved = grid(self.bits)[0] - self.grid().low
        return {**super().learned_parts(), "zero_point": moved.reshape(zero.shape).astype(zero.dtype)}


class SoftRange(RangeSurrogate):
    """The ends of a quantizer of integers, the low one unless it is 0, and their softness, which train."""

    def __init__(self, quantizer: Affine, method: Dsq) -> None:
        from torch import nn, tensor

        self.quantizer, self.method = quantizer, method
        least, most = quantizer.grid
        self.length = most - least
        self.upper = nn.Parameter(tensor(quantizer.range[1]))
        self.lower = nn.Parameter(tensor(quantizer.range[0])) if least < quantizer.zero_point else None
        self.alpha = nn.Parameter(tensor(method.alpha), requires_grad=method.learns_alpha)

    def grid(self) -> Grid:
        """Return the grid as it is now."""
        from featherweight.training.grids import Grid

        lower = np.float32(0 if self.lower is None else self.lower.item())
        step = (np.float32(self.upper.item()) - lower) / np.float32(self.length)
        low = np.clip(np.rint(lower / step), -self.length, 0)
        return Grid.single(float(step), low, low + self.length, (True, True))

    def __call__(self, x: Tensor) -> Tensor:
        """Return an activation rounded to the integers."""
        from torch import tensor

        from featherweight.training.grids import rounded_activation

        grid, curve = self.grid(), Curve(self.alpha.item())

        def of_sums(sums: Array) -> tuple[Tensor, ...]:
            inside, past, below, above, by_alpha = sums[0]
            by_upper = inside / self.length + above
            found = [by_upper, by_alpha * grid.step[0], past + below + above - by_upper]
            return tuple(tensor(value).float() for value, _ in zip(found, self.learned(), strict=False))

        return rounded_activation(x, grid, self.learned(), of_sums, lambda x, g: curve.passed(grid, x, g))

    def learned(self) -> list[nn.Parameter]:
        """Return ends and softness."""
        return [self.upper, self.alpha, *([] if self.lower is None else [self.lower])]

    def groups(self) -> list[Group]:
        """Return what trains, at a learning rate of its own and without decay."""
        return [Group(self.learned(), self.method.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Keep the step positive, zero in the range, and the softness within its ends."""
        self.alpha.clamp_(*SOFTNESS)
        if self.lower is not None:
            self.lower.clamp_(max=0.0)
        lower = 0.0 if self.lower is None else self.lower.item()
        self.upper.clamp_(min=max(0.0, lower + self.length * self.quantizer.scale * LEAST))

    def freeze(self) -> Affine:
        """Return the quantizer, its zero point whole."""
        own, grid = self.quantizer, self.grid()
        return Affine(float(grid.step[0]), own.grid[0] - int(grid.low[0]), own.bits, own.signed)
