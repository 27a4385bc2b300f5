"""Uniform grids: formats that round each number to one can be swept by a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Uniform:
    """A grid for each number of a matrix `[rows, cols]`: `scale` times a whole step, ties to even steps.

    Attributes:
        shape: of the matrix.
        scale: float32; as the ends of the steps, it broadcasts to `shape`.
        low: least step.
        high: greatest step.
        pair: most that the steps of columns 0 and 1, 2 and 3, ... of a run may sum to in magnitude; None: any.
    """

    shape: tuple[int, int]
    scale: Array
    low: Array
    high: Array
    pair: int | None = None

    def in_turn(self, left: Array, corner: Array, columns: Array) -> tuple[Array, Array]:
        """Return what is written of a run of columns, and the errors that the columns after it compensate.

        Args:
            left: `[groups, k, rows of a group]`.
            corner: `[groups, k, k]`, the rows and columns of the inverse factor that are theirs.
            columns: which they are, `[k]`.
        """
        from featherweight.formats.sweep_loop import round_in_pairs, round_in_turn

        made, errors = np.array(left, np.float64, order="C"), np.empty(left.shape)
        scale, low, high = (
            self._part(part, columns, len(left)) for part in (self.scale, self.low, self.high)
        )
        corner = np.ascontiguousarray(corner)
        if self.pair is None:
            round_in_turn(made, corner, scale, low, high, errors)
        else:
            round_in_pairs(made, corner, scale, low, high, float(self.pair), errors)
        return made, errors

    def _part(self, part: Array, columns: Array, groups: int) -> Array:
        """Return some columns of a part, float32 `[groups, k, rows of a group]`."""
        chosen = np.broadcast_to(part, self.shape)[:, columns].reshape(groups, -1, len(columns))
        return np.ascontiguousarray(chosen.transpose(0, 2, 1), np.float32)
