"""The factor on the loss in float16: small gradients become numbers that float16 has, and large ones stay within it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from featherweight.errors import TaskError

START = 2.0**16
PATIENCE = 2000  # steps without overflow after which the factor doubles
WIDER = 'float16 ends at 65,504: precision = "bfloat16" has the range of float32; or try a lower lr, warmup, or clip'


class LossScale:
    """A factor that halves, and the step is left out, when a gradient overflows, and doubles after 2,000 good steps.

    It is a power of two, so that multiplying and dividing by it lose nothing but what float16 cannot hold.

    >>> scale, weight = LossScale(), torch.ones(1, requires_grad=True)
    >>> (scale.value * 3 * weight).sum().backward()
    >>> scale.unscale([weight.grad]), weight.grad.item(), scale.value
    (True, 3.0, 65536.0)
    >>> weight.grad.fill_(torch.inf)
    tensor([inf])
    >>> scale.unscale([weight.grad]), scale.value
    (False, 32768.0)

    References: Micikevicius et al., Mixed precision training, 2018, arXiv 1710.03740, section 3.2; the rule and its
    numbers are those of `torch.amp.GradScaler`.

    Attributes:
        value: the factor.
        good: steps without overflow since it last changed.
    """

    def __init__(self) -> None:
        self.value, self.good = START, 0

    def unscale(self, gradients: Iterable[Tensor]) -> bool:
        """Divide gradients by the factor, in place, and adapt it; return whether all of them are finite.

        Args:
            gradients: of the loss times `value`, of any shapes.

        Raises:
            TaskError: they overflow without a factor.
        """
        fits = [bool(gradient.div_(self.value).isfinite().all()) for gradient in gradients]
        if all(fits):
            self.good += 1
            if self.good == PATIENCE:
                self.value, self.good = self.value * 2, 0
            return True
        if self.value == 1:
            raise TaskError("gradients overflow, though the loss is not scaled", hint=WIDER)
        self.value, self.good = self.value / 2, 0
        return False

    def state(self) -> dict[str, Tensor]:
        """Return both numbers by name, for a checkpoint."""
        return {"value": torch.tensor(self.value, dtype=torch.float64), "good": torch.tensor(self.good)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; KeyError if something is missing."""
        self.value, self.good = float(state["value"]), int(state["good"])
