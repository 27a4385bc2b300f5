"""Choosing one option a tensor, exactly, over measured damage and bytes: under one budget, or a ladder of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.search.sensitivity import Cell, Option

Array = NDArray[Any]
ROUNDING = 1e-12  # of a bound: what sums of float64 may be off


def allocate(
    cost: Sequence[Sequence[float]], limited: Sequence[Sequence[float]], limit: float
) -> list[int] | None:
    """Return the option of each tensor with the least total cost whose total of `limited` stays within `limit`.

    minimise sum cost[t][o(t)] over choices o, subject to sum limited[t][o(t)] <= limit: the multiple-choice
    knapsack problem that HAWQ-V3 (Yao et al., 2021, section 3.4) solves for bits; here for any options. Solved by
    dynamic programming over the choices that no other dominates (Nemhauser, Ullmann, 1969), cut by a Lagrangian
    bound: exact, without tolerances of a solver.

    >>> allocate(cost=[[9, 4], [9, 4]], limited=[[0, 1], [0, 3]], limit=2)
    [1, 0]

    Args:
        cost: by tensor, by option; lists may differ in length.
        limited: likewise; non-negative.
        limit: bound of the total.

    Returns:
        The index of the chosen option of each tensor, or None if no choice stays within the limit.
    """
    costs = [np.asarray(options, np.float64) for options in cost]
    amounts = [np.asarray(options, np.float64) for options in limited]
    least = np.array([options.min() for options in amounts])
    if least.sum() > limit:
        return None
    if not costs:
        return []
    price, best = _price(costs, amounts, limit)
    priced = np.array([(c + price * a).min() for c, a in zip(costs, amounts, strict=True)])
    rest_priced = np.append(np.cumsum(priced[::-1])[::-1], 0.0)
    rest_least = np.append(np.cumsum(least[::-1])[::-1], 0.0)
    most = best + ROUNDING * (abs(best) + float(np.abs(priced).sum()))
    spent, paid, parents = np.zeros(1), np.zeros(1), []
    for tensor, (c, a) in enumerate(zip(costs, amounts, strict=True)):
        spends, pays = (spent[:, None] + a).reshape(-1), (paid[:, None] + c).reshape(-1)
        bound = pays + price * (spends - limit) + rest_priced[tensor + 1]
        left = np.flatnonzero((bound <= most) & (spends + rest_least[tensor + 1] <= limit))
        left = left[np.lexsort((left, pays[left], spends[left]))]
        before = np.minimum.accumulate(np.append(np.inf, pays[left]))[:-1]
        left = left[pays[left] < before]
        if not left.size:
            return None
        spent, paid = spends[left], pays[left]
        parents.append(np.divmod(left, len(c)))
    state, chosen = int(np.argmin(paid)), []
    for above, option in reversed(parents):
        chosen.append(int(option[state]))
        state = int(above[state])
    return chosen[::-1]


def _price(costs: Sequence[Array], amounts: Sequence[Array], limit: float) -> tuple[float, float]:
    """Return the price of an amount with the best Lagrangian bound, and the cost of a choice within the limit."""

    def at(price: float) -> tuple[float, float]:
        chosen = [np.lexsort((a, c + price * a))[0] for c, a in zip(costs, amounts, strict=True)]
        total = sum(float(c[o]) for c, o in zip(costs, chosen, strict=True))
        return total, sum(float(a[o]) for a, o in zip(amounts, chosen, strict=True))

    total, spent = at(0.0)
    if spent <= limit:
        return 0.0, total
    low, high = 0.0, 1.0
    while at(high)[1] > limit and high < 1e300:
        low, high = high, high * 16
    for _ in range(200):
        middle = (low * high) ** 0.5 if low else high / 1024
        if at(middle)[1] <= limit:
            high = middle
        elif low and middle <= low:
            break
        else:
            low = middle
        if low and high / low < 1 + 1e-12:
            break
    total, spent = at(high)
    if spent <= limit:
        return high, total
    return high, sum(float(c[np.lexsort((c, a))[0]]) for c, a in zip(costs, amounts, strict=True))


def pareto(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Return the indices of the points that no other dominates; every coordinate is to be small.

    Of equal points the first stays. The result is in order of the first coordinate.

    >>> pareto([(3, 1), (1, 3), (2, 2), (3, 3)])
    [1, 2, 0]
    """

    def beats(i: int, j: int) -> bool:
        a, b = points[i], points[j]
        return all(x <= y for x, y in zip(a, b, strict=True)) and (a != b or i < j)

    every = range(len(points))
    kept = [j for j in every if not any(beats(i, j) for i in every if i != j)]
    return sorted(kept, key=lambda j: points[j])


def damages(row: Sequence[Cell]) -> list[float]:
    """Return the loss that each option of a tensor is expected to add: its squared error times the tensor's slope.

    The slope, loss per squared error, is fitted through the origin to all options of the tensor: single losses of
    fine options are smaller than their noise, those of coarse options are not. Of equal losses less error is
    better, and then fewer bytes.

    References:
        Dong et al., HAWQ-V2: Hessian aware trace-weighted quantization of neural networks, 2020: the mean trace of
        the Hessian times the squared error.
    """
    energy = sum(cell.error**2 for cell in row)
    slope = sum(cell.loss * cell.error for cell in row) / energy if energy else 0.0
    most = max(cell.nbytes for cell in row) or 1
    return [max(slope, 1e-9) * cell.error + 1e-15 * cell.nbytes / most for cell in row]


def within(rows: Sequence[Sequence[Cell]], budget: float) -> dict[str, Option] | None:
    """Return the least harmful choice whose tensors, a row each, take at most `budget` bytes, or None."""
    chosen = allocate([damages(row) for row in rows], [[cell.nbytes for cell in row] for row in rows], budget)
    if chosen is None:
        return None
    return {row[i].tensor: row[i].option for row, i in zip(rows, chosen, strict=True)}


def budgets(rows: Sequence[Sequence[Cell]], count: int) -> list[float]:
    """Return a geometric ladder of budgets, from the least bytes possible to the most."""
    least, most = (sum(pick(cell.nbytes for cell in row) for row in rows) for pick in (min, max))
    return [*map(float, np.geomspace(max(least, 1), max(most, 1), count)[:-1]), float(most)]


def uniform(rows: Sequence[Sequence[Cell]]) -> list[dict[str, Option]]:
    """Return the choices of one option for all; a tensor that cannot take it gets the one of least error."""
    made = []
    for option in dict.fromkeys(cell.option for row in rows for cell in row):
        own = ([cell for cell in row if cell.option == option] for row in rows)
        cells = (min(one or row, key=lambda cell: cell.error) for one, row in zip(own, rows, strict=True))
        made.append({cell.tensor: cell.option for cell in cells})
    return made
