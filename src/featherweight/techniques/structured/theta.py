"""The parameters that make each channel (theta_s), as sums and as masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.graph.folding import fold_sites
from featherweight.graph.groups import Channels, Member
from featherweight.graph.trace import trace
from featherweight.task import Inputs

if TYPE_CHECKING:
    from featherweight.model import Model

Array = NDArray[Any]


def scaled_once(model: Model, channels: Channels, example: Inputs) -> Channels:
    """Return the channels with those makers alone whose derivative is that of one factor on each layer's output.

    A weight and the batch norm that it feeds both scale the channel. Removing it takes one of them to zero; along both,
    every order of the loss counts the channel more than once. So the weight is left out where a batch norm follows.
    """
    sites, _ = fold_sites(trace(model.module, example))
    inner = {name for site in sites if site.gamma for name in (site.weight, site.bias)}
    groups = (
        replace(group, members=tuple(m for m in group.members if m.reads or m.tensor not in inner))
        for group in channels.groups
    )
    return replace(channels, groups=tuple(groups))


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
