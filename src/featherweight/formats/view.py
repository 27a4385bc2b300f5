"""How a tensor is a matrix, and its units: the runs of weights that share a scale, as rows of another matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from featherweight.errors import ConfigError

Array = NDArray[Any]

# One scale a tensor (a block of `View.groups`), a channel (row of the view), or so many neighbours in a row.
Per = Literal["tensor", "channel"] | Annotated[int, Meta(ge=1)]

BLOCK = 1 << 16  # weights worked on at once: temporaries stay in cache, whatever the size of the tensor


@dataclass(frozen=True)
class View:
    """A tensor of any shape as a matrix `[rows, cols]`, one row an output channel.

    The kept axis belongs to the layer, not to the format: a `Linear` or `Conv` weight keeps axis 0, a
    `ConvTranspose` weight `[in, out, kh, kw]` keeps axis 1, the four gates of an LSTM weight `[4 * hidden, in]`
    are four `groups` of rows. A vector (bias, gamma) is one row; a scalar is one row of one.

    >>> View.of((8, 3, 5, 5)).rows, View.of((8, 3, 5, 5)).cols
    (8, 75)
    >>> View((3, 8, 2, 2), permutation=(1, 0, 2, 3)).rows
    8

    Attributes:
        shape: shape of the tensor.
        permutation: order of its axes that brings the kept axis first.
        groups: number of equal blocks of rows with separate statistics (a "per tensor" scale is one per group).
    """

    shape: tuple[int, ...]
    permutation: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        """Fill in the identity permutation; refuse what is not one."""
        if not self.permutation:
            object.__setattr__(self, "permutation", tuple(range(len(self.shape))))
        if sorted(self.permutation) != list(range(len(self.shape))):
            axes = f"0 to {len(self.shape) - 1}"
            raise ConfigError("not an order of the axes", got=self.permutation, expected=axes)
        if self.groups < 1 or self.rows % self.groups:
            divisor = f"a divisor of {self.rows}"
            raise ConfigError("groups do not divide the rows", got=self.groups, expected=divisor)

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> View:
        """Return the view that keeps axis 0."""
        return cls(tuple(int(n) for n in shape))

    @property
    def rows(self) -> int:
        """Number of output channels; 1 for vectors and scalars."""
        return self.shape[self.permutation[0]] if len(self.shape) > 1 else 1

    @property
    def cols(self) -> int:
        """Number of elements in a row."""
        return prod(self.shape[axis] for axis in self.permutation[len(self.shape) > 1 :])

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def matrix(self, tensor: Array) -> Array:
        """Return `tensor: shape` as a matrix `[rows, cols]`."""
        return np.ascontiguousarray(tensor.transpose(self.permutation).reshape(self.rows, self.cols))

    def tensor(self, matrix: Array) -> Array:
        """Return a matrix `[rows, cols]` as the tensor it came from: the inverse of `matrix`."""
        moved = matrix.reshape([self.shape[axis] for axis in self.permutation])
        inverse = np.argsort(np.array(self.permutation, dtype=int))
        return np.asarray(moved.transpose(inverse), order="C")  # a scalar stays one


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
    length = group_length(view, per)
    filled = np.pad(matrix, [(0, 0), (0, -view.cols % length)]) if view.cols % length else matrix
    return filled.reshape(-1, length)


def join(units: Array, view: View, per: Per) -> Array:
    """Return `units: [units, length]` as `[rows, cols]`: the inverse of `split`."""
    if per == "tensor" or per == "channel":
        return units.reshape(view.rows, view.cols)
    return units.reshape(view.rows, -(-view.cols // per) * group_length(view, per))[:, : view.cols]


def spread(part: Array, view: View, per: Per) -> Array:
    """Expand one number per unit to one per weight, `[rows, cols]`, or one a row, `[rows, 1]`."""
    if isinstance(per, int):
        return np.repeat(part.reshape(units_shape(view, per)), group_length(view, per), axis=1)[
            :, : view.cols
        ]
    return np.repeat(part.reshape(-1, 1), view.rows // max(part.size, 1), axis=0)


def group_length(view: View, per: int) -> int:
    """Return the length of a group: no longer than a row, or a forged `per` would fill memory with zeros."""
    return min(per, max(view.cols, 1))


def blocks(shape: tuple[int, ...], size: int = BLOCK) -> Iterator[tuple[slice, slice]]:
    """Yield row and column slices that cover `shape`, about `size` elements each; the last ones may reach beyond."""
    wide = min(max(shape[1], 1), size)
    tall = max(1, size // wide)
    for top in range(0, shape[0], tall):
        for left in range(0, shape[1], wide):
            yield slice(top, top + tall), slice(left, left + wide)
