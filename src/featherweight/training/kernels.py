"""Loops that numba compiles: rounding to a grid while training, and its gradients. Imported where one is to run."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from featherweight.formats.kernels import compiled
from featherweight.formats.view import Array

_LANES = 32  # sums that go side by side, so that a loop is one of vectors and their order is fixed
_APART = 8  # sums to add to in turn: one would be waited for
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


_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.442695), np.float32(0.693359375), np.float32(-2.12194440e-4)
_HALF, _ONE, _TWO, _FOUR = np.float32(0.5), np.float32(1), np.float32(2), np.float32(4)
_FIELD, _BIAS = (
    np.int32(23),
    np.int32(127),
)  # of the bits of a float32: where its exponent is, and what is added to it
_TERMS = tuple(np.float32(1 / factorial(n)) for n in range(7, 1, -1))


@compiled
def _exp(y: float) -> float:
    """Return the exponential of -80 to 0 to some units in the last place of float32, in a loop of vectors."""
    whole = np.rint(y * _LOG2E)
    f = y - whole * _LN2_HIGH - whole * _LN2_LOW
    a, b, c, d, e, g = _TERMS
    series = ((((((a * f + b) * f + c) * f + d) * f + e) * f + g) * f + _ONE) * f + _ONE
    exponent = np.int32(np.int32(np.int32(whole) + _BIAS) << _FIELD).view(np.float32)
    return series * exponent  # type: ignore[no-any-return]


@compiled
def _staircase(
    x: Array, step: float, low: float, high: float, sharpness: float, slope: float, rise: float, bend: float,
    slopes: Array, bends: Array,
) -> None:  # fmt: skip
    """Set `slopes` and `bends` to what `pass_softly` calls D and the factor of its last sum, of x clipped."""
    for i in range(x.size):
        ratio = x[i] / step
        ratio = low if ratio < low else ratio
        ratio = high if ratio > high else ratio
        offset = ratio - low
        offset = offset - np.floor(offset) - _HALF
        decay = _exp(-_TWO * abs(sharpness * offset))
        inverse = np.divide(_ONE, _ONE + decay)  # the operator would look for a zero first
        tanh = (_ONE - decay) * inverse
        flat = _FOUR * decay * inverse * inverse
        slopes[i] = slope * flat
        bends[i] = rise * (-tanh if offset < _ZERO else tanh) + bend * flat * offset


@compiled
def _softly(ratio: float, own: float, low: float, high: float, slope: float, bend: float) -> Any:
    """Return what of a gradient passes, and the five terms of `pass_softly`."""
    under, over = ratio < low, ratio > high
    within = _ZERO if under | over else own
    step = np.rint(ratio) - low - slope * (ratio - low)
    return (
        within * slope, within * step, within * (_ONE - slope), own if under else _ZERO, own if over else _ZERO,
        within * bend,
    )  # fmt: skip


@compiled
def pass_softly(
    x: Array, gradient: Array, step: Array, low: Array, high: Array, sharpness: float, slope: float, rise: float,
    bend: float, passed: Array, sums: Array,
) -> None:  # fmt: skip
    """Pass the gradient by the slope of a staircase of tanh, and sum what the gradients of its shape are made of.

    With `r = x / step - low`, which is in interval i and at `t = r - i - 1/2` in it, the slope is
    `D = slope (1 - tanh(sharpness t)**2)`.

    Args:
        x: as for `pass_inside`.
        gradient: see there.
        step: see there.
        low: see there; is itself inside the grid, as is `high`.
        high: see there.
        sharpness: float32.
        slope: in the middle of an interval, float32.
        rise: float32; see the last sum.
        bend: float32; likewise.
        passed: float32 `[units, n]`, set to the gradient times D: 0 outside.
        sums: float64 `[units, 5]`, added to: of the gradient inside times `round(x / step) - low - D r`, and times
            `1 - D`; of that below, and above; of that inside times `rise tanh(sharpness t) + bend t D / slope`.
    """
    count, lanes, width = x.shape[1], np.zeros((5, _LANES)), 16 * _LANES
    slopes, bends = np.empty(width, np.float32), np.empty(width, np.float32)
    for u in range(x.shape[0]):
        one, least, most = step[u], low[u], high[u]
        for begin in range(0, count, width):
            end = min(begin + width, count)
            whole = begin + (end - begin) // _LANES * _LANES
            _staircase(x[u, begin:end], one, least, most, sharpness, slope, rise, bend, slopes, bends)
            for start in range(begin, whole, _LANES):
                for j in range(_LANES):
                    i = start + j
                    passed[u, i], a, b, c, d, e = _softly(
                        x[u, i] / one, gradient[u, i], least, most, slopes[i - begin], bends[i - begin]
                    )
                    lanes[0, j] += a
                    lanes[1, j] += b
                    lanes[2, j] += c
                    lanes[3, j] += d
                    lanes[4, j] += e
            for i in range(whole, end):
                passed[u, i], a, b, c, d, e = _softly(
                    x[u, i] / one, gradient[u, i], least, most, slopes[i - begin], bends[i - begin]
                )
                sums[u, 0] += a
                sums[u, 1] += b
                sums[u, 2] += c
                sums[u, 3] += d
                sums[u, 4] += e
        if count >= _LANES:
            for which in range(5):
                for j in range(_LANES):
                    sums[u, which] += lanes[which, j]
            lanes[:] = 0


@compiled
def round_to_levels(
    x: Array, limits: Array, levels: Array, lengths: Array, rounded: Array, mass: Array, moment: Array
) -> None:
    """Round to the nearest of some levels, and sum what each of them stands for.

    Args:
        x: float32 `[units, n]`.
        limits: the greatest numbers that belong to each level but the last, rising, float32 `[units, k]`.
        levels: rising, float32 `[units, k + 1]`.
        lengths: how many numbers a unit has, `[units]`; what is behind them is left alone.
        rounded: set to the levels, float32 `[units, n]`.
        mass: set to how many numbers have each level, float64 `[units, k + 1]`.
        moment: set to their sums, likewise.
    """
    sums = np.empty((_APART, levels.shape[1], 2))
    for u in range(x.shape[0]):
        sums[:] = 0
        for i in range(lengths[u]):
            value, rank = x[u, i], 0
            for k in range(limits.shape[1]):
                rank += value > limits[u, k]  # no branch, which would be guessed wrong
            rounded[u, i] = levels[u, rank]
            sums[i % _APART, rank, 0] += 1
            sums[i % _APART, rank, 1] += value
        for k in range(levels.shape[1]):
            mass[u, k], moment[u, k] = sums[:, k, 0].sum(), sums[:, k, 1].sum()
