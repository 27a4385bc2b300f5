"""The surrogate of the straight-through estimator: a float latent weight behind the format's own rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.formats import Encoded, Int
from featherweight.formats.integer import grid
from featherweight.formats.units import join, split
from featherweight.training.surrogates.base import Surrogate


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
    """A float latent weight; forward is what its encoding decodes to, with parts (scale, codebook) held fixed."""

    def __init__(self, weight: Tensor, encoded: Encoded, refresh: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.format, self.view, self.refresh = encoded.format, encoded.view, refresh
        self.hold(encoded)
        self.register_load_state_dict_pre_hook(_resize_parts)

    def forward(self) -> Tensor:
        """Return the rounded weight."""
        with torch.no_grad():
            rounded = self.rounded(self.weight.detach())
        return Through.apply(self.weight, rounded)  # type: ignore[no-any-return, no-untyped-call]

    def after_step(self, step: int) -> None:
        """Fit the parts to the latent weight again, now and then."""
        if step % self.refresh == 0:
            self.hold(self.encode())

    def freeze(self) -> Encoded:
        """Return the latent weight's encoding, its parts fitted to it."""
        encoded = self.encode()
        self.hold(encoded)
        return encoded

    def encode(self) -> Encoded:
        """Return the latent weight's encoding as it stands."""
        return self.format.encode(self.weight.detach().numpy(), view=self.view)

    def hold(self, encoded: Encoded) -> None:
        """Keep the parts of an encoding for the steps to come, as buffers."""
        self.names = list(encoded.parts)
        for name, part in encoded.parts.items():
            self.register_buffer(name_of(name), torch.from_numpy(np.array(part)))

    def rounded(self, latent: Tensor) -> Tensor:
        """Return what the latent weight decodes to with the parts that are held."""
        parts = {name: getattr(self, name_of(name)).numpy() for name in self.names}
        if isinstance(self.format, Int) and self.format.bits <= 16:
            return round_int(latent, self.format, parts)
        ...
