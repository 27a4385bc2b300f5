"""A method: a frozen value that replaces a weight by a trainable surrogate. Imports torch only then.

A method and its surrogate are one file, named by the method. What a paper trains (a float weight, a codebook, steps
and ranges) are the parameters of the surrogate; `featherweight.training.gradients` gives the rounding its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherweight.checked import Options
from featherweight.errors import TaskError
from featherweight.formats import Encoded, Format
from featherweight.formats.floating import beyond

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]


class Method(Options, frozen=True, tag_field="method"):
    """How a tensor trains towards its encoded form; its fields are its options.

    A subclass writes `surrogate`, and `misfit` if it cannot train every format.
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


@dataclass(frozen=True)
class Group:
    """Parameters with the same optimizer settings.

    Attributes:
        parameters: the tensors.
        lr_scale: factor on the learning rate.
        decays: whether weight decay applies.
    """

    parameters: list[nn.Parameter]
    lr_scale: float = 1.0
    decays: bool = True


class Surrogate:
    """Stands in for one tensor while a network trains: calling it returns the weight.

    Attributes that are parameters train; these and all other attributes that are tensors are its state, which
    checkpoints save. Arrays of numpy are constants.
    """

    def __call__(self) -> Tensor:
        """Return the weight, of the tensor's shape; its last operation is the format's own dequantization."""
        raise NotImplementedError

    def freeze(self) -> Encoded:
        """Return the tensor's encoded form, at fixed rate; from now on it is what the weight decodes from."""
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Return every parameter once, by how it is optimized."""
        return [Group(self.parameters())]

    def penalty(self, progress: float) -> Tensor | float:
        """Return what is added to the loss when a fraction `progress` of the run is done."""
        return 0.0

    def after_step(self, step: int) -> None:
        """Do what follows an optimizer step, without gradients; `step` counts from 1."""

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


class Latent(Surrogate):
    """A float weight that trains, and the parts (scale, codebook) that it was last encoded with."""

    def __init__(self, weight: Tensor, encoded: Encoded) -> None:
        from torch import nn

        self.weight = nn.Parameter(weight.detach().clone())
        self.format, self.view = encoded.format, encoded.view
        self.hold(encoded.parts)

    def hold(self, parts: Mapping[str, Array]) -> None:
        """Keep these parts for the steps to come."""
        self.parts = {name: np.array(part) for name, part in parts.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the weight and the parts."""
        from torch import from_numpy

        return super().state() | {f"part_{name}": from_numpy(part) for name, part in self.parts.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; a codebook may have another length."""
        from torch import no_grad

        with no_grad():
            self.weight.copy_(state["weight"])
        self.hold({name: state[f"part_{name}"].numpy() for name in self.parts})

    def freeze(self) -> Encoded:
        """Return the weight encoded with newly fitted parts, or with those held if they are closer.

        Fitted to a weight that is decoded already, parts need not be those it decodes from: the range of
        `Int` by min-max shrinks each time.

        Raises:
            TaskError: the format has no scale, and the weight is beyond its range.
        """
        weight = self.weight.detach().numpy()
        if reason := beyond(weight, self.format):
            raise TaskError(
                f"training has left the range: {reason}", hint="try a lower lr, or another format"
            )
        fitted = self.format.encode(weight, view=self.view)
        held = self.format.encode(weight, view=self.view, parts=self.parts)
        encoded = min(
            held, fitted, key=lambda entry: float(np.square(entry.decode() - weight, dtype=np.float64).sum())
        )
        self.hold(encoded.parts)
        return encoded
