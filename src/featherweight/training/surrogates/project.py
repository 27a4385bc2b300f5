"""The surrogate of training with projection: the weight itself, projected every so many steps."""

from __future__ import annotations

import torch
from torch import Tensor

from featherweight.formats import Encoded
from featherweight.training.surrogates.latent import Latent


class Projected(Latent):
    """A float weight that every `every` steps becomes what its encoding decodes to."""

    def __init__(self, weight: Tensor, encoded: Encoded, every: int) -> None:
        super().__init__(weight, encoded)
        self.every = every
        self.projection: Encoded | None = None  # what the weight decodes from, while it does

    def forward(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def after_step(self, step: int) -> None:
        """Project, if it is time."""
        self.projection = None
        if step % self.every == 0:
            self.freeze()

    def freeze(self) -> Encoded:
        """Project the weight, unless it was since the last step: encoding is not idempotent."""
        if self.projection is None:
            self.projection = super().freeze()
            with torch.no_grad():
                self.weight.copy_(torch.from_numpy(self.projection.decode()))
        return self.projection
