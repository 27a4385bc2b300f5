"""The straight-through estimator: round in the forward pass, identity in the backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from featherweight.formats import Encoded, Format, Int
from featherweight.formats.integer import COUNTED_BITS
from featherweight.training.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.training.surrogates.base import Surrogate


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

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the latent weight, which starts from `weight`."""
        from featherweight.training.surrogates.straight_through import Rounded

        return Rounded(weight, encoded, self.refresh, self.price)
