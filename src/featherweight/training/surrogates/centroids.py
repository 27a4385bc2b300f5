"""The surrogate of centroid training: a codebook that trains, and codes that stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.formats import Encoded
from featherweight.training.surrogates.base import Group, Surrogate


class Lookup(torch.autograd.Function):
    """Forward `codebook[codes]`; backward the sum of each code's gradients, and none for a pinned zero."""

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, codes: Tensor, pinned: bool) -> Tensor:
        """Return the weight, of the shape of `codes`, of `codebook: [k]`."""
        ctx.save_for_backward(codes)
        ctx.count, ctx.pinned = len(codebook), pinned
        return codebook[codes]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the scatter-added gradient, `[k]`, summed in float64."""
        (codes,) = ctx.saved_tensors
        weights = gradients[0].reshape(-1).double()
        total = torch.bincount(codes.reshape(-1), weights, minlength=ctx.count).to(gradients[0].dtype)
        if ctx.pinned:
            total[0] = 0.0
        return total, None, None


class Codebook(Surrogate):
    """Centroids `[k]` as the one parameter, and the code of every weight as a buffer of the tensor's shape."""

    def __init__(self, encoded: Encoded, lr_scale: float) -> None:
        super().__init__()
        self.encoded, self.lr_scale = encoded, lr_scale
        codes = encoded.view.tensor(encoded.symbols.reshape(encoded.view.rows, encoded.view.cols))
        self.codebook = nn.Parameter(torch.from_numpy(np.array(encoded.parts["codebook"])))
        self.register_buffer("codes", torch.from_numpy(codes.astype(np.int64)), persistent=False)
        self.pinned = encoded.spec.zero is not None

    def forward(self) -> Tensor:
        """Return the centroid of every weight."""
        return Lookup.apply(self.codebook, self.codes, self.pinned)  # type: ignore[no-any-return, no-untyped-call]

    def groups(self) -> list[Group]:
        """Return the codebook, at a learning rate of its own and without decay."""
        return [Group([self.codebook], self.lr_scale, decays=False)]

    def freeze(self) -> Encoded:
        """Return the same codes with the codebook as it is now."""
        return dataclasses.replace(self.encoded, parts={"codebook": self.codebook.detach().numpy().copy()})
