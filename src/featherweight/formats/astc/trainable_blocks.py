"""Blocks with real, trainable endpoints and weights: rounding, decoding, gradients; the rest of a block is fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.formats.astc import quantization, tables
from featherweight.formats.astc.blocks import Blocks
from featherweight.formats.astc.decode import interpolate, place_ends, scratch, spread_weights
from featherweight.formats.astc.encode import cut_up, encode_blocks
from featherweight.formats.astc.physical import Fields
from featherweight.formats.astc.quantization import nearest_endpoint, nearest_weight
from featherweight.formats.astc.search import Plan
from featherweight.formats.astc.tables import MODES, Array, Geometry, geometry, size
from featherweight.formats.kernels import compiled

MOST_ENDS = {1: 8, 4: 16}  # by channels
Layout = tuple[Array, ...]
"""Mode, partitions, seed and endpoint mode of each block, as in `Blocks`; int64 `[n]`."""


def levels(blocks: Blocks, channels: int) -> tuple[Array, Array]:
    """Return the levels of the integers of blocks, float32, 0 to 1: ends `[n, 8 or 16]` and grid `[n, points]`."""
    of = tables.endpoint_kind(blocks.mode, blocks.partitions, channels * blocks.partitions)
    ends = quantization.ENDPOINTS[of[:, None], blocks.endpoints[:, : MOST_ENDS[channels]]] / np.float32(255)
    weights = blocks.weights[:, : _points(blocks)]
    return ends, quantization.WEIGHTS[MODES[blocks.mode, 2][:, None], weights] / np.float32(64)


def rounded(blocks: Blocks, ends: Array, grid: Array) -> Blocks:
    """Return the same blocks with the integers nearest to real endpoints and weights; undoes `levels`."""
    endpoints, weights = np.zeros_like(blocks.endpoints), np.zeros_like(blocks.weights)
    _round(_layout(blocks), ends, grid, endpoints, weights)
    return replace(blocks, endpoints=endpoints, weights=weights)


def texture(blocks: Blocks, shape: tuple[int, int, int]) -> Array:
    """Return what `decode_texels` gives of all bytes, uint16 `[height, width, channels]`, without packing them."""
    texels = np.empty(shape, np.uint16)
    _decode(_layout(blocks), blocks.endpoints, blocks.weights, geometry(blocks.footprint), texels)
    return texels


def slopes(blocks: Blocks, slope: Array) -> tuple[Array, Array]:
    """Return the gradient with respect to `levels`, given that of the texels (0 to 1), `[height, width, channels]`."""
    of_ends = np.zeros((blocks.mode.size, MOST_ENDS[slope.shape[2]]), np.float32)
    of_grid = np.zeros((blocks.mode.size, _points(blocks)), np.float32)
    tables = geometry(blocks.footprint)
    _backward(_layout(blocks), blocks.endpoints, blocks.weights, tables, slope, of_ends, of_grid)
    return of_ends, of_grid


def searched(
    blocks: Blocks, ends: Array, grid: Array, shape: tuple[int, int, int], share: float, plan: Plan
) -> tuple[Array, Blocks]:
    """Search again the modes of the blocks with the largest rounding error; return which improved, and those.

    Args:
        blocks: as they are laid out now.
        ends: real endpoints, as in `levels`.
        grid: real weights, likewise.
        shape: height, width and channels of the texture.
        share: of all blocks to search.
        plan: what to try.
    """
    footprint = size(blocks.footprint)
    target = np.zeros((len(ends), footprint[0] * footprint[1], shape[2]))
    _mix(_layout(blocks), ends, grid, geometry(blocks.footprint), target)
    inside = cut_up(np.ones((*shape[:2], 1)), footprint)[:, :, 0]
    error = _squared_error(rounded(blocks, ends, grid), target, inside)
    worst = np.argsort(-error, kind="stable")[: round(share * error.size)]
    found = encode_blocks(target[worst], inside[worst], blocks.footprint, plan)
    better = _squared_error(found, target[worst], inside[worst]) < error[worst]
    arrays = {name: part[better] for name, part in vars(found).items() if name != "footprint"}
    return worst[better], replace(found, **arrays)


def _points(blocks: Blocks) -> int:
    """Return the most weights that a block of this footprint has."""
    width, height = size(blocks.footprint)
    return min(width * height, tables.MOST_WEIGHTS)


def _squared_error(blocks: Blocks, target: Array, inside: Array) -> Array:
    """Return the squared error of each block `[n]` against texels from 0 to 255."""
    width, height = size(blocks.footprint)
    apart = texture(blocks, (height, width * len(target), target.shape[2]))
    missed = cut_up(apart / 257, (width, height)) - target
    return np.asarray((inside * np.square(missed).sum(axis=2)).sum(axis=1))


def _layout(blocks: Blocks) -> Layout:
    return tuple(part.astype(np.int64) for part in (blocks.mode, blocks.partitions, blocks.seed, blocks.kind))


@compiled
def _fields(layout: Layout, n: int) -> Fields:
    """Return the fields of block `n`."""
    mode, partitions, seed, kind = layout
    pairs = ((kind[n] >> 2) + 1) * partitions[n]
    bits = tables.BLOCK_BITS - MODES[mode[n], 4] - tables.STARTS[partitions[n]]
    of = tables.ENDPOINT_RANGE[pairs, bits]
    return Fields(0, mode[n], partitions[n], seed[n], kind[n] * 0x1111, pairs, of, -1)


@compiled
def _round(layout: Layout, ends: Array, grid: Array, endpoints: Array, weights: Array) -> None:
    """Set `endpoints: [n, 18]` and `weights: [n, 64]`, uint8, to the integers whose levels are nearest to real ones.

    `ends: [n, 8 or 16]` are 0 to 1, both ends for each partition and channel; `grid: [n, points]`, 0 to 1.
    """
    ranks = np.zeros(tables.MOST_ENDPOINTS, np.int64)
    for n in range(len(ends)):
        fields = _fields(layout, n)
        channels, of, kind = fields.pairs // fields.partitions, fields.endpoints, MODES[fields.mode, 2]
        for p in range(fields.partitions):
            first = 2 * channels * p
            for k in range(first, first + 2 * channels):
                ranks[k] = nearest_endpoint(255.0 * ends[n, k], of)
            if channels == 4:
                _put_in_order(ranks[first : first + 8], of)
            for k in range(first, first + 2 * channels):
                endpoints[n, k] = quantization.RISING_ENDPOINTS[of, ranks[k]]
        for k in range(MODES[fields.mode, 0] * MODES[fields.mode, 1]):
            weights[n, k] = quantization.RISING_WEIGHTS[kind, nearest_weight(grid[n, k], kind)]


@compiled
def _put_in_order(ranks: Array, of: int) -> None:
    """Raise second ends (lower first ones at the top) till red, green and blue are no less than in the first.

    Ends in the other order would mean another thing; those that are nearly equal can round to it.
    """
    values = quantization.ENDPOINT_VALUES[of]
    c = 0
    while values[ranks[1]] + values[ranks[3]] + values[ranks[5]] < (
        values[ranks[0]] + values[ranks[2]] + values[ranks[4]]
    ):
        if ranks[2 * c + 1] < quantization.ENDPOINT_COUNTS[of] - 1:
            ranks[2 * c + 1] += 1
        else:
            ranks[2 * c] -= 1
        c = (c + 1) % 3


@compiled
def _decode(layout: Layout, endpoints: Array, weights: Array, geometry: Geometry, texels: Array) -> None:
    """Decode blocks, row by row, from integers; `decode_blocks` does so from bytes."""
    numbers, levels, ends, spread = scratch(geometry)
    across = -(-texels.shape[1] // geometry.width)
    for n in range(len(endpoints)):
        numbers[: endpoints.shape[1]], levels[: weights.shape[1]] = endpoints[n], weights[n]
        place = n // across * geometry.height, n % across * geometry.width
        fields = _fields(layout, n)
        spread_weights(fields.mode, levels, geometry, spread)
        place_ends(fields, numbers, ends)
        interpolate(fields, geometry, ends, spread, texels, place)


@compiled
def _backward(
    layout: Layout, endpoints: Array, weights: Array, geometry: Geometry, slope: Array, ends_slope: Array,
    grid_slope: Array,
) -> None:  # fmt: skip
    """Backpropagate from texels to endpoints and weights; gradients are added.

    Of a texel `x_t = (1 - a_t) e0 + a_t e1`, `a = M g`: `dL/de0 = sum (1 - a_t) G_t` and `dL/de1 = sum a_t G_t`
    over a partition, `dL/dg = M' (e1 - e0) G`; rounding is straight-through. `slope: [height, width, channels]`
    is `G`, by texels 0 to 1; the others are as in `rounded`.
    """
    size = geometry.width, geometry.height
    numbers, levels, ends, spread = scratch(geometry)
    across, bends = -(-slope.shape[1] // geometry.width), np.zeros(spread.shape[1])
    for n in range(len(endpoints)):
        fields = _fields(layout, n)
        numbers[: endpoints.shape[1]], levels[: weights.shape[1]] = endpoints[n], weights[n]
        spread_weights(fields.mode, levels, geometry, spread)
        place_ends(fields, numbers, ends)
        partition = geometry.partitions[fields.partitions - 1, fields.seed]
        place = n // across * geometry.height, n % across * geometry.width
        _pull_ends(n, slope, place, size, partition, ends, spread, ends_slope, bends)
        wide, high = MODES[fields.mode, 0], MODES[fields.mode, 1]
        for t in range(bends.size):
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
def _mix(layout: Layout, ends: Array, grid: Array, geometry: Geometry, values: Array) -> None:
    """Set `values: [n, texels, channels]`, 0 to 255, to what blocks would decode to without rounding."""
    for n in range(len(ends)):
        fields, channels = _fields(layout, n), values.shape[2]
        wide, high = MODES[fields.mode, 0], MODES[fields.mode, 1]
        partition = geometry.partitions[fields.partitions - 1, fields.seed]
        for t in range(values.shape[1]):
            a = 0.0
            for k in range(4):
                share = geometry.shares[wide, high, t, k]
                if share:
                    corner = geometry.corners[wide, high, t]
                    a += grid[n, corner + (k & 1) + (k >> 1) * wide] * share / 16
            for c in range(channels):
                k = 2 * (channels * partition[t] + c)
                values[n, t, c] = 255 * (ends[n, k] + a * (ends[n, k + 1] - ends[n, k]))
