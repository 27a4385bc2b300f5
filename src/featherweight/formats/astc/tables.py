"""Tables of the standard: footprints, ranges of integers, block modes; partitions and infill of each footprint."""

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

NBYTES = 16
BLOCK_BITS = 8 * NBYTES
MOST_WEIGHTS, LEAST_WEIGHT_BITS, MOST_WEIGHT_BITS = 64, 24, 96
MOST_ENDPOINTS = 18
VOID = 0x1FC  # the low nine bits of the mode of a block of one colour
# By partitions: where endpoints start if all have one kind of them.
STARTS: Array = np.array([0, 17, 29, 29, 29])
SEEDS = 1024  # of partitionings
SMALL = 31  # blocks of fewer texels are looked at twice as closely


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


WEIGHT_RANGES = tuple(map(Range, (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)))
ENDPOINT_RANGES = tuple(map(Range, (6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)))


def size(footprint: Footprint) -> Size:
    """Return width and height in texels.

    >>> size("10x6")
    (10, 6)
    """
    return cast(Size, tuple(int(n) for n in footprint.split("x")))


def _mode(code: int) -> tuple[int, int, int, int, int]:
    """Return a row of `MODES`: what the 11 bits of a block mode say."""
    low, a, b = code & 3, code >> 5 & 3, code >> 7 & 3
    double, precise = code >> 10 & 1, code >> 9 & 1
    if low:
        grids = ((b + 4, a + 2), (b + 8, a + 2), (a + 2, b + 8), (b, a + 2) if b > 1 else (a + 2, b + 6))
        width, height = grids[code >> 2 & 3]
    elif b == 2:
        width, height, double, precise = a + 6, (code >> 9 & 3) + 6, 0, 0
    else:
        width, height = ((12, a + 2), (a + 2, 12), (0, 0), ((6, 10), (10, 6), (0, 0), (0, 0))[a])[b]
    rank, planes = (low or code >> 2 & 3) << 1 | code >> 4 & 1, 1 + double
    kind, points = rank - 2 + 6 * precise, width * height * planes
    nbits = WEIGHT_RANGES[kind].size(points)
    legal = rank >= 2 and points <= MOST_WEIGHTS and LEAST_WEIGHT_BITS <= nbits <= MOST_WEIGHT_BITS
    return (width, height, kind, planes, nbits) if legal else (0, 0, 0, 0, 0)


# By block mode, `[2048, 5]`: width and height of its grid of weights, position of their range in `WEIGHT_RANGES`,
# planes, bits of the weights. Zeros where it is reserved or of one colour, or the weights are too many or too few.
MODES: Array = np.array([_mode(code) for code in range(2048)], np.int64)

# By number of pairs of endpoints and bits left for them, `[10, 128]`: position of the greatest range that fits, or -1.
_SIZES: Array = np.array([[kind.size(2 * pairs) for kind in ENDPOINT_RANGES] for pairs in range(10)])
ENDPOINT_RANGE: Array = (_SIZES[:, None] <= np.arange(BLOCK_BITS)[:, None]).sum(axis=2) - 1


def endpoint_kind(code: Array | int, partitions: Array | int, pairs: Array | int) -> Array:
    """Return the position of the endpoints' range in blocks of these modes, -1: none, if all have one kind of them."""
    return np.asarray(ENDPOINT_RANGE[pairs, BLOCK_BITS - STARTS[partitions] - MODES[code, 4]])


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


class Geometry(NamedTuple):
    """Tables of a footprint of `width` by `height` texels, for kernels.

    Attributes:
        partitions: of each texel by seed, uint8 `[4, 1024, texels]`.
        corners: the first of four points around each texel, by width and height of the grid of weights, uint8
            `[width + 1, height + 1, texels]`; the others are one to the right, one below, and both.
        shares: the sixteenths of each of them in the texel's weight, `[width + 1, height + 1, texels, 4]`.
    """

    width: int
    height: int
    partitions: Array
    corners: Array
    shares: Array


@lru_cache
def geometry(footprint: Footprint) -> Geometry:
    """Return the tables of a footprint.

    >>> geometry("6x6").shares[3, 3, :3].tolist()  # beside the first point, between it and the next
    [[16, 0, 0, 0], [10, 6, 0, 0], [3, 13, 0, 0]]

    References: Khronos Data Format Specification, weight infill.
    """
    width, height = size(footprint)
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    wide, high = np.arange(width + 1)[:, None, None], np.arange(height + 1)[None, :, None]
    s = ((1024 + width // 2) // (width - 1) * x * np.maximum(wide - 1, 0) + 32) >> 6
    t = ((1024 + height // 2) // (height - 1) * y * np.maximum(high - 1, 0) + 32) >> 6
    right, below = np.broadcast_arrays(s & 15, t & 15)
    both = (right * below + 8) >> 4
    shares = np.stack([16 - right - below + both, right - both, below - both, both], axis=-1)
    corners = (s >> 4) + (t >> 4) * wide
    return Geometry(width, height, partitions(footprint), corners.astype(np.uint8), shares.astype(np.uint8))


def hash52(value: Array) -> Array:
    """Return the hash of unsigned 32-bit integers by which partitions are made."""
    p = value.astype(np.uint32)
    p ^= p >> 15
    p -= p << 17
    p += p << 7
    p += p << 4
    p ^= p >> 5
    p += p << 16
    p ^= p >> 7
    p ^= p >> 3
    p ^= p << 6
    return p ^ p >> 17


@lru_cache
def partitions(footprint: Footprint) -> Array:
    """Return the partition of every texel: uint8 `[4, 1024, texels]`, by partitions less one, and by seed.

    >>> partitions("4x4")[1, 1].reshape(4, 4).tolist()
    [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    """
    width, height = size(footprint)
    scale = 2 if width * height < SMALL else 1
    y, x = scale * np.mgrid[:height, :width].reshape(2, 1, -1)
    table = np.stack([_partition(np.arange(SEEDS), x, y, count) for count in (1, 2, 3, 4)])
    table.setflags(write=False)
    return table


def _partition(seeds: Array, x: Array, y: Array, count: int) -> Array:
    """Return the partition of texels `x, y: [1, texels]` under `seeds: [n]`, uint8 `[n, texels]`."""
    if count == 1:
        return np.zeros((seeds.size, x.size), np.uint8)
    seeds = seeds + (count - 1) * SEEDS
    bits = hash52(seeds)
    fast, slow = np.where(seeds & 2, 4, 5), np.full(seeds.size, 6 if count == 3 else 5)
    first, second = np.where(seeds & 1, (fast, slow), (slow, fast))
    values = []  # the slopes that would multiply a third coordinate are not needed
    for k in range(count):
        across, down = ((bits >> n & 15).astype(np.int64)[:, None] ** 2 for n in (8 * k, 8 * k + 4))
        start = (bits >> 14 - 4 * k).astype(np.int64)[:, None]
        values.append((across >> first[:, None]) * x + (down >> second[:, None]) * y + start)
    return np.asarray(np.argmax(np.stack(values) & 63, axis=0), np.uint8)
