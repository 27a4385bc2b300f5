"""Loops that numba compiles: rounding to a grid while training, and its gradients. Imported where one is to run."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.formats.kernels import compiled
from featherweight.formats.view import Array

_LANES = 32  # sums that go side by side, so that a loop is one of vectors and their order is fixed
_ZERO = np.float32(0)


@compiled
def round_to_steps(x: Array, step: Array, low: Array, high: Array, rounded: Array) -> None:
    """Set `rounded` to the nearest of `low .. high` times `step`, ties to even; NaN stays, zero is +0.0.

    Args:
        x: float32 `[units, n]`.
        step: float32 `[units]`, positive.
        low: float32 `[units]`, whole, as `high`.
        high: not less than `low`.
        rounded: float32 `[units, n]`.
    """
    for u in range(x.shape[0]):
        one, least, most = step[u], low[u], high[u]
        for i in range(x.shape[1]):
            steps = np.rint(x[u, i] / one)
            # min and max would be calls, and the loop not one of vectors
            steps = least if steps < least else steps
            steps = most if steps > most else steps
            rounded[u, i] = (steps + _ZERO) * one


@compiled
def _inside(ratio: float, own: float, low: float, high: float, below: bool, above: bool) -> Any:
    """Return what of a gradient passes, and the three terms of `pass_inside`."""
    under = ratio <= low if below else ratio < low
    over = ratio >= high if above else ratio > high
    within = _ZERO if under | over else own
    return within, within * (np.rint(ratio) - ratio), own if under else _ZERO, own if over else _ZERO


@compiled
def pass_inside(
    x: Array, gradient: Array, step: Array, low: Array, high: Array, below: bool, above: bool,
    passed: Array, sums: Array,
) -> None:  # fmt: skip
    """Pass the gradient where `low < x / step < high`, and sum what those of step and ends are made of.

    Sums are of float64, `_LANES` of them side by side: their order depends on the shape alone.

    Args:
        x: as for `round_to_steps`, as are the next ones but `gradient`.
        gradient: by the rounded numbers, float32 `[units, n]`.
        step: see there.
        low: see there.
        high: see there.
        below: whether `low` itself counts as below the grid.
        above: whether `high` itself counts as above it.
        passed: float32 `[units, n]`, set to the gradient by x: 0 outside.
        sums: float64 `[units, 3]`, added to: of gradient times (round(x / step) - x / step) inside, of the gradient
            below, and above.
    """
    count, lanes = x.shape[1], np.zeros((3, _LANES))
    whole = count - count % _LANES
    for u in range(x.shape[0]):
        one, least, most = step[u], low[u], high[u]
        for start in range(0, whole, _LANES):
            for j in range(_LANES):
                i = start + j
                passed[u, i], inside, under, over = _inside(
                    x[u, i] / one, gradient[u, i], least, most, below, above
                )
                lanes[0, j] += inside
                lanes[1, j] += under
                lanes[2, j] += over
        for i in range(whole, count):
            passed[u, i], inside, under, over = _inside(
                x[u, i] / one, gradient[u, i], least, most, below, above
            )
            sums[u, 0] += inside
            sums[u, 1] += under
            sums[u, 2] += over
        if whole:
            for which in range(3):
                for j in range(_LANES):
                    sums[u, which] += lanes[which, j]
            lanes[:] = 0
