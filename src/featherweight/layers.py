"""Layers that steps put into a network and torch.nn does not have."""

from __future__ import annotations

from torch import Tensor, nn, ones
from torch.nn import functional as F


class ScaledLinear(nn.Linear):
    """A linear layer of scaled inputs: `y = W (s x) + b`, with a factor for each channel of x.

    Attributes:
        scale: the factors `[in_features]`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.scale = nn.Parameter(ones(in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for `x: [..., in_features]`."""
        return F.linear(x * self.scale, self.weight, self.bias)


OWN = {"ScaledLinear": ScaledLinear}
