"""Surrogates: a method's own parameters, the weight computed from them, and the encoding it ends in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from featherweight.formats import Encoded


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


class Surrogate(nn.Module):
    """Stands in for one tensor while a network trains.

    Its whole state is in parameters and persistent buffers, so a checkpoint is a `state_dict`.
    """

    def forward(self) -> Tensor:
        """Return the weight, of the tensor's shape; its last operation is the format's own dequantization."""
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Return every parameter once, by how it is optimized."""
        return [Group(list(self.parameters()))]

    def penalty(self, progress: float) -> Tensor | float:
        """Return what is added to the loss when a fraction `progress` of the run is done."""
        return 0.0

    def after_step(self, step: int) -> None:
        """Do what follows an optimizer step, without gradients; `step` counts from 1."""

    def freeze(self) -> Encoded:
        """Return the tensor's encoded form, at fixed rate; from now on it is what `forward` decodes to."""
        raise NotImplementedError
