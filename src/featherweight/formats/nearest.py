"""The nearest of sorted levels, decided exactly and by one comparison with each boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def boundaries(levels: Array) -> Array:
    """Return the greatest float32 not past the middle, for each pair of neighbours of rising `levels`.

    `numpy.searchsorted(boundaries(levels), values)` is the index of the level nearest to each float32 value,
    ties to the smaller, and no value need be widened for it.

    >>> boundaries(np.array([0, 1, 4], np.float32)).tolist()
    [0.5, 2.5]
    """
    wide = levels.astype(np.float64)
    middle = (wide[1:] + wide[:-1]) / 2
    near = middle.astype(np.float32)
    return np.where(near > middle, np.nextafter(near, np.float32(-np.inf)), near)
