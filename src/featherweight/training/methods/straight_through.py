"""The straight-through estimator: round forward, pass the gradient on as if nothing had been rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from featherweight.formats import Encoded
from featherweight.training.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.training.surrogates.base import Surrogate


class StraightThrough(Method, frozen=True, tag="straight_through"):
    """A float latent weight: `decode(encode(latent))` forward, the identity backward, in and out of range.

    Works for every format. Scales and codebooks are fitted anew to the latent weight every `refresh` steps and at
    the end; between, weights are assigned to the nearest number that those give.

    References: Bengio, Leonard, Courville, Estimating or propagating gradients through stochastic neurons for
    conditional computation, 2013, section 4.

    Attributes:
        refresh: steps between fits.
    """

    refresh: Annotated[int, Meta(ge=1)] = 20

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the latent weight, which starts from `weight`."""
        from featherweight.training.surrogates.straight_through import Rounded

        return Rounded(weight, encoded, self.refresh)
