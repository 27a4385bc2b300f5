"""What the encoder tries for each footprint, by preset: modes, partitionings and effort, as a plan for its kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from featherweight.formats.astc.blocks import DecodeMode
from featherweight.formats.astc.geometry import SEEDS, geometry, partitions
from featherweight.formats.astc.modes import (
    WEIGHT_RANGES,
    Array,
    Configuration,
    Footprint,
    Size,
    configurations,
    size,
)
from featherweight.formats.astc.search import Plan

Preset = Literal["fast", "best"]

# Modes to try: partitions, grid and levels of the weights. Chosen greedily out of all legal ones: each minimises the
# squared error of the best of the list so far, on Gaussian and Laplacian numbers (`python -m benchmarks astc_layouts`),
# so the first of a list matter most.
LUMINANCE: dict[Footprint, str] = {
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

RGBA: dict[Footprint, str] = {
    "4x4": "2:4x4:5 2:4x4:4 2:4x4:6 2:4x4:10 2:4x4:8 2:4x4:3",
    "5x4": "2:5x4:4 2:5x4:3 2:5x4:5 2:5x3:6",
    "5x5": "2:5x5:4 2:5x5:3 2:4x5:5",
    "6x5": "2:6x5:3 2:5x5:4 2:5x5:3",
    "6x6": "2:6x5:3 2:5x6:3 2:6x6:2 1:6x6:5",
    "8x5": "2:8x5:2 2:7x4:3 1:8x5:4 2:7x5:2 2:6x5:3 2:7x4:4 1:8x4:5",
    "8x6": "1:8x6:3 2:8x5:2 2:8x6:2 2:7x4:3 2:7x6:2",
    "10x5": "2:9x5:2 2:10x5:2 1:10x5:3 2:10x3:3 2:10x4:2 2:7x4:4",
    "10x6": "1:9x6:3 2:9x5:2 1:10x5:3 1:8x6:3 2:8x5:2",
    "8x8": "1:8x8:2 1:6x8:3 2:5x8:2 1:8x6:3 2:6x5:3",
    "10x8": "1:8x8:2 2:8x5:2 1:7x8:3 1:8x6:3 2:10x4:2 1:10x5:3 1:6x8:3",
    "10x10": "1:8x8:2 1:8x7:3 1:6x10:2 2:8x6:2 1:6x9:3 2:4x10:2 1:8x6:3 2:5x5:4",
    "12x10": "1:8x8:2 2:10x4:2 1:11x5:3 2:9x5:2 1:7x9:2 2:11x4:2",
    "12x12": "1:8x8:2 1:11x5:3 2:4x11:2 1:7x9:2",
}


def candidate_modes(footprint: Footprint, channels: int) -> list[Configuration]:
    """Return the configurations to try, the best one first.

    >>> [(c.partitions, c.width, c.height) for c in candidate_modes("6x5", 1)][:2]
    [(2, 6, 5), (3, 6, 5)]
    """
    known = {
        f"{c.partitions}:{c.width}x{c.height}:{WEIGHT_RANGES[c.weights].levels}": c
        for c in configurations(footprint, channels)
    }
    return [known[name] for name in (LUMINANCE if channels == 1 else RGBA)[footprint].split()]


@lru_cache
def distinct_seeds(footprint: Footprint, count: int) -> Array:
    """Return one seed for each distinct partitioning of a footprint into exactly `count` parts, in any order."""
    table = partitions(footprint)[count - 1].astype(np.int64)
    shown = (table[:, :, None] == np.arange(count)).any(axis=1)
    first = np.argmax(table[:, :, None] == np.arange(count), axis=1)  # texel in which each partition begins
    renamed = np.argsort(np.argsort(first, axis=1), axis=1)
    canonical = np.take_along_axis(renamed, table, axis=1)
    _, seeds = np.unique(canonical, axis=0, return_index=True)
    return np.sort(seeds[shown[seeds].all(axis=1)])


@lru_cache
def members(footprint: Footprint) -> tuple[Array, Array, Array]:
    """Return `members`, `seeds` and `distinct` of a plan."""
    width, height = size(footprint)
    inside = np.zeros((3, 3, width * height, SEEDS), np.float32)
    seeds, distinct = np.zeros((3, SEEDS), np.int64), np.zeros(3, np.int64)
    for count in (2, 3, 4):
        chosen = distinct_seeds(footprint, count)
        seeds[count - 2, : chosen.size], distinct[count - 2] = chosen, chosen.size
        table = partitions(footprint)[count - 1, chosen].T
        for p in range(count - 1):
            inside[count - 2, p, :, : chosen.size] = table == p
    return inside, seeds, distinct


def infill(footprint: Footprint, grid: Size) -> Array:
    """Return the share of each point of a grid in the weight of each texel, `[points, texels]`."""
    tables, (wide, high) = geometry(footprint), grid
    corner, share = tables.corners[wide, high].astype(int), tables.shares[wide, high] / 16
    found = np.zeros((wide * high + wide + 1, len(corner)))
    for k, offset in enumerate((0, 1, wide, wide + 1)):
        found[corner + offset, np.arange(len(corner))] += share[:, k]
    return found[: wide * high]


def sparse(grids: list[Array]) -> tuple[Array, Array, Array, Array]:
    """Return points, starts, texels and shares of a plan for grids given by `infill`."""
    points, starts, texels, shares, length = [0], [], [], [], 0
    for grid in grids:
        point, texel = np.nonzero(grid)
        begins = length + np.searchsorted(point, np.arange(len(grid) + 1))
        starts.append(begins)
        texels.append(texel)
        shares.append(grid[point, texel])
        length += texel.size
        points.append(points[-1] + begins.size)
    if not grids:
        return np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0)
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
        np.array(rows, np.int64), *sparse([infill(footprint, grid) for grid in sizes]), partitions(footprint),
        *members(footprint), mode == "unorm8", effort, prune_factor,
    )  # fmt: skip
