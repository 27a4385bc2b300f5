"""Tables of each footprint: the partition of every texel, and the grid points around it (infill)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from featherweight.formats.astc.modes import Array, Footprint, size

SEEDS = 1024
SMALL = 31  # blocks of fewer texels are looked at twice as closely


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
    slopes = [
        (bits >> 4 * k & 15).astype(np.int64) ** 2 >> (second if k % 2 else first) for k in range(8)
    ]  # the four that would multiply a third coordinate are not needed
    shifts = (14, 10, 6, 2)
    values = [
        slopes[2 * k][:, None] * x
        + slopes[2 * k + 1][:, None] * y
        + (bits >> shift).astype(np.int64)[:, None]
        for k, shift in enumerate(shifts[:count])
    ]
    best: Array = np.argmax(np.stack(values) & 63, axis=0)
    return best.astype(np.uint8)
