"""How a tensor is a matrix: which axis is kept (output channels), and which groups of rows are independent."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import ConfigError

Array = NDArray[Any]


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
            raise ConfigError(
                "not an order of the axes", got=self.permutation, expected=f"0 to {len(self.shape) - 1}"
            )
        if self.groups < 1 or self.rows % self.groups:
            raise ConfigError(
                "groups do not divide the rows", got=self.groups, expected=f"a divisor of {self.rows}"
            )

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
        return (
            prod(self.shape[axis] for axis in self.permutation[1:])
            if len(self.shape) > 1
            else prod(self.shape)
        )

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
