"""The parameters that make each channel (theta_s), as sums and as masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.graph.channels import Channels, Member

Array = NDArray[Any]


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
    found: dict[str, Tensor] = {}
    for group in channels.groups:
        for member in group.makers:
            if member.tensor in values:
                value = values[member.tensor].detach()
                index = torch.from_numpy(member.index.reshape(-1))
                kept = found.setdefault(member.tensor, torch.zeros_like(value))
                kept.index_copy_(member.axis, index, value.index_select(member.axis, index))
    return found
