"""The rank of a noisy matrix by variational Bayes, in closed form but for the variance of the noise."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GRID = 257  # points of the search over the logarithm of the variance, beside those of each interval
TAU = 2.5129  # the zero of the function that Nakajima et al. bound in their theorem 2, over sqrt(alpha)


def evbmf_rank(singular: Array, rows: int, columns: int) -> int:
    """Return the number of components that outlive the noise, by empirical variational Bayes.

    Args:
        singular: all singular values, descending `[min(rows, columns)]`.
        rows: of the matrix.
        columns: of the matrix.

    References: Nakajima, Sugiyama, Babacan, Tomioka, Global analytic solution of fully-observed variational
    Bayesian matrix factorization, 2013, JMLR 14, theorem 2 and eq. 22.

    >>> evbmf_rank(np.array([9.0, 8.0, 0.1, 0.1, 0.1, 0.1]), 6, 20)
    2
    """
    small, large = sorted((rows, columns))
    if not singular.any():
        return 0
    alpha = small / large
    edge = (1 + TAU * sqrt(alpha)) * (1 + sqrt(alpha) / TAU)
    squares = np.square(singular / singular.max(), dtype=np.float64)
    return int((squares > large * noise(squares, alpha, edge, large) * edge).sum())


def noise(squares: Array, alpha: float, edge: float, large: int) -> float:
    """Return the variance of the noise that minimises the free energy, within the bounds that hold for it.

    The free energy has local minima, one between every two variances at which a component crosses the threshold: each
    of these intervals is searched.

    Args:
        squares: of the singular values, descending.
        alpha: the shorter side of the matrix over the longer.
        edge: threshold of a component, in units of noise.
        large: the longer side.
    """
    from scipy.optimize import minimize_scalar

    count = len(squares)
    tail = min(ceil(count / (1 + alpha)) - 1, count - 1)
    upper = float(squares.mean()) / large
    lower = max(float(squares[tail]) / (large * edge), float(squares[tail:].mean()) / large, upper * 1e-12)
    if lower >= upper:
        return upper
    floor = np.maximum(squares, upper * 1e-12)
    steps = np.log(squares[squares > 0] / (large * edge))  # where a component crosses the threshold
    inside = np.unique(
        np.r_[np.log(lower), steps[(steps > np.log(lower)) & (steps < np.log(upper))], np.log(upper)]
    )
    grid = np.unique(
        np.r_[np.linspace(inside[0], inside[-1], GRID), np.linspace(inside[:-1], inside[1:], 3).ravel()]
    )
    energy = np.array([free_energy(float(np.exp(log)), floor, alpha, edge, large) for log in grid])
    best = int(energy.argmin())
    found = minimize_scalar(
        lambda log: free_energy(float(np.exp(log)), floor, alpha, edge, large),
        bounds=(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x if found.fun <= energy[best] else grid[best]))


def free_energy(variance: float, squares: Array, alpha: float, edge: float, large: int) -> float:
    """Return the free energy of a variance of the noise, up to a constant."""
    x = squares / (large * variance)
    kept, gone = x[x > edge], x[x <= edge]
    tau = (kept - (1 + alpha) + np.sqrt((kept - (1 + alpha)) ** 2 - 4 * alpha)) / 2
    energy = (gone - np.log(gone)).sum() + (kept - tau).sum() + np.log((tau + 1) / kept).sum()
    return float(energy + alpha * np.log(tau / alpha + 1).sum())
