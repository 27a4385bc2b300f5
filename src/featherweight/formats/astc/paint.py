"""Blocks to texels, compiled: endpoints, the grid of weights spread over the footprint, interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.formats.astc.bits import NBYTES, load
from featherweight.formats.astc.ise import Array
from featherweight.formats.astc.levels import ENDPOINTS, WEIGHTS
from featherweight.formats.astc.modes import MODES, MOST_ENDPOINTS, MOST_WEIGHTS
from featherweight.formats.astc.physical import (
    APART,
    ENDPOINT_KIND,
    FIELDS,
    KINDS,
    MODE,
    PARTITIONS,
    SEED,
    read,
)
from featherweight.formats.compiled import compiled


@compiled
def paint(
    blocks: Array, footprint: tuple[int, int], table: Array, first: tuple[int, int], texels: Array
) -> tuple[int, int]:
    """Decode blocks to 16-bit channels; return which block is malformed, and why: -1, 0 if none is.

    Args:
        blocks: uint8 `[rows, cols, 16]`.
        footprint: width and height of a block.
        table: of its `partitions`.
        first: row and column of the first texel in the first block.
        texels: uint16 `[height, width, channels]`, set; channels are 1 (red) or 4.
    """
    width, height = footprint
    top, left = first
    block, backwards, fields = (
        np.zeros(NBYTES, np.int64),
        np.zeros(NBYTES, np.int64),
        np.zeros(FIELDS, np.int64),
    )
    numbers, weights = np.zeros(MOST_ENDPOINTS, np.int64), np.zeros(MOST_WEIGHTS, np.int64)
    ends, spread = np.zeros((4, 2, 4), np.int64), np.zeros((2, width * height), np.int64)
    for number in range(blocks.shape[0] * blocks.shape[1]):
        row, col = number // blocks.shape[1], number % blocks.shape[1]
        load(blocks[row, col], block, backwards)
        fault = read(block, backwards, footprint, fields, numbers, weights)
        if fault:
            return number, fault
        place = row * height - top, col * width - left
        paint_block(fields, numbers, weights, footprint, table, (ends, spread), texels, place)
    return -1, 0


@compiled
def paint_block(
    fields: Array, numbers: Array, weights: Array, footprint: tuple[int, int], table: Array,
    scratch: tuple[Array, Array], texels: Array, place: tuple[int, int],
) -> None:  # fmt: skip
    """Decode the block that starts at row and column `place`, from what `read` sets."""
    (ends, spread), (width, height), (y, x) = scratch, footprint, place
    if fields[PARTITIONS] == 0:
        _fill(numbers, texels, y, x, width, height)
        return
    interpolants(fields, numbers, weights, footprint, ends, spread)
    partition = table[fields[PARTITIONS] - 1, fields[SEED]]
    _interpolate(partition, ends, spread, fields[APART], texels, (y, x, width, height))


@compiled
def interpolants(
    fields: Array, numbers: Array, weights: Array, footprint: tuple[int, int], ends: Array, spread: Array
) -> None:
    """Set what a block interpolates, from what `read` sets; `numbers` and `weights` become levels.

    Args:
        fields: as `read` sets them.
        numbers: likewise, the integers of the endpoints.
        weights: likewise.
        footprint: width and height in texels.
        ends: `[4, 2, 4]`, set: of each partition, 0 to 255.
        spread: `[2, texels]`, set: the interpolation weight of each texel in each plane, 0 to 64.
    """
    _spread(fields, weights, footprint[0], footprint[1], spread)
    position = 0
    for k in range(fields[PARTITIONS]):
        position = _ends(numbers, position, fields, k, ends)


@compiled
def _fill(colour: Array, texels: Array, y: int, x: int, width: int, height: int) -> None:
    """Paint a block of one colour."""
    for j in range(max(y, 0), min(y + height, texels.shape[0])):
        for i in range(max(x, 0), min(x + width, texels.shape[1])):
            for c in range(texels.shape[2]):
                texels[j, i, c] = colour[c]


@compiled
def _spread(fields: Array, weights: Array, width: int, height: int, spread: Array) -> None:
    """Set `spread: [2, texels]` to the interpolation weight, 0 to 64, of each texel in each plane."""
    mode = fields[MODE]
    wide, high, kind, planes = MODES[mode, 0], MODES[mode, 1], MODES[mode, 2], MODES[mode, 3]
    for k in range(wide * high * planes):
        weights[k] = WEIGHTS[kind, weights[k]]
    if wide == width and high == height:
        for plane in range(planes):
            for k in range(width * height):
                spread[plane, k] = weights[k * planes + plane]
        return
    steps = (1024 + width // 2) // (width - 1), (1024 + height // 2) // (height - 1)
    for y in range(height):
        for x in range(width):
            corner, shares = corners(x, y, steps, (wide, high))
            for plane in range(planes):
                total = 8
                for k in range(4):
                    if shares[k]:
                        total += shares[k] * weights[(corner + (k & 1) + (k >> 1) * wide) * planes + plane]
                spread[plane, y * width + x] = total >> 4


@compiled
def corners(
    x: int, y: int, steps: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, tuple[int, int, int, int]]:
    """Return the first of the four points of a grid around a texel, and the sixteenths of each in its weight.

    The others are one to the right, one below, and both. `steps` are those of one texel, of 1024 a block.
    """
    s = (steps[0] * x * (grid[0] - 1) + 32) >> 6
    t = (steps[1] * y * (grid[1] - 1) + 32) >> 6
    right, below = s & 15, t & 15
    both = (right * below + 8) >> 4
    return (s >> 4) + (t >> 4) * grid[0], (16 - right - below + both, right - both, below - both, both)


@compiled
def _interpolate(
    partition: Array, ends: Array, spread: Array, apart: int, texels: Array, place: tuple[int, int, int, int]
) -> None:
    """Paint a block: between the ends of its partition, each texel by its weight."""
    y, x, width, height = place
    for c in range(texels.shape[2]):
        weights = spread[1 if c == apart else 0]
        for j in range(max(y, 0), min(y + height, texels.shape[0])):
            for i in range(max(x, 0), min(x + width, texels.shape[1])):
                t = (j - y) * width + i - x
                weight = weights[t]
                low, high = ends[partition[t], 0, c], ends[partition[t], 1, c]
                texels[j, i, c] = (257 * (low * (64 - weight) + high * weight) + 32) >> 6


@compiled
def _ends(numbers: Array, position: int, fields: Array, partition: int, ends: Array) -> Any:
    """Set `ends: [4, 2, 4]` of a partition, 0 to 255, from its integers; return where the next one's start."""
    kind, of = fields[KINDS + partition], fields[ENDPOINT_KIND]
    count = 2 * (kind >> 2) + 2
    if kind == 0:  # luminance, without views of arrays: what nearly all blocks of weights have
        for e in range(2):
            end = ENDPOINTS[of, numbers[position + e]]
            ends[partition, e, 0], ends[partition, e, 1] = end, end
            ends[partition, e, 2], ends[partition, e, 3] = end, 255
        return position + count
    v = numbers[position:]
    for k in range(count):
        v[k] = ENDPOINTS[of, v[k]]
    _other_ends(v, kind, count, ends[partition])
    return position + count


