"""The surrogate of the straight-through estimator: a float latent weight behind the format's own rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.formats import Encoded, Int
from featherweight.formats.integer import grid
from featherweight.formats.units import join, split
from featherweight.formats.view import View
from featherweight.training.surrogates.base import Surrogate

Array = NDArray[Any]


class Through(torch.autograd.Function):
    """Forward the rounded weight, exactly; backward the identity to the latent one."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, rounded: Tensor) -> Tensor:
        """Return `rounded`, bit for bit (`latent + (rounded - latent)` is not)."""
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the weight as that of the latent weight."""
        return gradients[0], None


class Latent(Surrogate):
    """A float latent weight; forward is what its encoding decodes to, its parts (scale, codebook) held for a while."""

    def __init__(self, weight: Tensor, encoded: Encoded, refresh: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.format, self.view, self.refresh = encoded.format, encoded.view, refresh
        self.names = [f"part_{name}" for name in encoded.parts]
        self.hold(encoded.parts)
        self.register_load_state_dict_pre_hook(_hold_loaded)

    def forward(self) -> Tensor:
        """Return the rounded weight."""
        rounded = self.rounded(self.weight.detach())
        return Through.apply(self.weight, rounded)  # type: ignore[no-any-return, no-untyped-call]

    def after_step(self, step: int) -> None:
        """Fit the parts to the latent weight again, every `refresh` steps."""
        if step % self.refresh == 0:
            self.freeze()

    def freeze(self) -> Encoded:
        """Return the latent weight's encoding, its parts fitted to it, and hold on to them."""
        encoded = self.format.encode(self.weight.detach().numpy(), view=self.view)
        self.hold(encoded.parts)
        return encoded

    def hold(self, parts: Mapping[str, Array]) -> None:
        """Keep these parts for the steps to come."""
        for name, part in parts.items():
            self.register_buffer(f"part_{name}", torch.from_numpy(np.array(part)))
        self.grid = Grid.of(self.format, self.view, parts) if isinstance(self.format, Int) else None

    def rounded(self, latent: Tensor) -> Tensor:
        """Return what `latent` decodes to under the parts that are held."""
        if self.grid is not None:
            return self.grid.rounded(latent)
        parts = {name.removeprefix("part_"): getattr(self, name).numpy() for name in self.names}
        return torch.from_numpy(self.format.encode(latent.numpy(), view=self.view, parts=parts).decode())


def _hold_loaded(latent: Latent, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the parts that are about to be loaded: a codebook may have another length."""
    latent.hold({name.removeprefix("part_"): state[prefix + name].numpy() for name in latent.names})


class Grid:
    """The grid of `Int` under every weight of a tensor, in torch: a step and the least and greatest count of steps.

    `rounded` equals encode and decode in numpy, bit for bit.
    """

    def __init__(self, scale: Tensor, least: Tensor, most: Tensor) -> None:
        self.scale, self.least, self.most = scale, least, most

    @classmethod
    def of(cls, format: Int, view: View, parts: Mapping[str, Array]) -> Grid | None:
        """Return the grid; None above 16 bits, where float32 cannot count the steps."""
        if format.bits > 16:
            return None
        units = split(np.zeros((view.rows, view.cols), np.float32), view, format.per).shape

        def spread(part: Array) -> Tensor:
            column = np.broadcast_to(part.reshape(-1, 1).astype(np.float32), units)
            return torch.from_numpy(view.tensor(join(np.ascontiguousarray(column), view, format.per)))

        zero_point = spread(parts.get("zero_point", np.zeros_like(parts["scale"])))
        least, most = grid(format.bits)
        return cls(spread(parts["scale"]), least - zero_point, most - zero_point)

    def rounded(self, latent: Tensor) -> Tensor:
        """Return the nearest point of the grid, ties to even; zero is +0.0."""
        steps = (latent / self.scale).round_()
        torch.minimum(torch.maximum(steps, self.least, out=steps), self.most, out=steps)
        return steps.add_(0.0).mul_(self.scale)
