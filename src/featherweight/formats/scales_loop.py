"""The loop of a search for scales, compiled: each candidate is one walk over the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.formats.compiled import compiled

Array = NDArray[Any]


@compiled
def missed_steps(
    weight: Array, importance: Array, scale: Array, low: Array, high: Array, found: Array
) -> None:
    """Sum in `found: [units]` the (weighted) squared distances of `weight / scale` to the steps `low .. high`.

    Args:
        weight: float32 `[units, n]`.
        importance: `[units, n]`, or `[units, 0]`: 1 each.
        scale: float32 `[units]`.
        low: least step of each unit, float32.
        high: greatest.
        found: float64.
    """
    units, count = weight.shape
    squares = np.empty(count, np.float32)  # apart from the sum, which goes one by one: so these need not
    for u in range(units):
        one, least, most = scale[u], low[u], high[u]
        for i in range(count):
            ratio = weight[u, i] / one
            step = np.rint(ratio)
            # min and max would be calls, and the loop not one of vectors
            step = least if step < least else step
            step = most if step > most else step
            squares[i] = (ratio - step) * (ratio - step)
        total = 0.0
        for i in range(count):
            total += squares[i] * importance[u, i] if importance.shape[1] else squares[i]
        found[u] = total
