"""Loops that numba compiles: of the search for scales and of the column sweep. Imported where one is about to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from featherweight.errors import extras
from featherweight.formats.view import Array

with extras():
    import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, signature: str | None = None) -> Function:
    """Compile without the GIL, cached on disk where the file system allows it.

    Constants are types of their own, so each makes another version of what it is given to; not with a `signature`.
    """
    try:
        made: Any = numba.njit(signature, cache=True, nogil=True)(function)
    except RuntimeError:
        made = numba.njit(signature, nogil=True)(function)
    return cast(Function, made)


@compiled
def missed_steps(
    weight: Array, importance: Array, scale: Array, low: Array, high: Array, found: Array
) -> None:
    """Sum in `found: [units]` the (weighted) squared distances of `weight / scale` to the steps `low .. high`.

    Args:
        weight: float32 `[units, n]`.
        importance: `[units, n]`, or `[units, 0]`: 1 each.
        scale: float32 `[units]`.
        low: least step of each unit, float32.
        high: greatest.
        found: float64.
    """
    units, count = weight.shape
    squares = np.empty(count, np.float32)  # apart from the sum, which goes one by one: so these need not
    for u in range(units):
        one, least, most = scale[u], low[u], high[u]
        for i in range(count):
            ratio = weight[u, i] / one
            step = np.rint(ratio)
            # min and max would be calls, and the loop not one of vectors
            step = least if step < least else step
            step = most if step > most else step
            squares[i] = (ratio - step) * (ratio - step)
        total = 0.0
        for i in range(count):
            total += squares[i] * importance[u, i] if importance.shape[1] else squares[i]
        found[u] = total


@compiled
def round_in_turn(
    left: Array, corner: Array, scale: Array, low: Array, high: Array, most: float, errors: Array
) -> None:
    """Round columns one after the other; each error is compensated in the remaining ones.

    The steps of columns 0 and 1, 2 and 3, ... sum to `most` at most in magnitude. Where they would sum to more, both
    give way. If the first moves by t of the excess e, the second is moved by -c t (c = U_ij / U_ii) and has to move by
    the rest; the error (t / U_ii)^2 + ((e - (1 + c) t) / U_jj)^2 is least at
    t = (1 + c) e U_ii^2 / (U_jj^2 + (1 + c)^2 U_ii^2).

    Args:
        left: float64 `[groups, k, rows]`; becomes the rounded numbers.
        corner: `[groups, k, k]`, the rows and columns of the inverse factor that are theirs.
        scale: float32 `[groups, k, rows]`, equal within a row if `most` is finite: a number is this times a whole step.
        low: least step, likewise.
        high: greatest step, likewise.
        most: see above; infinity: any.
        errors: float64 `[groups, k, rows]`; set to the errors that the columns after these compensate.
    """
    groups, count, rows = left.shape
    for g in range(groups):
        for i in range(0, count, 2):
            j = i + 1
            if j < count:
                own, other = corner[g, i, i], corner[g, j, j]
                moved = 1 + corner[g, i, j] / own
                share = moved * own * own / (other * other + moved * moved * own * own)
                share = min(max(share, 0.0), 1.0)
            for r in range(rows):
                a = np.float64(np.float32(left[g, i, r]) / scale[g, i, r])
                a = min(max(a, low[g, i, r]), high[g, i, r])
                if j < count:
                    b = np.float64(np.float32(left[g, j, r]) / scale[g, j, r])
                    b = min(max(b, low[g, j, r]), high[g, j, r])
                    excess = abs(a + b) - most
                    if excess > 0:
                        a = a - share * excess if a + b > 0 else a + share * excess
                step = min(max(np.rint(a), low[g, i, r]), high[g, i, r])
                made = np.float64(np.float32(step) * scale[g, i, r])
                errors[g, i, r] = (left[g, i, r] - made) / corner[g, i, i]
                left[g, i, r] = made
                if j < count:
                    left[g, j, r] -= corner[g, i, j] * errors[g, i, r]
                    least, greatest = max(low[g, j, r], -most - step), min(high[g, j, r], most - step)
                    step = np.rint(np.float32(left[g, j, r]) / scale[g, j, r])
                    step = min(max(step, least), greatest)
                    made = np.float64(np.float32(step) * scale[g, j, r])
                    errors[g, j, r] = (left[g, j, r] - made) / corner[g, j, j]
                    left[g, j, r] = made
            for k in range(i + 2, count):
                for r in range(rows):
                    left[g, k, r] -= corner[g, i, k] * errors[g, i, r]
                if j < count:
                    for r in range(rows):
                        left[g, k, r] -= corner[g, j, k] * errors[g, j, r]


# What the loops below count and compare is of 32 bits: numba's own constants are of 64, and one of those halves the
# numbers in a vector.
_ZERO, _ONE, _UNIT, _INFINITY = np.float32(0), np.float32(1), np.float32(2.0**31), np.float32(np.inf)
_FIELD, _BIAS = np.int32(23), np.int32(127)


@compiled
def _scaled(
    x: Array, random: Array, stochastic: bool, scale: float, exact: bool,
    binades: bool, mantissa: np.int32, least: np.int32, above: float, below: float,
) -> int:  # fmt: skip
    """Round to a grid with a scale; see `round_to_grid`.

    Magnitudes are rounded, so that -x becomes minus what x does: to the step above with probability `f`, the fraction
    of a step, to 2**-31. Where float32 takes the quotient of x to the other side of the nearest step than x is, x
    becomes that step.
    """
    beyond = np.int32(0)
    for i in range(x.size):
        a, limit = abs(x[i]), below if x[i] < _ZERO else above
        q, finite = a / scale, a < _INFINITY
        within = q < limit  # NaN is not
        beyond = np.int32(beyond + np.int32((q > limit) & finite))
        q, step = q if within else limit, _ONE
        if binades:
            e = np.int32((np.float32(q).view(np.int32) >> _FIELD) - _BIAS)
            e = e if e > least else least
            step = np.int32(np.int32(e - mantissa + _BIAS) << _FIELD).view(np.float32)
            q = q * np.int32(np.int32(mantissa - e + _BIAS) << _FIELD).view(np.float32)
        near = np.rint(q)
        chosen = near
        if stochastic:
            low = near - _ONE if near > q else near
            chosen = low + _ONE if np.int32((q - low) * _UNIT) > np.int32(random[i] >> np.uint32(1)) else low
            if not exact:
                a, point = a if within else limit * scale, near * step * scale
                chosen = near if (point == a) | ((point > a) != (near > q)) else chosen
        value = chosen * step * scale
        x[i] = (-value if x[i] < _ZERO else value) + _ZERO if finite else x[i]
    return int(beyond)


@compiled
def _cut(x: Array, random: Array, stochastic: bool) -> int:
    """Round bit patterns of float32, int32, to those whose lower 16 bits are 0: to bfloat16, exactly unbiased."""
    most, infinity, beyond = np.int32(0x7F7F0000), np.int32(0x7F800000), np.int32(0)
    for i in range(x.size):
        magnitude = np.int32(x[i] & 0x7FFFFFFF)
        beyond = np.int32(beyond + np.int32((magnitude > most) & (magnitude < infinity)))
        more = random[i] & 0xFFFF if stochastic else 0x7FFF + (magnitude >> 16 & 1)
        cut = np.int32((magnitude + more) >> 16 << 16)
        cut = cut if cut < most else most
        signed = -0x80000000 | cut if (x[i] < 0) & (cut > 0) else cut
        x[i] = signed if magnitude < infinity else x[i]
    return int(beyond)


@compiled
def round_to_grid(
    x: Array, random: Array, reuse: int, stochastic: bool, bfloat16: bool, scale: float, exact: bool,
    binades: bool, mantissa: np.int32, least: np.int32, above: float, below: float,
) -> int:  # fmt: skip
    """Round numbers to a grid, and return how many finite ones were beyond its ends and became those.

    Args:
        x: float32 `[n]`, rounded in place; NaN and infinity stay.
        random: uint32; if they are shared, the state of that many generators xorshift32, none of them 0.
        reuse: how many roundings share what a generator gives; 0: nothing is shared, `random` is `[n]`.
        stochastic: else to nearest, ties to even; then `random` is not read.
        bfloat16: the lower 16 bits are rounded away; nothing after this counts.
        scale: float32, what the grid is a multiple of.
        exact: whether it is a power of two.
        binades: whether steps are `2**(e - mantissa)`, `e` the exponent of the scaled number; else 1.
        mantissa: see there; 0 if there are no binades.
        least: `e` at least; likewise.
        above: float32, the greatest number of the grid, scaled.
        below: float32, minus the least.
    """
    block, beyond = random.size if reuse else x.size, 0
    for index, start in enumerate(range(0, x.size, max(block, 1))):
        if reuse and index % reuse == 0:
            for lane in range(block):
                random[lane] ^= random[lane] << np.uint32(13)
                random[lane] ^= random[lane] >> np.uint32(17)
                random[lane] ^= random[lane] << np.uint32(5)
        some = x[start : start + block]
        if bfloat16:
            beyond += _cut(some.view(np.int32), random.view(np.int32), stochastic)
        else:
            beyond += _scaled(some, random, stochastic, scale, exact, binades, mantissa, least, above, below)
    return beyond
