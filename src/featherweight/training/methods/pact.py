"""Parameterized clipping activation: what activations are clipped at trains (PACT, and its calibrated gradient)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from featherweight.activations import Affine, Quantizer
from featherweight.formats import Encoded, Format
from featherweight.formats.view import Array
from featherweight.task.training import Rate
from featherweight.training.methods.base import Group, Method, RangeSurrogate, Surrogate
from featherweight.training.methods.dorefa import Dorefa
from featherweight.training.methods.on_grid import LEAST

if TYPE_CHECKING:
    from torch import Tensor


class Pact(Method, frozen=True, tag="pact"):
    """The bound `a` of each quantizer of activations whose range begins at zero (behind a ReLU) trains.

    Forward `round(clip(x, 0, a) n / a) a / n` with n steps; backward `dx = 1` where `0 <= x < a`, else 0, and `da = 1`
    where `x >= a`, else 0. The loss has `decay` times the sum of squares of the bounds. Where activations can be
    negative, the calibrated quantizer stays.

    Weights of `Basis` train as by `dorefa`, as in the paper; integers (layers of 8 bits, say) by `straight_through`.
    The paper trains from scratch, and leaves the first and the last layer in float.

    References: Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan, PACT: parameterized clipping activation
    for quantized neural networks, 2018, arXiv 1805.06085; Jin, Yang, Liao, Towards efficient training for neural
    network quantization, 2019, arXiv 1912.10207 (`calibrated`).

    Attributes:
        start: of the bounds: `calibrated`, as the step `calibrate` found them; or a number, larger than activations
            are: 10 in the paper.
        decay: lambda of the bounds' penalty `lambda a**2`; the paper takes the weight decay's, 2e-4 for ResNet-20.
        calibrated: whether the bound has the gradient of rounding too: `da = (round(x n / a) - x n / a) / n` below it.
        lr_scale: learning rate of bounds over that of other parameters.
    """

    start: Literal["calibrated"] | Annotated[float, Meta(gt=0)] = "calibrated"
    decay: Annotated[float, Meta(ge=0)] = 2e-4
    calibrated: bool = False
    lr_scale: Rate = 1.0

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return Dorefa().misfit(format)

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the float weight, which starts from `weight`."""
        return Dorefa().surrogate(weight, encoded)

    def range(self, quantizer: Quantizer) -> Bound | None:
        """Return the bound, which trains; None where activations can be negative, or are not integers."""
        if not isinstance(quantizer, Affine) or quantizer.range[0] < 0:
            return None
        return Bound(quantizer, self)


class Bound(RangeSurrogate):
    """What an activation of 0 and more is clipped at, which trains."""

    def __init__(self, quantizer: Affine, method: Pact) -> None:
        from torch import nn, tensor

        self.quantizer, self.method = quantizer, method
        self.steps = quantizer.grid[1] - quantizer.grid[0]
        start = quantizer.range[1] if isinstance(method.start, str) else method.start
        self.bound = nn.Parameter(tensor(start))

    @property
    def step(self) -> float:
        """The step, a float32 number."""
        return (self.bound.detach() / self.steps).item()

    def __call__(self, x: Tensor) -> Tensor:
        """Return an activation, clipped and rounded."""
        from torch import tensor

        from featherweight.training.grids import Grid, rounded_activation

        def of_sums(sums: Array) -> tuple[Tensor, ...]:
            inside, _, above = sums[0]
            return (tensor(above + (inside / self.steps if self.method.calibrated else 0.0)).float(),)

        grid = Grid.single(self.step, 0, self.steps, (True, False))
        return rounded_activation(x, grid, [self.bound], of_sums)

    def penalty(self, progress: float) -> Tensor:
        """Return the decay times the square of the bound."""
        return self.method.decay * self.bound.square()

    def groups(self) -> list[Group]:
        """Return the bound, at a learning rate of its own; its decay is the penalty."""
        return [Group([self.bound], self.method.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Keep the bound positive."""
        self.bound.clamp_(min=self.quantizer.range[1] * LEAST)

    def freeze(self) -> Affine:
        """Return the quantizer as it is now."""
        return Affine(self.step, self.quantizer.grid[0], self.quantizer.bits, self.quantizer.signed)
