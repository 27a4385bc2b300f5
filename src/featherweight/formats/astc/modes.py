"""Footprints, ranges of integers, and the block modes: what 11 bits say of a block's grid of weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Footprint = Literal[
    "4x4", "5x4", "5x5", "6x5", "6x6", "8x5", "8x6", "10x5", "10x6", "8x8", "10x8", "10x10", "12x10", "12x12"
]
FOOTPRINTS: tuple[Footprint, ...] = get_args(Footprint)
Size = tuple[int, int]

BLOCK_BITS = 128
MOST_WEIGHTS, LEAST_WEIGHT_BITS, MOST_WEIGHT_BITS = 64, 24, 96
MOST_ENDPOINTS = 18
VOID = 0x1FC  # the low nine bits of the mode of a block of one colour
# By partitions: where endpoints start if all have one kind of them.
STARTS: Array = np.array([0, 17, 29, 29, 29])


@dataclass(frozen=True)
class Range:
    """The integers `0 .. levels - 1`, each a trit or a quint above `bits` bits.

    >>> Range(12), Range(12).size(16)
    (Range(levels=12), 58)
    """

    levels: int

    @property
    def trits(self) -> int:
        """1 if values have a trit."""
        return int(self.levels % 3 == 0)

    @property
    def quints(self) -> int:
        """1 if values have a quint."""
        return int(self.levels % 5 == 0)

    @property
    def bits(self) -> int:
        """Bits below the trit or quint."""
        return (self.levels // (3 if self.trits else 5 if self.quints else 1)).bit_length() - 1

    def size(self, count: int) -> int:
        """Return the bits of `count` values."""
        return count * self.bits + -(-8 * count * self.trits // 5) + -(-7 * count * self.quints // 3)


WEIGHT_RANGES = tuple(Range(n) for n in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32))
ENDPOINT_RANGES = tuple(
    Range(n) for n in (6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)
)


def size(footprint: Footprint) -> Size:
    """Return width and height in texels.

    >>> size("10x6")
    (10, 6)
    """
    return cast(Size, tuple(int(n) for n in footprint.split("x")))


class Mode(NamedTuple):
    """What a block mode says; `weights` is a position in `WEIGHT_RANGES`, `planes` 1 or 2."""

    width: int
    height: int
    weights: int
    planes: int

    @property
    def nbits(self) -> int:
        """Bits of the weights."""
        return WEIGHT_RANGES[self.weights].size(self.points)

    @property
    def points(self) -> int:
        """Number of weights."""
        return self.width * self.height * self.planes


def mode(code: int) -> Mode | None:
    """Return what the 11 bits of a block mode say; None if they are reserved or of a block of one colour.

    >>> mode(0b00001000010)
    Mode(width=4, height=4, weights=2, planes=1)
    """
    low, a, b = code & 3, code >> 5 & 3, code >> 7 & 3
    double, precise = code >> 10 & 1, code >> 9 & 1
    if low:
        rank = low << 1 | code >> 4 & 1
        grids = ((b + 4, a + 2), (b + 8, a + 2), (a + 2, b + 8), (b, a + 2) if b > 1 else (a + 2, b + 6))
        grid = grids[code >> 2 & 3]
    else:
        rank = (code >> 2 & 3) << 1 | code >> 4 & 1
        if b == 2:
            grid, double, precise = (a + 6, (code >> 9 & 3) + 6), 0, 0
        elif b == 3 and a > 1:
            return None
        else:
            grid = ((12, a + 2), (a + 2, 12), (0, 0), (6, 10) if a == 0 else (10, 6))[b]
    return Mode(*grid, rank - 2 + 6 * precise, 1 + double) if rank >= 2 else None


def _row(found: Mode | None) -> tuple[int, ...]:
    """Return a row of `MODES`; zeros if the weights of such a block are too many, too long or too short."""
    legal = found and found.points <= MOST_WEIGHTS and LEAST_WEIGHT_BITS <= found.nbits <= MOST_WEIGHT_BITS
    return (*found, found.nbits) if found and legal else (0,) * 5


# By block mode, `[2048, 5]`: width, height, range, planes, bits of the weights; zeros where it is not legal.
MODES: Array = np.array([_row(mode(code)) for code in range(2048)], np.int64)


def endpoint_range(bits: int, count: int) -> int:
    """Return the position of the greatest range of which `count` integers fit in so many bits; -1: none."""
    return max((i for i, kind in enumerate(ENDPOINT_RANGES) if kind.size(count) <= bits), default=-1)


# By number of pairs of endpoints and bits left for them, `[10, 128]`: position of their range.
ENDPOINT_RANGE: Array = np.array(
    [[endpoint_range(bits, 2 * pairs) for bits in range(BLOCK_BITS)] for pairs in range(10)], np.int64
)


def endpoint_kind(code: Array | int, partitions: Array | int, pairs: Array | int) -> Array:
    """Return the position of the endpoints' range in blocks of these modes, -1: none, if all have one kind of them."""
    kinds: Array = ENDPOINT_RANGE[pairs, BLOCK_BITS - STARTS[partitions] - MODES[code, 4]]
    return kinds


class Configuration(NamedTuple):
    """A way to lay out a block of one plane whose partitions have one kind of endpoints.

    `code` is its block mode, `width` and `height` are of the grid of weights; `weights` and `endpoints` are
    positions of their ranges.
    """

    code: int
    width: int
    height: int
    weights: int
    partitions: int
    endpoints: int


@lru_cache
def configurations(footprint: Footprint, channels: int) -> tuple[Configuration, ...]:
    """Return every legal configuration of one plane, for endpoints of 1 (luminance) or 4 (RGBA) channels.

    >>> len(configurations("4x4", 1)), len(configurations("4x4", 4))
    (243, 115)
    """
    width, height = size(footprint)
    found: dict[tuple[int, ...], Configuration] = {}
    for code, (w, h, weights, planes, _) in enumerate(MODES.tolist()):
        if planes == 1 and w <= width and h <= height:
            for partitions in range(1, min(4, MOST_ENDPOINTS // (2 * channels)) + 1):
                kind = int(endpoint_kind(code, partitions, partitions * channels))
                if kind >= 0:
                    key = partitions, w, h, weights
                    found.setdefault(key, Configuration(code, w, h, weights, partitions, kind))
    return tuple(found[key] for key in sorted(found))
