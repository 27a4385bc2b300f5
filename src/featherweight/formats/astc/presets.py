"""What the encoder tries for each footprint, by preset."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherweight.formats.astc.blocks import DecodeMode
from featherweight.formats.astc.candidate_modes import candidate_modes
from featherweight.formats.astc.geometry import SEEDS, geometry, partitions
from featherweight.formats.astc.modes import Configuration, Footprint, Size, size
from featherweight.formats.astc.search import Plan

Array = NDArray[Any]
Preset = Literal["fast", "best"]


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
