"""Compressed training: the endpoints and interpolation weights of ASTC blocks are what trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from featherweight.formats import Astc, Encoded, Format
from featherweight.task.training import Rate
from featherweight.training.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.training.surrogates.base import Surrogate


class InBlocks(Method, frozen=True, tag="in_blocks"):
    """Both ends of every partition and the grid of weights are parameters; modes and partitions stay.

    Forward, they are rounded to their levels and painted as a GPU paints them, bit for bit. Backward, rounding
    passes the gradient on, and of a texel `x = (1 - a) e0 + a e1`, `a = M g`, it is
    `dL/de0 = sum (1 - a) dL/dx`, `dL/de1 = sum a dL/dx`, `dL/dg = M' (e1 - e0) dL/dx`. All are counted from 0 to 1,
    of the tensor's range: Adam suits them, descent without it does not. No weight decay.

    With a `share`, the blocks that rounding changes most are now and then encoded anew, with modes and partitions
    of their own, from what their parameters say unrounded. That costs little and has gained nothing where it was
    tried: hence the default.

    References: Sharma, Olson, Chalfin, Using ASTC compression for DNN weights, 2017 (compressed training); Bengio,
    Leonard, Courville, Estimating or propagating gradients through stochastic neurons for conditional
    computation, 2013, section 4 (rounding).

    Attributes:
        lr_scale: learning rate of the blocks over that of other parameters.
        every: optimizer steps between searches.
        share: of the blocks, the worst, that each search takes; 0: none.
    """

    lr_scale: Rate = 1.0
    every: Annotated[int, Meta(ge=1)] = 100
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        if not isinstance(format, Astc):
            return "only ASTC tensors have blocks"
        return (
            "Arm's encoder uses two planes and modes that do not train" if format.preset == "astcenc" else ""
        )

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the blocks of `encoded`."""
        from featherweight.training.surrogates.painted import Painted

        return Painted(encoded, self.lr_scale, self.every, self.share)
