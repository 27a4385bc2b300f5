"""A network with other channels: dropped, doubled or silenced, in all tensors that they run through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.graph.groups import Channels, Member
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
    """Return the model with these tensors, of whatever shape; their layers are made anew to fit."""
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
