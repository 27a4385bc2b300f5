"""The surrogate of the straight-through estimator: a float latent weight behind the format's own rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featherweight.formats import Encoded, Int
from featherweight.formats.integer import COUNTED_BITS
from featherweight.formats.scales import grid
from featherweight.formats.view import View, join, split
from featherweight.training.surrogates.latent import Array, Latent


class Through(torch.autograd.Function):
    """The rounded weight in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, rounded: Tensor) -> Tensor:
        """Return `rounded`, bit for bit (`latent + (rounded - latent)` is not)."""
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the weight as that of the latent weight."""
        return gradients[0], None


class Rounded(Latent):
    """A float weight, in the forward pass rounded with scales or codebooks that are refitted every `refresh` steps."""

    def __init__(self, weight: Tensor, encoded: Encoded, refresh: int, price: float = 0.0) -> None:
        super().__init__(weight, encoded)
        self.refresh, self.price = refresh, price

    def forward(self) -> Tensor:
        """Return the rounded weight."""
        rounded = self.rounded(self.weight.detach())
        return Through.apply(self.weight, rounded)  # type: ignore[no-any-return, no-untyped-call]

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
        if self.grid is not None:
            return self.grid.rounded(weight)
        return torch.from_numpy(self.format.encode(weight.numpy(), view=self.view, parts=self.parts).decode())


class Grid:
    """The grid of `Int` under every weight, in torch: a step, and the least and greatest count of steps.

    `rounded` equals encode and decode in numpy, bit for bit.
    """

    def __init__(self, scale: Tensor, least: Tensor, most: Tensor) -> None:
        self.scale, self.least, self.most = scale, least, most

    @classmethod
    def of(cls, format: Int, view: View, parts: Mapping[str, Array]) -> Grid | None:
        """Return the grid; None above `COUNTED_BITS`, where float32 cannot count the steps."""
        if format.bits > COUNTED_BITS:
            return None
        units = split(np.zeros((view.rows, view.cols), np.float32), view, format.per).shape

        def spread(part: Array) -> Tensor:
            wide = np.broadcast_to(part.reshape(-1, 1), units).astype(np.float32)
            return torch.from_numpy(view.tensor(join(wide, view, format.per)))

        zero_point = spread(parts.get("zero_point", np.zeros_like(parts["scale"])))
        least, most = grid(format.bits)
        return cls(spread(parts["scale"]), least - zero_point, most - zero_point)

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the nearest point of the grid, ties to even; zero is +0.0."""
        steps = (weight / self.scale).round_()
        torch.minimum(torch.maximum(steps, self.least, out=steps), self.most, out=steps)
        return steps.add_(0.0).mul_(self.scale)
