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


class AstcBlocks(Method, frozen=True, tag="astc_blocks"):
    """The endpoints of every partition and the grid of weights are the parameters; modes and partitions are fixed.

    The forward pass rounds them to their levels and decodes them as a GPU does, bit for bit. In the backward pass
    rounding is the identity, and a texel `x = (1 - a) e0 + a e1`, `a = M g`, gives
    `dL/de0 = sum (1 - a) dL/dx`, `dL/de1 = sum a dL/dx`, `dL/dg = M' (e1 - e0) dL/dx`. Parameters are scaled to
    0 to 1 over the tensor's range, which suits Adam and not plain gradient descent. No weight decay.

    With a `share`, the blocks that rounding changes most are re-encoded every `every` steps from their unrounded
    parameters, with new modes and partitions. It costs little and gained nothing in our experiments, so it is off
    by default.

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
        from featherweight.training.surrogates.astc_blocks import TrainedBlocks

        return TrainedBlocks(encoded, self.lr_scale, self.every, self.share)
