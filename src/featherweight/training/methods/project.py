"""Training with projection: float steps, and every so many of them a projection onto the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from featherweight.formats import Encoded
from featherweight.training.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.training.surrogates.base import Surrogate


class Project(Method, frozen=True, tag="project"):
    """Interleaved re-training: train as float; every `every` steps `weight <- decode(encode(weight))`.

    Works for every format and needs no gradient of it. Training ends with a projection.

    Attributes:
        every: optimizer steps between projections.
    """

    every: Annotated[int, Meta(ge=1)] = 100

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the weight, projected every `every` steps."""
        from featherweight.training.surrogates.project import Projected

        return Projected(weight, encoded, self.every)
