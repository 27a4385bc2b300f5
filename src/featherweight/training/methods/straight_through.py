"""The straight-through estimator: round in the forward pass, identity in the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.formats import Encoded, Format, Int, View
from featherweight.formats.integer import COUNTED_BITS, grid
from featherweight.formats.view import join, split
from featherweight.training.methods.base import Array, Latent, Method

if TYPE_CHECKING:
    from torch import Tensor


class StraightThrough(Method, frozen=True, tag="straight_through"):
    """A float latent weight: `decode(encode(latent))` forward, the identity backward, in and out of range.

    Works for every format. Scales and codebooks are refitted to the latent weight every `refresh` steps
    and at the end; in between, each weight is assigned to its nearest representable value.

    References: Bengio, Leonard, Courville, Estimating or propagating gradients through stochastic neurons for
    conditional computation, 2013, section 4.

    With a price, weights that the loss does not hold in place drift to zero while they train, and an entropy
    coder takes fewer bits for what is left: the sum of |weight| / scale is a soft count of the bits.

    Attributes:
        refresh: steps between fits.
        price: loss that a weight costs for each step of the grid that it is away from zero (`Int` alone has
            such steps); about 1e-6 for a network of 300,000 weights, less for more.
    """

    refresh: Annotated[int, Meta(ge=1)] = 20
    price: Annotated[float, Meta(ge=0)] = 0.0

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        stepped = isinstance(format, Int) and format.bits <= COUNTED_BITS
        return "only integers of 16 bits at most have steps to price" if self.price and not stepped else ""

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Rounded:
        """Return the latent weight, which starts from `weight`."""
        return Rounded(weight, encoded, self.refresh, self.price)


class Rounded(Latent):
    """A float weight, in the forward pass rounded with scales or codebooks that are refitted every `refresh` steps."""

    def __init__(self, weight: Tensor, encoded: Encoded, refresh: int, price: float = 0.0) -> None:
        super().__init__(weight, encoded)
        self.refresh, self.price = refresh, price

    def __call__(self) -> Tensor:
        """Return the rounded weight."""
        from featherweight.training.gradients import straight_through

        return straight_through(self.rounded(self.weight.detach()), self.weight)

    def penalty(self, progress: float) -> Tensor | float:
        """Return the price of all weights: of their distance from zero in steps."""
        if not self.price or self.grid is None:
            return 0.0
        return self.price * (self.weight.abs() / self.grid.scale).sum()

    def after_step(self, step: int) -> None:
        """Fit the parts to the weight again, every `refresh` steps."""
        if step % self.refresh == 0:
            self.freeze()

    def hold(self, parts: Mapping[str, Array]) -> None:
        """Round with these parts from now on."""
        super().hold(parts)
        self.grid = Grid.of(self.format, self.view, parts) if isinstance(self.format, Int) else None

    def rounded(self, weight: Tensor) -> Tensor:
        """Return what `weight` decodes to with the current parts."""
        from torch import from_numpy

        if self.grid is not None:
            return self.grid.rounded(weight)
        return from_numpy(self.format.encode(weight.numpy(), view=self.view, parts=self.parts).decode())


class Grid:
    """The grid of `Int` under every weight, in torch: a step, and the least and greatest count of steps.

    `rounded` equals encode and decode in numpy, bit for bit.
    """

    def __init__(self, scale: Tensor, least: Tensor, most: Tensor) -> None:
        self.scale, self.least, self.most = scale, least, most

    @classmethod
    def of(cls, format: Int, view: View, parts: Mapping[str, Array]) -> Grid | None:
        """Return the grid; None above `COUNTED_BITS`, where float32 cannot count the steps."""
        from torch import from_numpy

        if format.bits > COUNTED_BITS:
            return None
        units = split(np.zeros((view.rows, view.cols), np.float32), view, format.per).shape

        def spread(part: Array) -> Tensor:
            wide = np.broadcast_to(part.reshape(-1, 1), units).astype(np.float32)
            return from_numpy(view.tensor(join(wide, view, format.per)))

        zero_point = spread(parts.get("zero_point", np.zeros_like(parts["scale"])))
        least, most = grid(format.bits)
        return cls(spread(parts["scale"]), least - zero_point, most - zero_point)

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the nearest point of the grid, ties to even; zero is +0.0."""
        steps = (weight / self.scale).round_().clamp_(self.least, self.most)
        return steps.add_(0.0).mul_(self.scale)
