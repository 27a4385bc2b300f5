"""Texels to blocks: what is tried for each footprint, by preset, as a plan for the search; tiles of a texture.

A tile is encoded by our encoder, strip by strip on the threads of the run, or by Arm's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np

from featherweight.errors import MissingExtraError
from featherweight.formats.astc import tables
from featherweight.formats.astc.blocks import LUMINANCE, RGBA, Blocks, DecodeMode
from featherweight.formats.astc.search import Plan, search
from featherweight.formats.astc.tables import NBYTES, Array, Configuration, Footprint, Size, size
from featherweight.formats.view import blocks
from featherweight.processors import taken_processors

STRIP = 1 << 10  # blocks that one call encodes
THOROUGH = 98.0
Preset = Literal["fast", "best"]

# Modes to try: partitions, grid and levels of the weights. Chosen greedily out of all legal ones: each minimises the
# squared error of the best of the list so far, on Gaussian and Laplacian numbers (`python -m benchmarks astc_layouts`),
# so the first of a list matter most.
_LUMINANCE: dict[Footprint, str] = {
    "4x4": "2:4x4:32 2:4x4:24 3:4x4:24 3:4x4:32 2:4x4:20 4:4x4:24 4:4x4:8 1:4x4:32",
    "5x4": "2:5x4:16 1:5x4:24 3:5x4:16 2:5x4:12 2:5x4:20 4:5x4:12",
    "5x5": "2:5x5:8 2:5x5:10 3:5x5:8 1:5x5:12 4:5x5:8 3:5x5:6",
    "6x5": "2:6x5:6 3:6x5:5 4:6x5:5 1:6x5:8 2:6x5:5",
    "6x6": "2:6x6:5 3:6x6:4 1:6x6:6 4:6x6:4 4:6x5:4",
    "8x5": "2:8x5:4 1:8x5:5 4:8x5:3 3:8x5:4 4:7x5:4",
    "8x6": "3:8x6:3 1:8x6:4 2:8x6:3 2:7x6:4 3:8x5:4",
    "10x5": "2:10x5:3 3:10x5:3 1:10x4:5 3:10x4:4 3:8x5:4 3:9x5:3",
    "10x6": "1:10x6:3 2:9x6:3 4:10x6:2 2:7x6:4 2:10x5:3 3:10x6:2 3:10x4:4 3:8x6:3 2:6x6:5",
    "8x8": "4:8x8:2 1:7x8:3 3:8x8:2 4:8x7:2 1:8x7:3 4:5x7:4 2:8x8:2 3:8x6:3",
    "10x8": "4:8x8:2 1:10x6:3 3:7x7:3 3:6x8:3 3:10x5:3 4:9x7:2 1:8x7:3 3:10x6:2 3:8x8:2 1:7x8:3",
    "10x10": "4:8x8:2 1:10x6:3 4:6x10:2 3:7x9:2 2:6x9:3 2:10x5:3 1:6x10:3 4:9x7:2 3:9x7:2 4:7x9:2 3:8x8:2",
    "12x10": "4:8x8:2 4:12x5:2 4:6x10:2 4:10x6:2 2:5x10:3 2:9x6:3 4:11x4:3 3:9x7:2 3:6x10:2",
    "12x12": "4:5x12:2 4:12x5:2 4:8x8:2 4:9x7:2 1:12x5:3 4:12x3:4 4:6x10:2 2:5x10:3 4:4x12:3 4:10x6:2",
}

_RGBA: dict[Footprint, str] = {
    "4x4": "2:4x4:5 2:4x4:4 2:4x4:6 2:4x4:10 2:4x4:8 2:4x4:3", "5x4": "2:5x4:4 2:5x4:3 2:5x4:5 2:5x3:6",
    "5x5": "2:5x5:4 2:5x5:3 2:4x5:5", "6x5": "2:6x5:3 2:5x5:4 2:5x5:3", "6x6": "2:6x5:3 2:5x6:3 2:6x6:2 1:6x6:5",
    "8x5": "2:8x5:2 2:7x4:3 1:8x5:4 2:7x5:2 2:6x5:3 2:7x4:4 1:8x4:5",
    "8x6": "1:8x6:3 2:8x5:2 2:8x6:2 2:7x4:3 2:7x6:2", "10x5": "2:9x5:2 2:10x5:2 1:10x5:3 2:10x3:3 2:10x4:2 2:7x4:4",
    "10x6": "1:9x6:3 2:9x5:2 1:10x5:3 1:8x6:3 2:8x5:2", "8x8": "1:8x8:2 1:6x8:3 2:5x8:2 1:8x6:3 2:6x5:3",
    "10x8": "1:8x8:2 2:8x5:2 1:7x8:3 1:8x6:3 2:10x4:2 1:10x5:3 1:6x8:3",
    "10x10": "1:8x8:2 1:8x7:3 1:6x10:2 2:8x6:2 1:6x9:3 2:4x10:2 1:8x6:3 2:5x5:4",
    "12x10": "1:8x8:2 2:10x4:2 1:11x5:3 2:9x5:2 1:7x9:2 2:11x4:2", "12x12": "1:8x8:2 1:11x5:3 2:4x11:2 1:7x9:2",
}  # fmt: skip


def candidate_modes(footprint: Footprint, channels: int) -> list[Configuration]:
    """Return the configurations to try, the best one first.

    >>> [(c.partitions, c.width, c.height) for c in candidate_modes("6x5", 1)][:2]
    [(2, 6, 5), (3, 6, 5)]
    """
    known = {}
    for c in tables.configurations(footprint, channels):
        known[f"{c.partitions}:{c.width}x{c.height}:{tables.WEIGHT_RANGES[c.weights].levels}"] = c
    return [known[name] for name in (_LUMINANCE if channels == 1 else _RGBA)[footprint].split()]


def distinct_seeds(footprint: Footprint, count: int) -> Array:
    """Return one seed for each distinct partitioning of a footprint into exactly `count` parts, in any order."""
    table = tables.partitions(footprint)[count - 1].astype(np.int64)
    inside = table[:, :, None] == np.arange(count)
    first = np.argmax(inside, axis=1)  # texel in which each partition begins
    renamed = np.argsort(np.argsort(first, axis=1), axis=1)
    _, seeds = np.unique(np.take_along_axis(renamed, table, axis=1), axis=0, return_index=True)
    return np.sort(seeds[inside.any(axis=1)[seeds].all(axis=1)])


@lru_cache
def members(footprint: Footprint) -> tuple[Array, Array, Array]:
    """Return `members`, `seeds` and `distinct` of a plan."""
    width, height = size(footprint)
    inside = np.zeros((3, 3, width * height, tables.SEEDS), np.float32)
    seeds, distinct = np.zeros((3, tables.SEEDS), np.int64), np.zeros(3, np.int64)
    for count in (2, 3, 4):
        chosen = distinct_seeds(footprint, count)
        seeds[count - 2, : chosen.size], distinct[count - 2] = chosen, chosen.size
        table = tables.partitions(footprint)[count - 1, chosen].T
        for p in range(count - 1):
            inside[count - 2, p, :, : chosen.size] = table == p
    return inside, seeds, distinct


def infill(footprint: Footprint, grid: Size) -> Array:
    """Return the share of each point of a grid in the weight of each texel, `[points, texels]`."""
    found, (wide, high) = tables.geometry(footprint), grid
    corner, share = found.corners[wide, high].astype(int), found.shares[wide, high] / 16
    points = np.zeros((wide * high + wide + 1, len(corner)))
    for k, offset in enumerate((0, 1, wide, wide + 1)):
        points[corner + offset, np.arange(len(corner))] += share[:, k]
    return points[: wide * high]


def sparse(grids: list[Array]) -> tuple[Array, Array, Array, Array]:
    """Return points, starts, texels and shares of a plan for grids given by `infill`."""
    points, length = [0], 0
    starts, texels, shares = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for grid in grids:
        point, texel = np.nonzero(grid)
        begins = length + np.searchsorted(point, np.arange(len(grid) + 1))
        starts.append(begins)
        texels.append(texel)
        shares.append(grid[point, texel])
        length += texel.size
        points.append(points[-1] + begins.size)
    return np.array(points), np.concatenate(starts), np.concatenate(texels), np.concatenate(shares)


@lru_cache
def plan_of(footprint: Footprint, channels: int, mode: DecodeMode, preset: Preset) -> Plan:
    """Return what a preset tries: a few layouts and partitionings, or all of `candidate_modes` and many."""
    found = candidate_modes(footprint, channels)
    if preset == "fast":
        return build(footprint, channels, mode, [(c, 4) for c in found[:3]], (2, 1, False), 3.0)
    separate = [channels == 1 and (c.width, c.height) == size(footprint) for c in found]
    chosen = [(c, 48 if alone else 12) for c, alone in zip(found, separate, strict=True)]
    return build(footprint, channels, mode, chosen, (2, 2, True), 2.0)


def build(
    footprint: Footprint, channels: int, mode: DecodeMode, chosen: list[tuple[Configuration, int]],
    effort: tuple[int, int, bool], prune_factor: float,
) -> Plan:  # fmt: skip
    """Return a plan of configurations, each with how many partitionings to try.

    With one channel and one weight a texel, partitions are fitted one by one.
    """
    texels = size(footprint)
    sizes = sorted({(c.width, c.height) for c, _ in chosen if channels > 1 or (c.width, c.height) != texels})
    rows = [
        (c.code, c.partitions, c.weights, c.endpoints,
         sizes.index((c.width, c.height)) if (c.width, c.height) in sizes else -1, seeds)
        for c, seeds in sorted(chosen, key=lambda entry: entry[0].partitions)
    ]  # fmt: skip
    return Plan(
        np.array(rows, np.int64), *sparse([infill(footprint, grid) for grid in sizes]), tables.partitions(footprint),
        *members(footprint), mode == "unorm8", effort, prune_factor,
    )  # fmt: skip


def encode_tile(
    texels: Array, importance: Array, footprint: Footprint, mode: DecodeMode, preset: Preset
) -> Array:
    """Return the bytes of a tile's blocks, uint8 `[block rows, block columns, 16]`.

    Blocks are independent: a tile that begins at a block's corner has the blocks that it has in the whole texture.

    Args:
        texels: what to come near to, 0 to 1 where nothing is clipped, `[height, width, channels]`.
        importance: weight of the squared error of each texel, `[height, width]`.
        footprint: texels of a block.
        mode: how the texture will be decoded.
        preset: how much is tried.
    """
    width, height = size(footprint)
    shape = -(-texels.shape[0] // height), -(-texels.shape[1] // width)
    content, plan = np.zeros((*shape, NBYTES), np.uint8), plan_of(footprint, texels.shape[2], mode, preset)

    def work(place: tuple[slice, slice]) -> None:
        rows, cols = place
        window = slice(rows.start * height, rows.stop * height), slice(cols.start * width, cols.stop * width)
        values = cut_up(texels[window], (width, height)) * 255
        heavy = cut_up(importance[window][:, :, None], (width, height))[:, :, 0]
        found = encode_blocks(values, heavy, footprint, plan)
        content[rows, cols] = found.pack().reshape(content[rows, cols].shape)

    with ThreadPoolExecutor(taken_processors()) as pool:
        list(pool.map(work, blocks(shape, STRIP)))
    return content


def encode_tile_astcenc(texels: Array, footprint: Footprint, *, quality: float = THOROUGH) -> Array:
    """Return the same by Arm's encoder, `astc-encoder-py`, if it is installed.

    Args:
        texels: `[height, width, channels]`, 1 or 4 channels; clipped to 0 .. 1. It knows no importance.
        footprint: texels of a block.
        quality: 0 to 100; `-medium` is 60, `-thorough` 98, `-exhaustive` 100.

    Raises:
        MissingExtraError: `astc-encoder-py` is not installed.
    """
    try:
        import astc_encoder as arm
    except ImportError:
        what, hint = "Arm's encoder is not installed", "pip install featherweight[astc]"
        raise MissingExtraError(what, where="astc.preset", got="astcenc", hint=hint) from None
    width, height = size(footprint)
    rows, cols = -(-texels.shape[0] // height), -(-texels.shape[1] // width)
    if not rows * cols:
        return np.zeros((rows, cols, NBYTES), np.uint8)
    below, right = rows * height - texels.shape[0], cols * width - texels.shape[1]
    filled = np.pad(texels, [(0, below), (0, right), (0, 0)], mode="edge")
    picture = np.broadcast_to(np.clip(filled, 0, 1), (*filled.shape[:2], 4)).astype(np.float32)
    image = arm.ASTCImage(arm.ASTCType.F32, picture.shape[1], picture.shape[0], 1, picture.tobytes())
    context = arm.ASTCContext(arm.ASTCConfig(arm.ASTCProfile.LDR, width, height, 1, quality), 1)
    swizzle = arm.ASTCSwizzle.from_str("RGBA" if texels.shape[2] == 4 else "RRR1")
    return np.frombuffer(context.compress(image, swizzle), np.uint8).reshape(rows, cols, NBYTES)


def encode_blocks(values: Array, importance: Array, footprint: Footprint, plan: Plan) -> Blocks:
    """Return blocks for `values: [blocks, texels, channels]`, 0 to 255, and `importance: [blocks, texels]`."""
    count, _, channels = values.shape
    mode, partitions, seed = np.zeros(count, np.uint16), np.zeros(count, np.uint8), np.zeros(count, np.uint16)
    endpoints = np.zeros((count, tables.MOST_ENDPOINTS), np.uint8)
    weights = np.zeros((count, tables.MOST_WEIGHTS), np.uint8)
    search(values, importance, plan, mode, partitions, seed, endpoints, weights)
    kind = np.full(count, LUMINANCE if channels == 1 else RGBA, np.uint8)
    return Blocks(footprint, mode, partitions, seed, kind, endpoints, weights)


def cut_up(texels: Array, footprint: tuple[int, int]) -> Array:
    """Return `texels: [height, width, channels]` as float64 `[blocks, texels, channels]`, filled up with 0."""
    width, height = footprint
    below, right = -texels.shape[0] % height, -texels.shape[1] % width
    filled = np.pad(texels.astype(np.float64), [(0, below), (0, right), (0, 0)])
    rows, cols = filled.shape[0] // height, filled.shape[1] // width
    apart = filled.reshape(rows, height, cols, width, filled.shape[2]).swapaxes(1, 2)
    return np.ascontiguousarray(apart.reshape(rows * cols, height * width, filled.shape[2]))
