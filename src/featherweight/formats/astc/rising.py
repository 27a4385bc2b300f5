"""Levels by rank: weights and endpoints in rising order, and the nearest of them, for the encoder's loops."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.ise import ENDPOINT_RANGES, WEIGHT_RANGES, Array
from featherweight.formats.astc.levels import ENDPOINTS, RISING_ENDPOINTS, RISING_WEIGHTS, WEIGHTS
from featherweight.formats.compiled import compiled

FINE = 512  # steps from the first to the last weight in which the nearest one is looked up

WEIGHT_COUNTS = np.array([kind.levels for kind in WEIGHT_RANGES])
ENDPOINT_COUNTS = np.array([kind.levels for kind in ENDPOINT_RANGES])
WEIGHT_VALUES: Array = np.take_along_axis(WEIGHTS, RISING_WEIGHTS, axis=1).astype(np.int64)
ENDPOINT_VALUES: Array = np.take_along_axis(ENDPOINTS, RISING_ENDPOINTS, axis=1).astype(np.int64)
NEAREST_WEIGHT: Array = np.array(
    [
        np.abs(np.arange(FINE + 1)[:, None] * 64 / FINE - values[:count]).argmin(axis=1)
        for values, count in zip(WEIGHT_VALUES, WEIGHT_COUNTS, strict=True)
    ]
)


@compiled
def nearest_endpoint(value: float, kind: int) -> int:
    """Return the rank of the endpoint nearest to a value."""
    count = ENDPOINT_COUNTS[kind]
    rank = min(max(int(value * (count - 1) / 255 + 0.5), 0), count - 1)
    while rank > 0 and value - ENDPOINT_VALUES[kind, rank - 1] < ENDPOINT_VALUES[kind, rank] - value:
        rank -= 1
    while rank < count - 1 and ENDPOINT_VALUES[kind, rank + 1] - value < value - ENDPOINT_VALUES[kind, rank]:
        rank += 1
    return rank  # type: ignore[no-any-return]


@compiled
def nearest_weight(value: float, kind: int) -> int:
    """Return the rank of the weight nearest to a value between 0 and 1."""
    return NEAREST_WEIGHT[kind, min(max(int(value * FINE + 0.5), 0), FINE)]  # type: ignore[no-any-return]
