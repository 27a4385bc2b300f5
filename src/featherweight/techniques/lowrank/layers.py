"""A layer as a sequence of thinner layers, with what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from featherweight.structure import LayerSpec, spec_of
from featherweight.techniques.lowrank.factors import (
    Array,
    by_axis,
    by_channel,
    spatial_matrix,
    split,
    tucker,
    unfolded,
    weighed,
)
from featherweight.techniques.lowrank.ranks import Rank

Form = Literal["channel", "spatial", "tucker"]


@dataclass(frozen=True, eq=False)
class Factor:
    """One of the layers that take a layer's place.

    Attributes:
        spec: the layer, without bias.
        weight: of it.
        places: how often it is applied on the example: output pixels or rows.
    """

    spec: LayerSpec
    weight: Array
    places: int


def factors(
    layer: Any,
    form: Form,
    rank: Rank,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    root: Array | None = None,
) -> list[Factor]:
    """Return what takes the place of a linear or convolution layer; one factor alone: its rank is full.

    Args:
        layer: a plain `Linear` or ungrouped `Conv1d`, `Conv2d`, `Conv3d`.
        form: how a convolution of more than single pixels is split; a linear layer has one form.
        rank: how ranks are chosen.
        inputs: shape that it reads on the example.
        outputs: shape that it returns.
        root: of the second moment of what a row of the weight meets, see `split`; linear layers and `channel` alone.
    """
    weight = layer.weight.detach().double().numpy()
    if weight.ndim == 2:
        return _linear(layer, weight, rank.of(weighed(weight, root)), prod(outputs[:-1]), root)
    before, after = (shape[0] * prod(shape[2:]) for shape in (inputs, outputs))
    if prod(weight.shape[2:]) == 1 or form == "channel":
        matrix = weighed(weight.reshape(len(weight), -1), root)
        return _channel(layer, weight, rank.of(matrix), after, root)
    if form == "spatial" and weight.ndim == 4:
        half = inputs[0] * outputs[2] * inputs[3]
        return _spatial(layer, weight, rank.of(spatial_matrix(weight)), half, after)
    return _tucker(layer, weight, rank.of(unfolded(weight, 1)), rank.of(unfolded(weight, 0)), before, after)


def _linear(layer: Any, weight: Array, rank: int, rows: int, root: Array | None) -> list[Factor]:
    left, right = split(weight, rank, root)
    return [
        Factor(spec_of(layer, out_features=rank, bias=False), right, rows),
        Factor(spec_of(layer, in_features=rank, bias=False), left, rows),
    ]


def _channel(layer: Any, weight: Array, rank: int, after: int, root: Array | None) -> list[Factor]:
    first, second = by_channel(weight, rank, root)
    return [
        Factor(spec_of(layer, out_channels=rank, bias=False), first, after),
        Factor(_pixel(layer, rank, len(weight)), second, after),
    ]


def _spatial(layer: Any, weight: Array, rank: int, half: int, after: int) -> list[Factor]:
    first, second = by_axis(weight, rank)
    return [
        Factor(spec_of(layer, out_channels=rank, bias=False, **_along(layer, 0)), first, half),
        Factor(spec_of(layer, in_channels=rank, bias=False, **_along(layer, 1)), second, after),
    ]


def _tucker(layer: Any, weight: Array, rank_in: int, rank_out: int, before: int, after: int) -> list[Factor]:
    """A side of full rank gets no layer of its own."""
    into, core, out = tucker(weight, rank_in, rank_out)
    whole_in, whole_out = rank_in == weight.shape[1], rank_out == weight.shape[0]
    core = np.einsum("pq...,sq->ps...", core, into) if whole_in else core
    core = np.einsum("pq...,tp->tq...", core, out) if whole_out else core
    ones = (1,) * (weight.ndim - 2)
    middle = spec_of(layer, in_channels=rank_in, out_channels=rank_out, bias=False)
    found = [Factor(middle, core, after)]
    if not whole_in:
        found.insert(
            0, Factor(_pixel(layer, len(into), rank_in), into.T.reshape(*into.T.shape, *ones), before)
        )
    if not whole_out:
        found.append(Factor(_pixel(layer, rank_out, len(out)), out.reshape(*out.shape, *ones), after))
    return found


def _pixel(layer: Any, ins: int, outs: int) -> LayerSpec:
    """A convolution of single pixels."""
    arguments = {
        "in_channels": ins,
        "out_channels": outs,
        "kernel_size": [1] * (layer.weight.dim() - 2),
        "bias": False,
    }
    return LayerSpec(type(layer).__name__, arguments)  # type: ignore[arg-type]


def _along(layer: Any, axis: int) -> dict[str, Any]:
    """The arguments of a convolution along one axis alone."""
    kept = {name: [1, 1] for name in ("kernel_size", "stride", "dilation")} | {"padding": [0, 0]}
    for name, values in kept.items():
        if not isinstance(getattr(layer, name), str):
            values[axis] = getattr(layer, name)[axis]
    return kept | ({"padding": layer.padding} if isinstance(layer.padding, str) else {})
