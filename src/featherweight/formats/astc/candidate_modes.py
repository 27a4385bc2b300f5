"""Modes that the encoder tries: partitions, grid and levels of the weights, by footprint.

Chosen greedily out of all legal ones: each minimises the squared error of the best of the list so far, on Gaussian
and Laplacian numbers (`python -m benchmarks astc_layouts`); so the first of a list
matter most.
"""

from __future__ import annotations

from featherweight.formats.astc.modes import WEIGHT_RANGES, Configuration, Footprint, configurations

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
