"""Kernels of trainable blocks: rounding to levels, decoding, and the gradients of endpoints and weights. Compiled."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.decode import interpolate, place_ends, scratch, spread_weights
from featherweight.formats.astc.geometry import Geometry
from featherweight.formats.astc.modes import (
    BLOCK_BITS,
    ENDPOINT_RANGE,
    MODES,
    MORE_PARTITIONS,
    MOST_ENDPOINTS,
    ONE_PARTITION,
    Array,
)
from featherweight.formats.astc.physical import Fields
from featherweight.formats.astc.quantization import (
    ENDPOINT_COUNTS,
    ENDPOINT_VALUES,
    RISING_ENDPOINTS,
    RISING_WEIGHTS,
    nearest_endpoint,
    nearest_weight,
)
from featherweight.formats.kernels import compiled

Layout = tuple[Array, Array, Array, Array]
"""Mode, partitions, seed and endpoint mode of each block, as in `Blocks`; int64 `[n]`."""


@compiled
def look(layout: Layout, n: int) -> Fields:
    """Return the fields of block `n`."""
    mode, partitions, seed, kind = layout
    pairs = ((kind[n] >> 2) + 1) * partitions[n]
    bits = BLOCK_BITS - MODES[mode[n], 4] - (MORE_PARTITIONS if partitions[n] > 1 else ONE_PARTITION)
    kinds = kind[n] * 0x1111
    return Fields(0, mode[n], partitions[n], seed[n], kinds, pairs, ENDPOINT_RANGE[pairs, bits], -1)


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
    ranks = np.zeros(MOST_ENDPOINTS, np.int64)
    for n in range(len(ends)):
        fields = look(layout, n)
        channels, of, kind = fields.pairs // fields.partitions, fields.endpoints, MODES[fields.mode, 2]
        for p in range(fields.partitions):
            first = 2 * channels * p
            for k in range(first, first + 2 * channels):
                ranks[k] = nearest_endpoint(255.0 * ends[n, k], of)
            if channels == 4:
                _put_in_order(ranks[first : first + 8], of)
            for k in range(first, first + 2 * channels):
                endpoints[n, k] = RISING_ENDPOINTS[of, ranks[k]]
        for k in range(MODES[fields.mode, 0] * MODES[fields.mode, 1]):
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
def decode_all(layout: Layout, endpoints: Array, weights: Array, geometry: Geometry, texels: Array) -> None:
    """Decode blocks, row by row, from integers; `decode_blocks` does so from bytes."""
    numbers, levels, ends, spread = scratch(geometry)
    across = -(-texels.shape[1] // geometry.width)
    for n in range(len(endpoints)):
        numbers[: endpoints.shape[1]], levels[: weights.shape[1]] = endpoints[n], weights[n]
        place = n // across * geometry.height, n % across * geometry.width
        fields = look(layout, n)
        spread_weights(fields.mode, levels, geometry, spread)
        place_ends(fields, numbers, ends)
        interpolate(fields, geometry, ends, spread, texels, place)


@compiled
def backward_all(
    layout: Layout, endpoints: Array, weights: Array, geometry: Geometry, slope: Array, ends_slope: Array,
    grid_slope: Array,
) -> None:  # fmt: skip
    """Backpropagate from texels to endpoints and weights; gradients are added.

    Of a texel `x_t = (1 - a_t) e0 + a_t e1`, `a = M g`: `dL/de0 = sum (1 - a_t) G_t` and `dL/de1 = sum a_t G_t`
    over a partition, `dL/dg = M' (e1 - e0) G`; rounding is straight-through.

    Args:
        layout: of the blocks.
        endpoints: integers, as decoded.
        weights: likewise.
        geometry: of their footprint.
        slope: `G`, by texels 0 to 1, `[height, width, channels]`.
        ends_slope: `[n, 8 or 16]`, added to.
        grid_slope: `[n, points]`, added to.
    """
    size = geometry.width, geometry.height
    numbers, levels, ends, spread = scratch(geometry)
    across, bends = -(-slope.shape[1] // geometry.width), np.zeros(spread.shape[1])
    for n in range(len(endpoints)):
        fields = look(layout, n)
        numbers[: endpoints.shape[1]], levels[: weights.shape[1]] = endpoints[n], weights[n]
        spread_weights(fields.mode, levels, geometry, spread)
        place_ends(fields, numbers, ends)
        partition = geometry.partitions[fields.partitions - 1, fields.seed]
        place = n // across * geometry.height, n % across * geometry.width
        _pull_ends(n, slope, place, size, partition, ends, spread, ends_slope, bends)
        wide, high = MODES[fields.mode, 0], MODES[fields.mode, 1]
        for t in range(bends.size):
            if (wide, high) == size:
                grid_slope[n, t] += bends[t]
                continue
            for k in range(4):
                share = geometry.shares[wide, high, t, k]
                if share:
                    corner = geometry.corners[wide, high, t]
                    grid_slope[n, corner + (k & 1) + (k >> 1) * wide] += bends[t] * share / 16


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
def mix_all(layout: Layout, ends: Array, grid: Array, geometry: Geometry, values: Array) -> None:
    """Set `values: [n, texels, channels]`, 0 to 255, to what blocks would decode to without rounding."""
    for n in range(len(ends)):
        fields, channels = look(layout, n), values.shape[2]
        wide, high = MODES[fields.mode, 0], MODES[fields.mode, 1]
        whole = (wide, high) == (geometry.width, geometry.height)
        partition = geometry.partitions[fields.partitions - 1, fields.seed]
        for t in range(values.shape[1]):
            a = grid[n, t] if whole else 0.0
            if not whole:
                for k in range(4):
                    share = geometry.shares[wide, high, t, k]
                    if share:
                        corner = geometry.corners[wide, high, t]
                        a += grid[n, corner + (k & 1) + (k >> 1) * wide] * share / 16
            for c in range(channels):
                k = 2 * (channels * partition[t] + c)
                values[n, t, c] = 255 * (ends[n, k] + a * (ends[n, k + 1] - ends[n, k]))
