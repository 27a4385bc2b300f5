"""Blocks to texels, compiled: endpoints, the grid of weights spread over the footprint, interpolation."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.physical import ROOM, Fields, get, read, read_integers
from featherweight.formats.astc.quantization import ENDPOINTS, WEIGHTS
from featherweight.formats.astc.tables import MODES, Array, Geometry
from featherweight.formats.kernels import compiled


@compiled
def decode_blocks(
    blocks: Array, geometry: Geometry, first: tuple[int, int], texels: Array
) -> tuple[int, int]:
    """Decode blocks to 16-bit channels; return which block is malformed, and why: -1, 0 if none is.

    Args:
        blocks: uint64 `[rows, cols, 2]`.
        geometry: of their footprint.
        first: row and column of the first texel in the first block.
        texels: uint16 `[height, width, channels]`, set; channels are 1 (red) or 4.
    """
    numbers, weights, ends, spread = scratch(geometry)
    for row in range(blocks.shape[0]):
        for col in range(blocks.shape[1]):
            low, high = blocks[row, col, 0], blocks[row, col, 1]
            fields = read(low, high, geometry.width, geometry.height)
            if fields.fault:
                return row * blocks.shape[1] + col, fields.fault
            y, x = row * geometry.height - first[0], col * geometry.width - first[1]
            if fields.partitions == 0:
                _fill(high, texels, (y, x, geometry.width, geometry.height))
                continue
            read_integers(low, high, fields, numbers, weights)
            spread_weights(fields.mode, weights, geometry, spread)
            place_ends(fields, numbers, ends)
            interpolate(fields, geometry, ends, spread, texels, (y, x))
    return -1, 0


@compiled
def scratch(geometry: Geometry) -> tuple[Array, Array, Array, Array]:
    """Return buffers for endpoints and weights: integers `[ROOM]` of both, `[4, 2, 4]` and `[2, texels]`."""
    return (
        np.zeros(ROOM, np.int64), np.zeros(ROOM, np.int64),
        np.zeros((4, 2, 4), np.int64), np.zeros((2, geometry.width * geometry.height), np.int64),
    )  # fmt: skip


@compiled
def _fill(colour: int, texels: Array, window: tuple[int, int, int, int]) -> None:
    """Fill a block of one colour, 16 bits of each channel."""
    y, x, width, height = window
    for j in range(max(y, 0), min(y + height, texels.shape[0])):
        for i in range(max(x, 0), min(x + width, texels.shape[1])):
            for c in range(texels.shape[2]):
                texels[j, i, c] = get(colour, colour, 16 * c, 16)


@compiled
def spread_weights(mode: int, weights: Array, geometry: Geometry, spread: Array) -> None:
    """Set `spread: [2, texels]` to the interpolation weight, 0 to 64, of each texel in each plane.

    `weights: [ROOM]` are integers, replaced by levels.
    """
    wide, high, kind, planes = MODES[mode, 0], MODES[mode, 1], MODES[mode, 2], MODES[mode, 3]
    for k in range(wide * high * planes):
        weights[k] = WEIGHTS[kind, weights[k]]
    whole, (corners, shares) = wide * high == spread.shape[1], (geometry.corners, geometry.shares)
    for plane in range(planes):
        for t in range(spread.shape[1]):
            if whole:
                spread[plane, t] = weights[t * planes + plane]
            else:
                k = corners[wide, high, t] * planes + plane
                below = k + wide * planes
                total = 8 + shares[wide, high, t, 0] * weights[k]
                total += shares[wide, high, t, 1] * weights[k + planes]
                total += shares[wide, high, t, 2] * weights[below]
                total += shares[wide, high, t, 3] * weights[below + planes]
                spread[plane, t] = total >> 4


@compiled
def interpolate(
    fields: Fields, geometry: Geometry, ends: Array, spread: Array, texels: Array, place: tuple[int, int]
) -> None:
    """Decode the block that begins at row and column `place`: texels between the ends of their partitions."""
    (y, x), width, height = place, geometry.width, geometry.height
    partition = geometry.partitions[fields.partitions - 1, fields.seed]
    left, right = max(x, 0), min(x + width, texels.shape[1])
    for c in range(texels.shape[2]):
        plane = 1 if c == fields.apart else 0
        for j in range(max(y, 0), min(y + height, texels.shape[0])):
            first = (j - y) * width - x
            for i in range(left, right):
                weight, p = spread[plane, first + i], partition[first + i]
                low, high = ends[p, 0, c], ends[p, 1, c]
                texels[j, i, c] = (257 * (low * (64 - weight) + high * weight) + 32) >> 6


@compiled
def place_ends(fields: Fields, numbers: Array, ends: Array) -> None:
    """Set `ends: [4, 2, 4]`, 0 to 255, of each partition; `numbers: [ROOM]` are integers, replaced by levels."""
    position = 0
    for k in range(2 * fields.pairs):
        numbers[k] = ENDPOINTS[fields.endpoints, numbers[k]]
    for p in range(fields.partitions):
        kind = fields.kinds >> 4 * p & 15
        if kind == 0:  # luminance: what nearly all blocks of weights have
            for e in range(2):
                end = numbers[position + e]
                ends[p, e, 0], ends[p, e, 1], ends[p, e, 2], ends[p, e, 3] = end, end, end, 255
        else:
            _ends(numbers[position : position + 2 * (kind >> 2) + 2], kind, ends[p])
        position += 2 * (kind >> 2) + 2


@compiled
def _ends(v: Array, kind: int, ends: Array) -> None:
    """Set the ends `[2, 4]` of a partition from the levels of its endpoint mode, any but luminance.

    Modes 1, 4 and 5 have one luminance for three colours; 1, 5, 9 and 13 a base and an offset, 6 and 10 a base and a
    scale in the place of two ends; 4, 5, 10, 12 and 13 an alpha.
    """
    low, high = 0, 0
    for c in range(4):
        k = 2 * (c // 3 if kind < 8 else c)
        if kind in (6, 10):
            first, last = v[c] * v[3] >> 8, v[c]
            if c == 3:
                first, last = (v[4], v[5]) if kind == 10 else (255, 255)
        elif k >= v.size:
            first, last = 255, 255
        else:
            first, last = v[k], v[k + 1]
            if kind == 1:
                first = first >> 2 | last & 0xC0
                last = first + (last & 0x3F)
            elif kind & 1:  # a signed offset of six bits; its highest bit is the base's
                first, last = first >> 1 | last & 0x80, last >> 1 & 0x3F
                last += first - (last & 0x20) * 2
        ends[0, c], ends[1, c] = first, last
        if c < 3:
            low, high = low + first, high + last
    if high < low and kind >= 8:
        for c in range(4):
            ends[0, c], ends[1, c] = ends[1, c], ends[0, c]
        for e in range(2):
            for c in range(2):
                ends[e, c] = (ends[e, c] + ends[e, 2]) >> 1
    for e in range(2):
        for c in range(4):
            ends[e, c] = min(max(ends[e, c], 0), 255)
