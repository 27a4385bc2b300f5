"""Training with projection: float steps, and every so many of them a projection onto the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from featherweight.formats import Encoded
from featherweight.training.methods.base import Latent, Method

if TYPE_CHECKING:
    from torch import Tensor


class Project(Method, frozen=True, tag="project"):
    """Interleaved re-training: train as float; every `every` steps `weight <- decode(encode(weight))`.

    Works for every format and needs no gradient of it. Training ends with a projection.

    Attributes:
        every: optimizer steps between projections.
    """

    every: Annotated[int, Meta(ge=1)] = 100

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Projected:
        """Return the weight, projected every `every` steps."""
        return Projected(weight, encoded, self.every)


class Projected(Latent):
    """A float weight that every `every` steps becomes what its encoding decodes to."""

    def __init__(self, weight: Tensor, encoded: Encoded, every: int) -> None:
        super().__init__(weight, encoded)
        self.every = every
        self.projection: Encoded | None = None  # what the weight decodes from, while it does

    def __call__(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def after_step(self, step: int) -> None:
        """Project, if it is time."""
        self.projection = None
        if step % self.every == 0:
            self.freeze()

    def freeze(self) -> Encoded:
        """Project the weight, unless it was since the last step: encoding is not idempotent."""
        from torch import from_numpy, no_grad

        if self.projection is None:
            self.projection = super().freeze()
            with no_grad():
                self.weight.copy_(from_numpy(self.projection.decode()))
        return self.projection
