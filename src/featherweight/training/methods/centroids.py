"""Trained quantization of Deep Compression: every weight keeps its cluster, the shared values train."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featherweight.formats import Clustered, Encoded, Format
from featherweight.task.training import Rate
from featherweight.training.methods.base import Group, Method, Surrogate

if TYPE_CHECKING:
    from torch import Tensor


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

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Codebook:
        """Return the codebook and codes of `encoded`."""
        return Codebook(encoded, self.lr_scale)


class Codebook(Surrogate):
    """Centroids `[k]` that train, and the code of every weight, which stays."""

    def __init__(self, encoded: Encoded, lr_scale: float) -> None:
        from torch import from_numpy, nn

        self.encoded, self.lr_scale = encoded, lr_scale
        codes = encoded.view.tensor(encoded.symbols.reshape(encoded.view.rows, encoded.view.cols))
        self.codes = codes.astype(np.int64)
        self.codebook = nn.Parameter(from_numpy(np.array(encoded.parts["codebook"])))

    def __call__(self) -> Tensor:
        """Return the centroid of every weight."""
        from torch import bincount, from_numpy

        from featherweight.training.gradients import with_gradient

        codes = from_numpy(self.codes)

        def summed(gradient: Tensor) -> tuple[Tensor]:
            """The gradients of each code, summed in float64; none for a pinned zero."""
            weights = gradient.reshape(-1).double()
            total = bincount(codes.reshape(-1), weights, minlength=len(self.codebook)).to(gradient.dtype)
            if self.encoded.spec.zero is not None:
                total[0] = 0.0
            return (total,)

        return with_gradient(self.codebook.detach()[codes], (self.codebook,), summed)

    def groups(self) -> list[Group]:
        """Return the codebook, at a learning rate of its own and without decay."""
        return [Group([self.codebook], self.lr_scale, decays=False)]

    def freeze(self) -> Encoded:
        """Return the same codes with the codebook as it is now."""
        return replace(self.encoded, parts={"codebook": self.codebook.detach().numpy().copy()})
