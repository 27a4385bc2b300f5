"""Seeded orders that never change: built on raw generator output, which numpy promises to keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherweight.data.indexed import Indexed, Subset

HELD_OUT_SEED = 0x5EED


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """Return a permutation of `0 .. count - 1` that depends on `key` alone, in any process and numpy version.

    >>> permutation(5, 0, 1).tolist()
    [2, 3, 1, 4, 0]
    """
    return np.argsort(np.random.PCG64(_sequence(key)).random_raw(count), kind="stable").astype(np.int64)


def number(*key: int) -> int:
    """Return a 63-bit seed that depends on `key` alone."""
    return int(_sequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([part % (1 << 64) for part in key])


def held_out(data: Indexed, count: int) -> tuple[Subset, Subset]:
    """Split off `count` samples, always the same ones: return the rest, and those."""
    order = permutation(len(data), HELD_OUT_SEED)
    return Subset(data, np.sort(order[count:])), Subset(data, np.sort(order[:count]))
