"""Levels that integers of a block stand for: weights 0 to 64, endpoints 0 to 255; by rank, and the nearest one."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.tables import ENDPOINT_RANGES, WEIGHT_RANGES, Array, Range
from featherweight.formats.kernels import compiled

# How the bits above the lowest one are spread, and by how much the trit or quint counts, by number of levels.
_WEIGHT_BITS = {
    6: ("0000000", 50), 10: ("0000000", 28), 12: ("b000b0b", 23), 20: ("b0000b0", 13), 24: ("cb000cb", 11),
}  # fmt: skip
_ENDPOINT_BITS = {
    6: ("000000000", 204), 10: ("000000000", 113), 12: ("b000b0bb0", 93), 20: ("b0000bb00", 54),
    24: ("cb000cbcb", 44), 40: ("cb0000cbc", 26), 48: ("dcb000dcb", 22), 80: ("dcb0000dc", 13),
    96: ("edcb000ed", 11), 160: ("edcb0000e", 6), 192: ("fedcb000f", 5),
}  # fmt: skip


def _replicated(value: int, bits: int, width: int) -> int:
    """Return the number of `width` bits whose highest are those of `value`, over and over."""
    return int((f"{value:0{bits}b}" * width)[:width], 2)


def _spread(value: int, kind: Range, pattern: str, factor: int) -> int:
    """Return a value with a trit or quint as 6 or 8 bits (the pattern is one longer)."""
    width = len(pattern)
    digit, low = value >> kind.bits, value & (1 << kind.bits) - 1
    bits = {name: str(low >> place & 1) for place, name in enumerate("abcdef")}
    flip = (1 << width) - 1 if low & 1 else 0
    spread = (digit * factor + int("".join(bits.get(mark, mark) for mark in pattern), 2)) ^ flip
    top = 1 << (width - 2)
    return flip & top | spread >> 2


def weights(kind: Range) -> list[int]:
    """Return the interpolation weight, 0 to 64, of every integer of a range.

    >>> weights(Range(6))
    [0, 64, 12, 52, 25, 39]
    """
    if kind.levels in (3, 5):
        found = [0, 32, 63] if kind.levels == 3 else [0, 16, 32, 47, 63]
    elif kind.levels in _WEIGHT_BITS:
        found = [_spread(value, kind, *_WEIGHT_BITS[kind.levels]) for value in range(kind.levels)]
    else:
        found = [_replicated(value, kind.bits, 6) for value in range(kind.levels)]
    return [value + (value > 32) for value in found]


def endpoints(kind: Range) -> list[int]:
    """Return the endpoint, 0 to 255, of every integer of a range.

    >>> endpoints(Range(6))
    [0, 255, 51, 204, 102, 153]
    """
    if kind.levels in _ENDPOINT_BITS:
        return [_spread(value, kind, *_ENDPOINT_BITS[kind.levels]) for value in range(kind.levels)]
    return [_replicated(value, kind.bits, 8) for value in range(kind.levels)]


def _table(rows: list[list[int]], width: int) -> Array:
    return np.array([values + [0] * (width - len(values)) for values in rows], np.uint8)


# `[range, integer]`: what it stands for; and, sorted by that, the integers of each range.
WEIGHTS = _table([weights(kind) for kind in WEIGHT_RANGES], 32)
ENDPOINTS = _table([endpoints(kind) for kind in ENDPOINT_RANGES], 256)
RISING_WEIGHTS = _table([np.argsort(weights(kind)).tolist() for kind in WEIGHT_RANGES], 32)
RISING_ENDPOINTS = _table([np.argsort(endpoints(kind)).tolist() for kind in ENDPOINT_RANGES], 256)

FINE = 512  # steps from the first to the last weight in which the nearest one is looked up

WEIGHT_COUNTS = np.array([kind.levels for kind in WEIGHT_RANGES])
ENDPOINT_COUNTS = np.array([kind.levels for kind in ENDPOINT_RANGES])
WEIGHT_VALUES: Array = np.take_along_axis(WEIGHTS, RISING_WEIGHTS, axis=1).astype(np.int64)
ENDPOINT_VALUES: Array = np.take_along_axis(ENDPOINTS, RISING_ENDPOINTS, axis=1).astype(np.int64)
_STEPS = np.arange(FINE + 1)[:, None] * 64 / FINE
NEAREST_WEIGHT: Array = np.array(
    [np.abs(_STEPS - v[:count]).argmin(axis=1) for v, count in zip(WEIGHT_VALUES, WEIGHT_COUNTS, strict=True)]
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
