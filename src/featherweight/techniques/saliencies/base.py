"""What a saliency is: a frozen value that scores every channel of a network; and sums over a channel's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featherweight.checked import Options
from featherweight.task import Needs, Task

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.channels import Channels, Member
    from featherweight.model import Model

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Scores:
    """What removing channels is thought to cost; least first to go.

    Attributes:
        linear: cost of each channel alone `[channels]`.
        pair: symmetric `[channels, channels]`; removing a set M costs the sum of `linear` over M and half the sum
            of `pair` over M x M. None: costs add up.
    """

    linear: Array
    pair: Array | None = None


class Saliency(Options, frozen=True, tag_field="saliency", omit_defaults=True):
    """How much a channel matters. A pure function of model, data and seed; in eval mode.

    A channel is all parameters that make it: rows of weights, biases, scales and shifts of batch norm.

    Attributes:
        in_loss: whether scores tell what is lost; then those go first that lose least for what they save.
    """

    needs: ClassVar[Needs] = "none"
    in_loss: ClassVar[bool] = False

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the scores of all channels."""
        raise NotImplementedError


def per_channel(channels: Channels, values: Mapping[str, Tensor]) -> Array:
    """Return the sum of `values` over the parameters that make each channel `[channels.count]`, in float64.

    Args:
        channels: coupled channels.
        values: one tensor a parameter, of its shape; what is missing counts as zero.
    """
    sums = []
    for group in channels.groups:
        total = np.zeros(group.size)
        for member in group.makers:
            if member.tensor in values:
                total += rows(member, values[member.tensor].detach().double()).sum(axis=1)
        sums.append(total)
    return np.concatenate(sums) if sums else np.zeros(0)


def rows(member: Member, value: Tensor) -> Array:
    """Return what a tensor holds of each channel `[channels, ...]`, flattened."""
    found: Array = (
        value.movedim(member.axis, 0).flatten(1).numpy() if value.dim() > 1 else value.numpy()[:, None]
    )
    return found[member.index].reshape(len(member.index), -1)


def only_makers(channels: Channels, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `values` with zeros wherever a parameter makes no channel; parameters that make none are left out."""
    import torch

    found: dict[str, Tensor] = {}
    for group in channels.groups:
        for member in group.makers:
            if member.tensor in values:
                value = values[member.tensor].detach()
                index = torch.from_numpy(member.index.reshape(-1))
                kept = found.setdefault(member.tensor, torch.zeros_like(value))
                kept.index_copy_(member.axis, index, value.index_select(member.axis, index))
    return found
