"""DoReFa-Net: weights squeezed by tanh onto a uniform grid without zero, activations clipped to 0 .. 1."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.activations import Affine, Quantizer
from featherweight.formats import Basis, Encoded, Fixed, Format, Int
from featherweight.training.methods.base import Method, OfGradient, RangeSurrogate, Surrogate
from featherweight.training.methods.latent import StraightThrough

if TYPE_CHECKING:
    from torch import Tensor


TINY = float(np.finfo(np.float32).tiny)


class Dorefa(Method, frozen=True, tag="dorefa"):
    """Weights of `Basis` and activations on grids that do not train.

    Weights of k > 1 bits are `2 q(tanh W / (2 max|tanh W|) + 1/2) - 1` with `q(r) = round((2**k - 1) r) / (2**k - 1)`,
    the maximum over the tensor: odd multiples of `1 / (2**k - 1)` from -1 to 1. Rounding has the identity as its
    gradient; tanh and the maximum have their own. One bit is `mean|W| sign W`, where `sign 0` is 1; its gradient is the
    identity, and the mean has none. What is left is a geometric basis: integers.

    An activation whose range begins at zero (behind a ReLU) is `q(clip(x, 0, 1))`, of the bits that `calibrate` gave
    it, with the identity as its gradient inside. Where it can be negative its calibrated quantizer stays. Weights in
    integers (layers of 8 bits, say) train by `straight_through`.

    Gradients of k bits: that by what a layer of such a weight writes, dr, becomes `2 m (q(clip(dr / (2 m) + 1/2 + N, 0,
    1)) - 1/2)`, m the greatest magnitude of a sample and N uniform noise of one step, from -1/2 to 1/2 of `1 / (2**k -
    1)`, which makes rounding unbiased. It is drawn from torch's generator, so a resumed run draws the same.

    Weights change their scale: a batch norm behind each layer makes up for it. Trained networks are far from where they
    were; the paper trains from scratch, and keeps the first and the last layer in float (`where`, `keep_float`).

    References: Zhou, Wu, Ni, Zhou, Wen, Zou, DoReFa-Net: training low bitwidth convolutional neural networks with low
    bitwidth gradients, 2016, arXiv 1606.06160.

    Attributes:
        gradients: bits of gradients by what layers write; left open: they are not rounded.
    """

    gradients: Annotated[int, Meta(ge=1, le=8)] | None = None

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        if not isinstance(format, Basis):
            return "" if isinstance(format, Int) else "its weights are those of basis, or integers"
        return "" if format.per == "tensor" else 'its weights have one step a tensor: per = "tensor"'

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the float weight, which starts from `weight`."""
        if isinstance(encoded.format, Int):
            return StraightThrough().surrogate(weight, encoded)
        return TanhWeight(weight, encoded)

    def gradient(self) -> OfGradient | None:
        """Return what rounds the gradient by what a layer writes, if it is rounded."""
        return None if self.gradients is None else partial(rounded_gradient, bits=self.gradients)

    def range(self, quantizer: Quantizer) -> FixedRange | None:
        """Return the grid of 0 to 1, of as many bits; None where activations can be negative, or are not integers."""
        if not isinstance(quantizer, Affine) or quantizer.range[0] < 0:
            return None
        steps = quantizer.grid[1] - quantizer.grid[0]
        return FixedRange(
            Affine(float(np.float32(1 / steps)), quantizer.grid[0], quantizer.bits, quantizer.signed)
        )


def squeezed(weight: Tensor) -> Tensor:
    """Return `tanh W / max|tanh W|`, from -1 to 1, with its gradient; of zeros alone, zeros.

    >>> import torch
    >>> squeezed(torch.tensor([-1.0, 0.0, 0.5]).atanh()).tolist()
    [-1.0, 0.0, 0.5]
    """
    curved = weight.tanh()
    return curved / curved.abs().amax().clamp_min(TINY)


def rounded_gradient(gradient: Tensor, bits: int) -> Tensor:
    """Return a gradient `[n, ...]` rounded stochastically, each sample by its greatest magnitude, of its type.

    The random numbers are those of torch's generator. A sample of zeros stays.
    """
    from torch import rand

    exact, steps = gradient.float(), (1 << bits) - 1
    most = exact.abs().amax(tuple(range(1, exact.dim())), keepdim=True) if exact.numel() else exact
    noise = rand(exact.shape).sub_(0.5)
    ratio = exact.div(2 * most.clamp_min(TINY)).add_(0.5).mul_(steps).add_(noise)
    rounded = ratio.clamp_(0, steps).round_().div_(steps).sub_(0.5).mul_(2 * most)
    return rounded.to(gradient.dtype)


class TanhWeight(Surrogate):
    """A float weight that trains, rounded as DoReFa-Net rounds it."""

    def __init__(self, weight: Tensor, encoded: Encoded) -> None:
        from torch import nn

        self.weight = nn.Parameter(weight.detach().clone())
        self.encoded, self.most = encoded, (1 << encoded.format.bits) - 1  # type: ignore[attr-defined]

    def coded(self) -> tuple[Tensor, Tensor, float]:
        """Return what is rounded, with its gradient; the codes, whole numbers; half the distance of two levels."""
        if self.most == 1:
            return self.weight, (self.weight.detach() >= 0).float(), float(self.weight.detach().abs().mean())
        latent = squeezed(self.weight)
        codes = latent.detach().div(2).add_(0.5).mul_(self.most).round_()
        return latent, codes, float(np.float32(1 / self.most))

    def __call__(self) -> Tensor:
        """Return the rounded weight: odd whole numbers times a step."""
        from featherweight.training.gradients import straight_through

        latent, codes, step = self.coded()
        return straight_through(codes.mul_(2).sub_(self.most).mul_(step).add_(0.0), latent)

    def freeze(self) -> Encoded:
        """Return the rounded weight: its codes and a geometric basis."""
        view, basis = self.encoded.view, self.encoded.parts["basis"]
        _, codes, step = self.coded()
        symbols = view.matrix(codes.numpy()).astype(self.encoded.symbols.dtype).reshape(-1)
        steps = np.float32(step) * np.exp2(np.arange(basis.shape[-1])).astype(np.float32)
        parts = {"basis": np.broadcast_to(steps, basis.shape).copy()}
        return replace(self.encoded, coder=Fixed(), symbols=symbols, parts=parts)


class FixedRange(RangeSurrogate):
    """A quantizer that stands in for another, and does not train."""

    def __init__(self, quantizer: Affine) -> None:
        self.quantizer = quantizer

    def __call__(self, x: Tensor) -> Tensor:
        """Return an activation, rounded; its gradient is the identity inside the range."""
        from featherweight.training.quantizers import through

        return through(x, self.quantizer)

    def freeze(self) -> Affine:
        """Return the quantizer."""
        return self.quantizer
