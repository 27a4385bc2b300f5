"""Units: the runs of weights that share a scale (a tensor, a channel, a group), as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from featherweight.formats.view import View

Array = NDArray[Any]

# One scale a tensor (a block of `View.groups`), a channel (row of the view), or so many neighbours in a row.
Per = Literal["tensor", "channel"] | Annotated[int, Meta(ge=1)]

BLOCK = 1 << 16  # weights worked on at once: temporaries stay in cache, whatever the size of the tensor


def units_shape(view: View, per: Per) -> tuple[int, ...]:
    """Return the shape of a part that holds one number a unit.

    >>> units_shape(View.of((8, 70)), "tensor"), units_shape(View.of((8, 70)), "channel")
    ((1,), (8,))
    >>> units_shape(View.of((8, 70)), 32)  # the last group of a row holds 6
    (8, 3)
    """
    if per == "tensor":
        return (view.groups,)
    if per == "channel":
        return (view.rows,)
    return (view.rows, -(-view.cols // per))


def split(matrix: Array, view: View, per: Per) -> Array:
    """Return `matrix: [rows, cols]` as `[units, length]`; short last groups are padded with zeros."""
    if per == "tensor":
        return matrix.reshape(view.groups, view.size // view.groups)
    if per == "channel":
        return matrix
    rows, groups = units_shape(view, per)
    length = _length(view, per)
    filled = np.pad(matrix, [(0, 0), (0, groups * length - view.cols)]) if view.cols % length else matrix
    return filled.reshape(rows * groups, length)


def join(units: Array, view: View, per: Per) -> Array:
    """Return `units: [units, length]` as `[rows, cols]`: the inverse of `split`."""
    if per == "tensor" or per == "channel":
        return units.reshape(view.rows, view.cols)
    rows, groups = units_shape(view, per)
    return units.reshape(rows, groups * _length(view, per))[:, : view.cols]


def spread(part: Array, view: View, per: Per) -> Array:
    """Expand one number per unit to one per weight, `[rows, cols]`, or one a row, `[rows, 1]`."""
    if isinstance(per, int):
        return np.repeat(part.reshape(view.rows, -1), _length(view, per), axis=1)[:, : view.cols]
    return np.repeat(part.reshape(-1, 1), view.rows // max(part.size, 1), axis=0)


def narrowed(parts: Mapping[str, Array], view: View, per: int, columns: Array) -> dict[str, Array]:
    """Return parts that hold one number a group as parts that hold one a weight of `columns: [k]`."""
    return {name: part[:, columns // _length(view, per)] for name, part in parts.items()}


def _length(view: View, per: int) -> int:
    """Return the length of a group: no longer than a row, or a forged `per` would fill memory with zeros."""
    return min(per, max(view.cols, 1))


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield row and column slices that cover `[units, length]`, about `BLOCK` elements each."""
    units, length = shape
    wide = min(max(length, 1), BLOCK)
    tall = max(1, BLOCK // wide)
    for top in range(0, units, tall):
        for left in range(0, length, wide):
            yield slice(top, top + tall), slice(left, left + wide)
