"""A method: a frozen value that replaces a weight, or a quantizer, by a trainable surrogate. Imports torch only then.

A method and its surrogates stand in one file. What a paper trains (a float weight, a codebook, steps and ranges) are
the parameters of the surrogate; `featherweight.training.gradients` gives the rounding its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featherweight.activations import Quantizer
from featherweight.checked import Options
from featherweight.formats import Encoded, Format

if TYPE_CHECKING:
    from torch import Tensor, nn


# From the gradient by an activation, `[n, ...]`, to what takes its place.
OfGradient = Callable[["Tensor"], "Tensor"]


class Method(Options, frozen=True, tag_field="method", omit_defaults=True):
    """How a tensor trains towards its encoded form; its fields are its options.

    A subclass writes `surrogate`, `misfit` if it cannot train every format, `range` if it trains quantizers, and
    `gradient` if it rounds gradients by activations.
    """

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return ""

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the surrogate that replaces a tensor while it trains.

        Args:
            weight: the tensor as training finds it, float32; it is not changed.
            encoded: the same in the format that training is to end in.
        """
        raise NotImplementedError

    def range(self, quantizer: Quantizer) -> RangeSurrogate | None:
        """Return what replaces a quantizer of activations while it trains; None: it stays as it is."""
        return None

    def gradient(self) -> OfGradient | None:
        """Return what rounds the gradient by what a layer writes whose weight trains; None: it stays as it is.

        It draws random numbers from torch's generator alone.
        """
        return None


@dataclass(frozen=True)
class Group:
    """Parameters with one factor on the learning rate, `lr_scale`, to which weight decay applies or not."""

    parameters: list[nn.Parameter]
    lr_scale: float = 1.0
    decays: bool = True


class Trained:
    """What trains in the place of something else.

    Attributes that are parameters train; these and all other attributes that are tensors are its state, which
    checkpoints save. Arrays of numpy are constants.
    """

    def groups(self) -> list[Group]:
        """Return every parameter once, by how it is optimized."""
        return [Group(self.parameters())]

    def penalty(self, progress: float) -> Tensor | float:
        """Return what is added to the loss when a fraction `progress` of the run is done."""
        return 0.0

    def after_step(self, step: int) -> None:
        """Do what follows an optimizer step, without gradients; `step` counts from 1."""

    def masks(self) -> dict[str, Tensor]:
        """Return for what training counts which elements are, by its name; progress shows their shares."""
        return {}

    def parameters(self) -> list[nn.Parameter]:
        """Return what trains."""
        from torch import nn

        return [value for value in vars(self).values() if isinstance(value, nn.Parameter)]

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training may change, by name."""
        from torch import Tensor

        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; KeyError if something is missing."""
        from torch import nn, no_grad

        for name, value in self.state().items():
            if isinstance(value, nn.Parameter):
                with no_grad():
                    value.copy_(state[name])
            else:
                setattr(self, name, state[name].clone())


def shares(parts: Iterable[Trained]) -> dict[str, float]:
    """Return the share of all elements that each of their `masks` holds, by name."""
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, mask in part.masks().items():
            found.setdefault(name, []).append(mask)
    return {
        name: sum(int(m.sum()) for m in of) / max(sum(m.numel() for m in of), 1) for name, of in found.items()
    }


class Surrogate(Trained):
    """Stands in for one tensor while a network trains: calling it returns the weight."""

    def __call__(self) -> Tensor:
        """Return the weight, of the tensor's shape; its last operation is the format's own dequantization."""
        raise NotImplementedError

    def freeze(self) -> Encoded:
        """Return the tensor's encoded form, at fixed rate; from now on it is what the weight decodes from."""
        raise NotImplementedError


class RangeSurrogate(Trained):
    """Stands in for one quantizer, on every edge that shares it: calling it rounds an activation."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return an activation, of any shape with the batch first, rounded as the quantizer of `freeze` rounds it."""
        raise NotImplementedError

    def freeze(self) -> Quantizer:
        """Return the quantizer as it is now."""
        raise NotImplementedError