@compiled
def _other_ends(v: Array, kind: int, count: int, ends: Array) -> None:
    """Set the ends `[2, 4]` of a partition from `v: [count]`, 0 to 255, in any mode but luminance."""
    if kind == 1:
        low = v[0] >> 2 | v[1] & 0xC0
        ends[0, :3], ends[1, :3], ends[:, 3] = low, min(low + (v[1] & 0x3F), 255), 255
    elif kind < 8 and kind != 6:
        _luminance_alpha(v, kind, ends)
    elif kind in (6, 10):
        for c in range(3):
            ends[0, c], ends[1, c] = v[c] * v[3] >> 8, v[c]
        ends[0, 3], ends[1, 3] = (v[4], v[5]) if kind == 10 else (255, 255)
    else:
        _colour(v, kind, count, ends)


@compiled
def _luminance_alpha(v: Array, kind: int, ends: Array) -> None:
    """Endpoint modes 4 (direct) and 5 (base and offset)."""
    for c in range(2):
        low, high = v[2 * c], v[2 * c + 1]
        if kind == 5:
            low, high = _offset(low, high)
            high = min(max(low + high, 0), 255)
        if c:
            ends[0, 3], ends[1, 3] = low, high
        else:
            ends[0, :3], ends[1, :3] = low, high


@compiled
def _offset(base: int, offset: int) -> tuple[int, int]:
    """Return a base of 8 bits and a signed offset of 6: the base's highest bit lies in the offset."""
    base, offset = base >> 1 | offset & 0x80, offset >> 1 & 0x3F
    return base, offset - 0x40 if offset & 0x20 else offset


@compiled
def _colour(v: Array, kind: int, count: int, ends: Array) -> None:
    """Endpoint modes 8 and 12 (direct), 9 and 13 (base and offset), with or without alpha."""
    low, high = 0, 0
    for c in range(4):
        ends[0, c], ends[1, c] = (v[2 * c], v[2 * c + 1]) if 2 * c < count else (255, 255)
        if kind & 1 and 2 * c < count:
            ends[0, c], ends[1, c] = _offset(ends[0, c], ends[1, c])
        if c < 3:
            low, high = low + ends[0, c], high + ends[1, c]
    swapped = high < 0 if kind & 1 else high < low
    if kind & 1:
        for c in range(count // 2):
            ends[1, c] += ends[0, c]
    if swapped:
        for c in range(4):
            ends[0, c], ends[1, c] = ends[1, c], ends[0, c]
        for e in range(2):
            for c in range(2):
                ends[e, c] = (ends[e, c] + ends[e, 2]) >> 1
    for e in range(2):
        for c in range(4):
            ends[e, c] = min(max(ends[e, c], 0), 255)
