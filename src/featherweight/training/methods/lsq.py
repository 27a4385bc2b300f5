"""Learned step size quantization: the steps of weights and activations are parameters (LSQ, and LSQ+ offsets)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from featherweight.activations import Affine, Quantizer
from featherweight.formats import Encoded, Format
from featherweight.formats.view import Array, split
from featherweight.task.training import Rate
from featherweight.training.methods.base import Group, Method, RangeSurrogate
from featherweight.training.methods.on_grid import LEAST, WeightOnGrid, stepless
from featherweight.training.methods.oscillations import Oscillations

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.training.grids import Grid


class Lsq(Method, frozen=True, tag="lsq"):
    """The step `s` of each tensor or channel, as the format says, and of each quantizer of activations trains.

    Forward `round(clip(v / s, n, p)) s`, where the grid of the format or quantizer is `n .. p` steps from zero.
    Backward `dv = 1` where `n < v / s < p`, else 0; `ds = round(v / s) - v / s` there, `n` below and `p` above: clipped
    first, then rounded. The gradient of a step is multiplied by `1 / sqrt(N p)`, where N counts the weights that
    share it, or the features of one sample. Steps have no weight decay, and stay above a thousandth of their start.

    Activations start from their quantizers, which the step `calibrate` puts there. Where the range of one begins at
    zero (behind a ReLU), its zero point stays; elsewhere the offset `b`, the low end of the range, trains as in LSQ+:
    `db = 1` where it clips, else 0, and `ds = round(v / s) - v / s` inside, 0 below and `p - n` above. The forward pass
    rounds the offset to a whole zero point, so that it is always that of the quantizer that is left.

    Zero points of weights stay.

    References: Esser, McKinstry, Bablani, Appuswamy, Modha, Learned step size quantization, 2020, arXiv 1902.08153,
    equations 1 to 3 and 5, section 2.2; Bhalgat, Lee, Nagel, Blankevoort, Kwak, LSQ+: improving low-bit
    quantization through learnable offsets and better initialization, 2020, arXiv 2004.09576, equations 1 to 5.

    Attributes:
        start: of the steps of weights: `paper`, `2 mean|v| / sqrt(p)`; or `encoded`, as the format fits them.
        scaled: whether gradients of steps are multiplied by `1 / sqrt(N p)`.
        lr_scale: learning rate of steps and offsets over that of other parameters. Adam normalises gradients: a
            hundredth suits it.
        offsets: whether offsets of activations train; otherwise zero points stay as they were calibrated.
        narrow: whether weights do without the lowest integer, so that each has its negative: the step `fold` needs
            that of channels that a batch norm multiplies by a negative number.
        oscillations: what is done about weights that oscillate between two integers; None: they are not even counted.
    """

    start: Literal["paper", "encoded"] = "paper"
    scaled: bool = True
    lr_scale: Rate = 1.0
    offsets: bool = True
    narrow: bool = False
    oscillations: Oscillations | None = None

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return stepless(format)

    def surrogate(self, weight: Tensor, encoded: Encoded) -> LearnedSteps:
        """Return the weight and the steps of `encoded`, which train."""
        return LearnedSteps(weight, encoded, self)

    def range(self, quantizer: Quantizer) -> LearnedRange | None:
        """Return the range of integers, which trains; floating point stays as it is."""
        return LearnedRange(quantizer, self) if isinstance(quantizer, Affine) else None


class LearnedSteps(WeightOnGrid):
    """A float weight and its steps, `[units]`, which train; zero points stay."""

    def __init__(self, weight: Tensor, encoded: Encoded, method: Lsq) -> None:
        from torch import from_numpy, nn

        super().__init__(weight, encoded, method.narrow, method.oscillations)
        self.method, most = method, np.maximum(self.high, 1.0)
        view, scale = encoded.view, self.scale
        count = split(np.ones((view.rows, view.cols)), view, self.per).sum(axis=1)
        self.gain = 1 / np.sqrt(np.maximum(count * most, 1.0)) if method.scaled else np.ones(scale.size)
        if method.start == "paper":
            total = np.abs(self.units(weight)).sum(axis=1, dtype=np.float64)
            paper = 2 * total / np.maximum(count, 1) / np.sqrt(most)
            scale = np.where(total > 0, paper, scale).astype(np.float32)
        self.least = scale * np.float32(LEAST)
        self.step = nn.Parameter(from_numpy(scale.copy()))
        self.follow()

    def grid(self) -> Grid:
        """Return the grids of the units as they are now."""
        from featherweight.training.grids import Grid

        return Grid(self.step.detach().numpy(), self.low, self.high)

    def learned(self) -> list[nn.Parameter]:
        """Return the steps."""
        return [self.step]

    def passed(self, grid: Grid, weights: Array, gradient: Array, steps: Array) -> tuple[Array, list[Array]]:
        """Return the gradients by the weight, `[units, n]`, and by the steps."""
        by_weight, sums = grid.passed(weights, gradient)
        return by_weight, [(sums[:, 0] + grid.low * sums[:, 1] + grid.high * sums[:, 2] + steps) * self.gain]

    def groups(self) -> list[Group]:
        """Return the weight; and the steps, at a learning rate of their own and without decay."""
        return [Group([self.weight]), Group([self.step], self.method.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Keep the steps positive."""
        from torch import from_numpy, maximum

        self.step.copy_(maximum(self.step, from_numpy(self.least)))
        self.follow()


class LearnedRange(RangeSurrogate):
    """The step of a quantizer of integers and, unless its range begins at 0, its offset, which train."""

    def __init__(self, quantizer: Affine, method: Lsq) -> None:
        from torch import nn, tensor

        self.quantizer, self.method = quantizer, method
        self.step = nn.Parameter(tensor(quantizer.scale))
        least, most = quantizer.grid
        self.length = most - least
        trains = method.offsets and least < quantizer.zero_point
        self.offset = nn.Parameter(tensor(quantizer.range[0])) if trains else None

    @property
    def low(self) -> int:
        """The steps from zero to the low end of the range, 0 or less: the offset in whole steps."""
        if self.offset is None:
            return self.quantizer.grid[0] - self.quantizer.zero_point
        return int((self.offset.detach() / self.step.detach()).round().clamp(-self.length, 0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return an activation rounded to the integers."""
        from torch import tensor

        from featherweight.training.grids import Grid, rounded_activation

        low = self.low
        high = low + self.length
        features = max(x.numel() // max(len(x), 1), 1) if x.dim() else 1
        gain = (features * max(high, 1)) ** -0.5 if self.method.scaled else 1.0

        def of_sums(sums: Array) -> tuple[Tensor, ...]:
            inside, below, above = gain * sums[0]
            if self.offset is None:
                return (tensor(inside + low * below + high * above).float(),)
            return tensor(inside + self.length * above).float(), tensor(below + above).float()

        grid = Grid.single(float(self.step.detach()), low, high)
        return rounded_activation(x, grid, self.parameters(), of_sums)

    def groups(self) -> list[Group]:
        """Return step and offset, at a learning rate of their own and without decay."""
        return [Group(self.parameters(), self.method.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Keep the step positive, and zero in the range."""
        self.step.clamp_(min=self.quantizer.scale * LEAST)
        if self.offset is not None:
            self.offset.clamp_(min=-self.length * float(self.step), max=0.0)

    def freeze(self) -> Affine:
        """Return the quantizer, its zero point whole."""
        own = self.quantizer
        return Affine(float(self.step.detach()), own.grid[0] - self.low, own.bits, own.signed)
