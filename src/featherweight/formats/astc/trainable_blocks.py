"""Blocks with real, trainable endpoints and weights; modes, partitions and seeds are fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.formats.astc import backward_kernels
from featherweight.formats.astc.blocks import Blocks
from featherweight.formats.astc.encode import cut_up, encode_blocks
from featherweight.formats.astc.geometry import geometry
from featherweight.formats.astc.modes import (
    BLOCK_BITS,
    ENDPOINT_RANGE,
    MODES,
    MORE_PARTITIONS,
    MOST_WEIGHTS,
    ONE_PARTITION,
    Array,
    size,
)
from featherweight.formats.astc.quantization import ENDPOINTS, WEIGHTS
from featherweight.formats.astc.search import Plan

MOST_ENDS = {1: 8, 4: 16}  # by channels


def levels(blocks: Blocks, channels: int) -> tuple[Array, Array]:
    """Return the levels of the integers of blocks, float32, 0 to 1: ends `[n, 8 or 16]` and grid `[n, points]`."""
    width, height = size(blocks.footprint)
    start = np.where(blocks.partitions > 1, MORE_PARTITIONS, ONE_PARTITION)
    of = ENDPOINT_RANGE[channels * blocks.partitions, BLOCK_BITS - start - MODES[blocks.mode, 4]]
    ends = ENDPOINTS[of[:, None], blocks.endpoints[:, : MOST_ENDS[channels]]] / np.float32(255)
    points = min(width * height, MOST_WEIGHTS)
    return ends, WEIGHTS[MODES[blocks.mode, 2][:, None], blocks.weights[:, :points]] / np.float32(64)


def rounded(blocks: Blocks, ends: Array, grid: Array) -> Blocks:
    """Return the same blocks with the integers nearest to real endpoints and weights; undoes `levels`."""
    endpoints, weights = np.zeros_like(blocks.endpoints), np.zeros_like(blocks.weights)
    backward_kernels.round_all(_layout(blocks), ends, grid, endpoints, weights)
    return replace(blocks, endpoints=endpoints, weights=weights)


def texture(blocks: Blocks, shape: tuple[int, int, int]) -> Array:
    """Return what `decode_texels` gives of all bytes, uint16 `[height, width, channels]`, without packing them."""
    texels = np.empty(shape, np.uint16)
    integers = blocks.endpoints, blocks.weights
    backward_kernels.decode_all(_layout(blocks), *integers, geometry(blocks.footprint), texels)
    return texels


def slopes(blocks: Blocks, slope: Array) -> tuple[Array, Array]:
    """Return the gradient with respect to `levels`, given that of the texels (0 to 1), `[height, width, channels]`."""
    width, height = size(blocks.footprint)
    of_ends = np.zeros((blocks.mode.size, MOST_ENDS[slope.shape[2]]), np.float32)
    of_grid = np.zeros((blocks.mode.size, min(width * height, MOST_WEIGHTS)), np.float32)
    backward_kernels.backward_all(
        _layout(blocks), blocks.endpoints, blocks.weights, geometry(blocks.footprint), slope, of_ends, of_grid
    )  # fmt: skip
    return of_ends, of_grid


def searched(
    blocks: Blocks, ends: Array, grid: Array, shape: tuple[int, int, int], share: float, plan: Plan
) -> tuple[Array, Blocks]:
    """Search again the modes of the blocks with the largest rounding error; return which improved, and those.

    Args:
        blocks: as they are laid out now.
        ends: real endpoints.
        grid: real weights.
        shape: height, width and channels of the texture.
        share: of all blocks to search.
        plan: what to try.
    """
    footprint = size(blocks.footprint)
    target = np.zeros((len(ends), footprint[0] * footprint[1], shape[2]))
    backward_kernels.mix_all(_layout(blocks), ends, grid, geometry(blocks.footprint), target)
    inside = cut_up(np.ones((*shape[:2], 1)), footprint)[:, :, 0]
    error = _squared_error(rounded(blocks, ends, grid), target, inside)
    worst = np.argsort(-error, kind="stable")[: round(share * error.size)]
    found = encode_blocks(target[worst], inside[worst], blocks.footprint, plan)
    better = _squared_error(found, target[worst], inside[worst]) < error[worst]
    return worst[better], chosen(found, better)


def chosen(blocks: Blocks, places: Array) -> Blocks:
    """Return some of the blocks."""
    arrays = {
        name: getattr(blocks, name)[places]
        for name in ("mode", "partitions", "seed", "kind", "endpoints", "weights")
    }
    return Blocks(blocks.footprint, **arrays)


def _squared_error(blocks: Blocks, target: Array, inside: Array) -> Array:
    """Return the squared error of each block `[n]` against texels from 0 to 255."""
    width, height = size(blocks.footprint)
    apart = texture(blocks, (height, width * len(target), target.shape[2]))
    found = cut_up(apart / 257, (width, height))
    error: Array = (inside * np.square(found - target).sum(axis=2)).sum(axis=1)
    return error


def _layout(blocks: Blocks) -> backward_kernels.Layout:
    mode, count, seed, kind = (
        part.astype(np.int64) for part in (blocks.mode, blocks.partitions, blocks.seed, blocks.kind)
    )
    return mode, count, seed, kind
