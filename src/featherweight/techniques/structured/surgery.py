"""A network with other channels: dropped, doubled or silenced, in all tensors that they run through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.graph.channels import Channels, Member
from featherweight.structure import LayerSpec, resized

if TYPE_CHECKING:
    from featherweight.model import Model, Note

Array = NDArray[Any]


def pruned(model: Model, channels: Channels, kept: Array, notes: Iterable[Note] = ()) -> Model:
    """Return the model without the channels that are not kept, their layers rebuilt smaller.

    Args:
        model: the network.
        channels: its coupled channels.
        kept: `[channels.count]`, which of them stay.
        notes: what to note on the result.
    """
    values = {}
    for name, groups in _touched(channels, kept).items():
        value = model.tensors[name].detach()
        for axis in range(value.dim()):
            gone = [member.index[~stays].reshape(-1) for member, stays in groups if member.axis == axis]
            if gone:
                index = np.setdiff1d(np.arange(value.shape[axis]), np.concatenate(gone))
                value = value.index_select(axis, torch.from_numpy(index))
        values[name] = value
    return rebuilt(model, values, notes)


def silenced(model: Model, channels: Channels, kept: Array) -> Model:
    """Return the model with every parameter of the channels that are not kept at zero: the slow oracle of `pruned`."""
    trained = {name for name, _ in model.module.named_parameters()}
    values = {}
    for name, groups in _touched(channels, kept).items():
        value = model.tensors[name].detach().clone()
        for member, stays in groups:
            value.index_fill_(member.axis, torch.from_numpy(member.index[~stays].reshape(-1)), 0.0)
        values[name] = value
    return model.with_tensors({name: value for name, value in values.items() if name in trained})


def rebuilt(model: Model, values: dict[str, Tensor], notes: Iterable[Note] = ()) -> Model:
    """Return the model with these tensors, of whatever shape; their layers rebuilt to fit."""
    paths = dict.fromkeys(name.rpartition(".")[0] for name in values)
    layers: dict[str, LayerSpec] = {}
    whole: dict[str, Tensor] = {}
    for path in paths:
        names = [name for name in model.tensors if name.rpartition(".")[0] == path]
        new = {name: values.get(name, model.tensors[name].detach()) for name in names}
        shape = new.get(f"{path}.weight", new.get(f"{path}.running_mean"))
        if shape is not None:
            layers[path] = resized(model.module.get_submodule(path), shape.shape)
        whole |= new
    return model.with_structure(layers, whole, notes)


def _touched(channels: Channels, kept: Array) -> dict[str, list[tuple[Member, Array]]]:
    """Where channels go, by tensor: the member, and which of its channels stay."""
    found: dict[str, list[tuple[Member, Array]]] = {}
    for group, stays in zip(channels.groups, channels.split(kept), strict=True):
        for member in group.members if not stays.all() else ():
            found.setdefault(member.tensor, []).append((member, stays))
    return found


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

    A run ends where the group changes or its channels start again.

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
