"""Blocks whose endpoints and weights move: rounded to levels, painted, and the way of a gradient back. Compiled."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.ise import Array
from featherweight.formats.astc.levels import RISING_ENDPOINTS, RISING_WEIGHTS
from featherweight.formats.astc.modes import (
    BLOCK_BITS,
    ENDPOINT_RANGE,
    MODES,
    MORE_PARTITIONS,
    MOST_ENDPOINTS,
    MOST_WEIGHTS,
    ONE_PARTITION,
)
from featherweight.formats.astc.paint import corners, interpolants, paint_block
from featherweight.formats.astc.physical import APART, ENDPOINT_KIND, FIELDS, KINDS, MODE, PARTITIONS, SEED
from featherweight.formats.astc.rising import (
    ENDPOINT_COUNTS,
    ENDPOINT_VALUES,
    nearest_endpoint,
    nearest_weight,
)
from featherweight.formats.compiled import compiled

Layout = tuple[Array, Array, Array, Array]
"""Mode, partitions, seed and endpoint mode of each block, as in `Blocks`; int64 `[n]`."""


@compiled
def look(layout: Layout, n: int, fields: Array) -> int:
    """Set `fields: [FIELDS]` to those of block `n`; return its channels."""
    mode, partitions, seed, kind = layout
    fields[MODE], fields[PARTITIONS], fields[SEED], fields[APART] = mode[n], partitions[n], seed[n], -1
    fields[KINDS:] = kind[n]
    channels = (kind[n] >> 2) + 1
    bits = BLOCK_BITS - MODES[mode[n], 4] - (MORE_PARTITIONS if partitions[n] > 1 else ONE_PARTITION)
    fields[ENDPOINT_KIND] = ENDPOINT_RANGE[channels * partitions[n], bits]
    return channels  # type: ignore[no-any-return]


@compiled
def round_all(layout: Layout, ends: Array, grid: Array, endpoints: Array, weights: Array) -> None:
    """Set integers to the levels nearest to real endpoints and weights.

    Args:
        layout: of the blocks.
        ends: 0 to 1, `[n, 8]` for one channel or `[n, 16]` for four: for each partition and channel both ends.
        grid: 0 to 1, `[n, points]`.
        endpoints: uint8 `[n, 18]`, set.
        weights: uint8 `[n, 64]`, set.
    """
    fields, ranks = np.zeros(FIELDS, np.int64), np.zeros(MOST_ENDPOINTS, np.int64)
    for n in range(len(ends)):
        channels = look(layout, n, fields)
        of, kind = fields[ENDPOINT_KIND], MODES[fields[MODE], 2]
        for p in range(fields[PARTITIONS]):
            first = 2 * channels * p
            for k in range(first, first + 2 * channels):
                ranks[k] = nearest_endpoint(255.0 * ends[n, k], of)
            if channels == 4:
                _put_in_order(ranks[first : first + 8], of)
            for k in range(first, first + 2 * channels):
                endpoints[n, k] = RISING_ENDPOINTS[of, ranks[k]]
        for k in range(MODES[fields[MODE], 0] * MODES[fields[MODE], 1]):
            weights[n, k] = RISING_WEIGHTS[kind, nearest_weight(grid[n, k], kind)]


@compiled
def _put_in_order(ranks: Array, of: int) -> None:
    """Raise second ends (lower first ones at the top) till red, green and blue are no less than in the first.

    Ends in the other order would mean another thing; those that are nearly equal can round to it.
    """
    values = ENDPOINT_VALUES[of]
    c = 0
    while values[ranks[1]] + values[ranks[3]] + values[ranks[5]] < (
        values[ranks[0]] + values[ranks[2]] + values[ranks[4]]
    ):
        if ranks[2 * c + 1] < ENDPOINT_COUNTS[of] - 1:
            ranks[2 * c + 1] += 1
        else:
            ranks[2 * c] -= 1
        c = (c + 1) % 3


@compiled
def paint_all(
    layout: Layout, endpoints: Array, weights: Array, footprint: tuple[int, int], table: Array, texels: Array
) -> None:
    """Paint blocks, row by row; as `paint`, from integers in place of bytes."""
    fields, numbers, levels = _scratch()
    ends, spread = np.zeros((4, 2, 4), np.int64), np.zeros((2, footprint[0] * footprint[1]), np.int64)
    across = -(-texels.shape[1] // footprint[0])
    for n in range(len(endpoints)):
        look(layout, n, fields)
        numbers[:], levels[:] = endpoints[n], weights[n]
        place = n // across * footprint[1], n % across * footprint[0]
        paint_block(fields, numbers, levels, footprint, table, (ends, spread), texels, place)


@compiled
def _scratch() -> tuple[Array, Array, Array]:
    return np.zeros(FIELDS, np.int64), np.zeros(MOST_ENDPOINTS, np.int64), np.zeros(MOST_WEIGHTS, np.int64)


@compiled
def pull_all(
    layout: Layout, endpoints: Array, weights: Array, footprint: tuple[int, int], table: Array, slope: Array,
    ends_slope: Array, grid_slope: Array,
) -> None:  # fmt: skip
    """Add to the gradients of endpoints and weights what comes from that of the texels.

    Of a texel `x_t = (1 - a_t) e0 + a_t e1`, `a = M g`: `dL/de0 = sum (1 - a_t) G_t` and `dL/de1 = sum a_t G_t`
    over a partition, `dL/dg = M' (e1 - e0) G`; what is rounded counts as if it were not.

    Args:
        layout: of the blocks.
        endpoints: integers, as painted.
        weights: likewise.
        footprint: width and height of a block.
        table: of its `partitions`.
        slope: `G`, by texels 0 to 1, `[height, width, channels]`.
        ends_slope: `[n, 8 or 16]`, added to.
        grid_slope: `[n, points]`, added to.
    """
    width, height = footprint
    fields, numbers, levels = _scratch()
    ends, spread = np.zeros((4, 2, 4), np.int64), np.zeros((2, width * height), np.int64)
    across, bends = -(-slope.shape[1] // width), np.zeros(width * height)
    steps = (1024 + width // 2) // (width - 1), (1024 + height // 2) // (height - 1)
    for n in range(len(endpoints)):
        look(layout, n, fields)
        numbers[:], levels[:] = endpoints[n], weights[n]
        interpolants(fields, numbers, levels, footprint, ends, spread)
        grid = MODES[fields[MODE], 0], MODES[fields[MODE], 1]
        partition = table[fields[PARTITIONS] - 1, fields[SEED]]
        place = n // across * height, n % across * width
        _pull_ends(n, slope, place, footprint, partition, ends, spread, ends_slope, bends)
        for t in range(width * height):
            if grid == footprint:
                grid_slope[n, t] += bends[t]
                continue
            corner, shares = corners(t % width, t // width, steps, grid)
            for k in range(4):
                if shares[k]:
                    grid_slope[n, corner + (k & 1) + (k >> 1) * grid[0]] += bends[t] * shares[k] / 16


@compiled
def _pull_ends(
    n: int, slope: Array, place: tuple[int, int], footprint: tuple[int, int], partition: Array, ends: Array,
    spread: Array, ends_slope: Array, bends: Array,
) -> None:  # fmt: skip
    """Add a block's share to the gradient of its ends; set `bends: [texels]`, that of interpolation weights."""
    (top, left), width, channels = place, footprint[0], slope.shape[2]
    bends[:] = 0.0
    for j in range(min(footprint[1], slope.shape[0] - top)):
        for i in range(min(width, slope.shape[1] - left)):
            t = j * width + i
            p, a = partition[t], spread[0, t] / 64
            for c in range(channels):
                g, k = slope[top + j, left + i, c], 2 * (channels * p + c)
                ends_slope[n, k] += (1 - a) * g
                ends_slope[n, k + 1] += a * g
                bends[t] += g * (ends[p, 1, c] - ends[p, 0, c]) / 255


@compiled
def mix_all(
    layout: Layout, ends: Array, grid: Array, footprint: tuple[int, int], table: Array, values: Array
) -> None:
    """Set `values: [n, texels, channels]`, 0 to 255, to what blocks would show if nothing were rounded."""
    width, height = footprint
    fields = np.zeros(FIELDS, np.int64)
    steps = (1024 + width // 2) // (width - 1), (1024 + height // 2) // (height - 1)
    for n in range(len(ends)):
        channels = look(layout, n, fields)
        size = MODES[fields[MODE], 0], MODES[fields[MODE], 1]
        partition = table[fields[PARTITIONS] - 1, fields[SEED]]
        for t in range(width * height):
            a = grid[n, t] if size == footprint else 0.0
            if size != footprint:
                corner, shares = corners(t % width, t // width, steps, size)
                for k in range(4):
                    if shares[k]:
                        a += grid[n, corner + (k & 1) + (k >> 1) * size[0]] * shares[k] / 16
            for c in range(channels):
                k = 2 * (channels * partition[t] + c)
                values[n, t, c] = 255 * (ends[n, k] + a * (ends[n, k + 1] - ends[n, k]))
