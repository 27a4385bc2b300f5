"""The loop of the column sweep over uniform grids, compiled: nothing of it is worth a call of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.formats.compiled import compiled

Array = NDArray[Any]


@compiled
def round_in_turn(left: Array, corner: Array, scale: Array, low: Array, high: Array, errors: Array) -> None:
    """Round columns one after the other; each error is made good in those of them still to come.

    Args:
        left: float64 `[groups, k, rows]`; becomes the rounded numbers.
        corner: `[groups, k, k]`, the rows and columns of the inverse factor that are theirs.
        scale: float32 `[groups, k, rows]`: a number is this times a whole step.
        low: least step, likewise.
        high: greatest step, likewise.
        errors: float64 `[groups, k, rows]`; becomes what the columns after these make good.
    """
    groups, count, rows = left.shape
    for g in range(groups):
        for i in range(count):
            for r in range(rows):
                step = np.rint(np.float32(left[g, i, r]) / scale[g, i, r])
                step = min(max(step, low[g, i, r]), high[g, i, r])
                made = np.float64(step * scale[g, i, r])
                errors[g, i, r] = (left[g, i, r] - made) / corner[g, i, i]
                left[g, i, r] = made
            for j in range(i + 1, count):
                for r in range(rows):
                    left[g, j, r] -= corner[g, i, j] * errors[g, i, r]
