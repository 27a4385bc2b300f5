"""Trained quantization of Deep Compression: every weight keeps its cluster, the shared values train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherweight.formats import Clustered, Encoded, Format
from featherweight.task.training import Rate
from featherweight.training.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.training.surrogates.base import Surrogate


class Centroids(Method, frozen=True, tag="centroids"):
    """The codebook is the parameter: `dL/dC_k = sum_i dL/dW_i [code_i = k]`; codes and a value of 0 stay.

    A gradient is the sum over all members of a cluster, often thousands, so the learning rate is scaled down by
    `lr_scale`. Adam normalises this away; use 1 with it. No weight decay. A tensor that is already clustered
    keeps its codes.

    References: Han, Mao, Dally, Deep Compression, 2016, section 3.3, eq. 3.

    Attributes:
        lr_scale: learning rate of centroids over that of other parameters.
    """

    lr_scale: Rate = 0.1

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return "" if isinstance(format, Clustered) else "only clustered tensors have a codebook"

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the codebook and codes of `encoded`."""
        from featherweight.training.surrogates.centroids import Codebook

        return Codebook(encoded, self.lr_scale)
