"""AdaRound: whether each weight is rounded up or down is what trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.activations import Affine, Quantizer
from featherweight.formats import Encoded, Format, Int
from featherweight.formats.integer import grid
from featherweight.formats.view import join, split
from featherweight.task.training import Rate
from featherweight.training.methods.base import Group, Method, Surrogate
from featherweight.training.methods.lsq import LearnedRange, Lsq

if TYPE_CHECKING:
    from torch import Tensor

LOW, HIGH = -0.1, 1.1  # gamma and zeta: the ends of the stretched sigmoid


class Adaround(Method, frozen=True, tag="adaround"):
    """Each weight `w` becomes `s clip(floor(w / s) + h(V), n, p)`, with `h(V) = clip(sigmoid(V) 1.2 - 0.1, 0, 1)`.

    V trains, from where `h(V)` is what `w / s` has behind the whole number, so that training starts from the float
    weight. The loss has `price` times the mean of `1 - |2 h(V) - 1|^beta` added to it, which drives each h to 0 or 1:
    beta falls from 20 to 2, and before `warmup` there is no price. In the end h is rounded. Steps and zero points stay
    as the format fits them; the steps of quantizers of activations train as in `lsq`.

    References: Nagel, Amjad, van Baalen, Louizos, Blankevoort, Up or down? Adaptive rounding for post-training
    quantization, 2020, arXiv 2004.10568, equations 24 and 25; the mean of the prices stands for their sum.

    Attributes:
        price: of weights that are between two integers, over that of a relative error of 1.
        lr_scale: learning rate of V over that of other parameters.
        range_scale: the same of the steps of activations.
        warmup: fraction of the training without a price.
    """

    price: Annotated[float, Meta(ge=0)] = 0.1
    lr_scale: Rate = 50.0
    range_scale: Rate = 0.04
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.2

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return "" if isinstance(format, Int) and format.bits <= 16 else "only integers are rounded up or down"

    def surrogate(self, weight: Tensor, encoded: Encoded) -> UpOrDown:
        """Return what rounds the weight."""
        return UpOrDown(weight, encoded, self)

    def range(self, quantizer: Quantizer) -> LearnedRange | None:
        """Return the range of integers, which trains; floating point stays as it is."""
        method = Lsq(lr_scale=self.range_scale, offsets=False)
        return LearnedRange(quantizer, method) if isinstance(quantizer, Affine) else None


class UpOrDown(Surrogate):
    """The numbers V of a weight, of its shape, which train; whole numbers and steps stay."""

    def __init__(self, weight: Tensor, encoded: Encoded, method: Adaround) -> None:
        import torch
        from torch import nn

        format = encoded.format
        assert isinstance(format, Int)
        self.encoded, self.method = encoded, method
        view, per = encoded.view, format.per
        units = split(view.matrix(weight.detach().numpy()), view, per)
        scale = encoded.parts["scale"].astype(np.float32).reshape(-1, 1)
        zero = encoded.parts.get("zero_point", np.zeros(scale.shape)).astype(np.float32).reshape(-1, 1)
        low, high = (np.float32(end) - zero for end in grid(format.bits))
        whole = np.floor(units / scale)
        rest = np.clip(units / scale - whole, 0.001, 0.999)

        def shaped(part: np.ndarray) -> Tensor:
            wide = np.broadcast_to(part, units.shape).astype(np.float32)
            return torch.from_numpy(view.tensor(join(wide, view, per)).copy())

        self.constants = {
            name: shaped(part).numpy() for name, part in
            {"scale": scale, "low": low, "high": high, "whole": whole, "zero": (units == 0)}.items()
        }  # fmt: skip
        self.v = nn.Parameter(shaped(-np.log((HIGH - LOW) / (rest - LOW) - 1)))

    def up(self) -> Tensor:
        """Return `h(V)`, 0 to 1, of the weight's shape."""
        return (self.v.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)

    def at(self, up: Tensor) -> Tensor:
        """Return the weight whose steps are rounded up by so much."""
        from torch import from_numpy, maximum, minimum

        own = {name: from_numpy(part) for name, part in self.constants.items()}
        steps = minimum(maximum(own["whole"] + up, own["low"]), own["high"])
        return (steps * own["scale"]).masked_fill(own["zero"] > 0, 0.0)

    def __call__(self) -> Tensor:
        """Return the weight as it is between two integers."""
        return self.at(self.up())

    def penalty(self, progress: float) -> Tensor | float:
        """Return the price of being between two integers."""
        warmup = self.method.warmup
        if progress < warmup or not self.method.price:
            return 0.0
        beta = 20 - 18 * (progress - warmup) / (1 - warmup)
        return self.method.price * (1 - (2 * self.up() - 1).abs().pow(beta)).mean()

    def groups(self) -> list[Group]:
        """Return V, at a learning rate of its own and without decay."""
        return [Group([self.v], self.method.lr_scale, decays=False)]

    def freeze(self) -> Encoded:
        """Return the weight rounded up where h is one half or more."""
        from torch import no_grad

        with no_grad():
            weight = self.at((self.v >= 0).float()).numpy()
        return self.encoded.format.encode(weight, view=self.encoded.view, parts=self.encoded.parts)
