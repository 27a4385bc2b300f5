"""Choosing one option a tensor, exactly: an integer program (HiGHS) over measured damage and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

Array = NDArray[Any]


def allocate(
    cost: Sequence[Sequence[float]], limited: Sequence[Sequence[float]], limit: float
) -> list[int] | None:
    """Return the option of each tensor with the least total cost whose total of `limited` stays within `limit`.

    minimise sum cost[t][o(t)] over choices o, subject to sum limited[t][o(t)] <= limit: the multiple-choice
    knapsack problem that HAWQ-V3 (Yao et al., 2021, section 3.4) solves for bits; here for any options.

    >>> allocate(cost=[[9, 4], [9, 4]], limited=[[0, 1], [0, 3]], limit=2)
    [1, 0]

    Args:
        cost: by tensor, by option; lists may differ in length.
        limited: likewise; non-negative.
        limit: bound of the total.

    Returns:
        The index of the chosen option of each tensor, or None if no choice stays within the limit.
    """
    counts = [len(options) for options in cost]
    if not counts:
        return []
    costs = np.concatenate([np.asarray(options, float) for options in cost])
    amounts = np.concatenate([np.asarray(options, float) for options in limited])
    tensor = np.repeat(np.arange(len(counts)), counts)
    one_each = csr_matrix(
        (np.ones(costs.size), (tensor, np.arange(costs.size))), shape=(len(counts), costs.size)
    )
    scale = max(float(np.abs(amounts).max()), 1e-300)
    solved = milp(
        costs / max(float(np.abs(costs).max()), 1e-300),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(csr_matrix(amounts[None] / scale), -np.inf, limit / scale),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if solved.x is None:
        return None
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return [int(np.argmax(solved.x[start : start + n])) for start, n in zip(starts, counts, strict=True)]


def pareto(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Return the indices of the points that no other dominates; every coordinate is to be small.

    Of equal points the first stays. The result is in order of the first coordinate.

    >>> pareto([(3, 1), (1, 3), (2, 2), (3, 3)])
    [1, 2, 0]
    """
    if not points:
        return []
    values = np.asarray(points, float)
    kept = []
    for i, point in enumerate(values):
        no_worse = (values <= point).all(axis=1)
        better = (values < point).any(axis=1)
        equal_before = (values[:i] == point).all(axis=1).any()
        if not (no_worse & better).any() and not equal_before:
            kept.append(i)
    return sorted(kept, key=lambda i: tuple(values[i]))
