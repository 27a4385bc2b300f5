"""Quantizers of activations in training: what they do on the edges of a network, and their gradient."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from featherweight.activations import Affine, Quantizer
from featherweight.capture.execution import Visit
from featherweight.graph.graph import Edge
from featherweight.simulation import fake_quantize
from featherweight.training.gradients import with_gradient
from featherweight.training.grids import Grid, rounded_activation
from featherweight.training.methods.base import OfGradient, RangeSurrogate


def rounding(
    quantizers: Mapping[Edge, Quantizer], ranges: Mapping[Edge, RangeSurrogate], gradients: Mapping[Edge, OfGradient]
) -> Visit:  # fmt: skip
    """Return what is done with each activation: rounded by what trains there, or by its quantizer, or nothing.

    The gradients by those in `gradients`, as the network computes them, become what is said there.
    """

    def visit(edge: Edge, value: Tensor) -> Tensor:
        if edge in gradients and value.requires_grad:
            value.register_hook(gradients[edge])  # type: ignore[no-untyped-call]
        if edge in ranges:
            return ranges[edge](value)
        quantizer = quantizers.get(edge)
        return value if quantizer is None else through(value, quantizer)

    return visit


def through(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return `x` rounded by a quantizer, with the identity as its gradient inside the range, and 0 outside.

    References: Bengio, Leonard, Courville, Estimating or propagating gradients through stochastic neurons for
    conditional computation, 2013, section 4.
    """
    if isinstance(quantizer, Affine):
        least, most = (end - quantizer.zero_point for end in quantizer.grid)
        return rounded_activation(x, Grid.single(quantizer.scale, least, most, (True, True)))
    low, high = quantizer.range
    inside = (x >= low) & (x <= high)
    rounded = fake_quantize(x.detach().float(), quantizer)
    return with_gradient(rounded, (x,), lambda gradient: (gradient * inside,))
