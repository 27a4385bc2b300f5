"""What a footprint alone says of its texels: their partitions, and the points of a grid around each."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from featherweight.formats.astc.ise import Array
from featherweight.formats.astc.modes import Footprint, size
from featherweight.formats.astc.partitions import partitions


class Geometry(NamedTuple):
    """Tables of a footprint, for the loops.

    Attributes:
        width: in texels.
        height: in texels.
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
