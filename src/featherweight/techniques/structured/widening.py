"""Channels twice over, of which the two copies together do what one did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.graph.groups import Channels
from featherweight.techniques.structured.surgery import rebuilt

if TYPE_CHECKING:
    from featherweight.model import Model

Array = NDArray[Any]


def widened(model: Model, channels: Channels, shares: Array) -> Model:
    """Return the model with every channel of `channels` twice; it computes the same.

    What makes a channel is copied; what reads it is shared out among the two copies.

    Args:
        model: the network.
        channels: the groups to widen.
        shares: part of each channel that the first copy is read with `[channels.count]`; the second has the rest.
    """
    values: dict[str, Tensor] = {}
    for name, axis in channels.sizes(np.ones(channels.count, bool)):
        value = values.get(name, model.tensors[name].detach())
        owners, reads = owners_of(channels, name, axis, value.shape[axis])
        order, second = doubled(owners, channels.group_of)
        value = value.index_select(axis, torch.from_numpy(order))
        if reads:
            share = np.where(second, 1 - shares[owners[order]], shares[owners[order]])
            scale = torch.from_numpy(np.where(owners[order] < 0, 1.0, share)).to(value.dtype)
            value = value * scale.reshape([-1 if a == axis else 1 for a in range(value.dim())])
        values[name] = value
    return rebuilt(model, values)


def owners_of(channels: Channels, name: str, axis: int, size: int) -> tuple[Array, bool]:
    """Return the channel of each index of an axis, -1 where there is none, and whether the axis is summed over."""
    owners, start, reads = np.full(size, -1), 0, False
    for group in channels.groups:
        for member in group.members:
            if (member.tensor, member.axis) == (name, axis):
                owners[member.index] = start + np.arange(group.size)[:, None]
                reads = member.reads
        start += group.size
    return owners, reads


def doubled(owners: Array, group_of: Array) -> tuple[Array, Array]:
    """Return the order of indices with every run of one group's channels twice, and which are second copies.

    A run is broken where the group changes or its channels begin anew.

    >>> order, second = doubled(np.array([-1, 0, 0, 1, 1, -1]), np.array([0, 0]))
    >>> order.tolist()
    [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    """
    groups = np.where(owners < 0, -1, group_of[owners])
    breaks = np.flatnonzero((np.diff(groups) != 0) | (np.diff(owners) < 0)) + 1
    runs = np.split(np.arange(len(owners)), breaks)
    twice = [owners[run[0]] >= 0 for run in runs]
    pieces = [np.concatenate([run, run]) if two else run for run, two in zip(runs, twice, strict=True)]
    second = [np.arange(len(piece)) >= len(run) for piece, run in zip(pieces, runs, strict=True)]
    return np.concatenate(pieces), np.concatenate(second)
