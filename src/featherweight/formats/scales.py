"""Scales and zero points of integer grids: that clip nothing, of least error, or of least error and rate."""

from __future__ import annotations

from typing import Literal

import numpy as np

from featherweight.formats.view import Array, blocks

Scheme = Literal["symmetric", "affine"]

# Factors on the range of min-max that a search tries; `FINE`: around the best.
NARROWER = tuple(2.0 ** (-k / 4) for k in range(1, 33))
FINE = tuple(2.0 ** (k / 32) for k in range(-7, 8) if k)
_FLOAT32 = np.finfo(np.float32)


def grid(bits: int) -> tuple[int, int]:
    """Return the least and the greatest integer of two's complement.

    >>> grid(8), grid(1)
    ((-128, 127), (-1, 0))
    """
    return -(1 << bits - 1), (1 << bits - 1) - 1


def min_max(low: Array, high: Array, bits: int, scheme: Scheme) -> tuple[Array, Array]:
    """Return the smallest scales, and their zero points, that clip nothing by more than half a step.

    Symmetric: `scale = max(high / (most + 1/2), low / (least - 1/2))`, zero point 0. Affine: `scale = (high -
    low) / (most - least)`, rounded up so that the grid spans the range, and `zero_point = round(least - low /
    scale)`. Scales are normal float32 numbers, even of constant zeros, and small enough that no point of the
    grid overflows.

    Args:
        low: least weight of each unit, 0 at most, `[units]`.
        high: greatest weight of each unit, 0 at least, `[units]`.
        bits: width of the grid.
        scheme: symmetric or affine.
    """
    least, most = grid(bits)
    low, high = low.astype(np.float64), high.astype(np.float64)
    if scheme == "symmetric":
        scale = within_float32(np.maximum(high / (most + 0.5), low / (least - 0.5)), bits)
        return scale, np.zeros(scale.shape, np.int64)
    exact = (high - low) / (most - least)
    near = np.minimum(exact, _FLOAT32.max).astype(np.float32)
    up = np.where(
        near < exact, np.nextafter(near, np.float32(np.inf)), near
    )  # down, 2**32 steps would end too early
    scale = within_float32(up, bits)
    return scale, np.clip(np.rint(least - low / scale), least, most).astype(np.int64)


def to_steps(ratio: Array, zero_point: Array, bits: int) -> Array:
    """Return `q - zero_point`, whole numbers in floating point, of `ratio = weight / scale`; ties to even.

    Float32 counts steps exactly to 24 bits; at 32 bits the steps are float64, rounded from a float32 ratio.
    """
    least, most = grid(bits)
    exact = np.float32 if bits <= 16 else np.float64
    steps: Array = np.rint(ratio).astype(exact, copy=False)
    return np.clip(steps, (least - zero_point).astype(exact), (most - zero_point).astype(exact), out=steps)


def within_float32(scale: Array, bits: int) -> Array:
    """Return scales as normal float32 numbers under which no point of the grid overflows."""
    return np.clip(scale, _FLOAT32.tiny, _FLOAT32.max / 2**bits).astype(np.float32)


def least_squares(
    weight: Array, importance: Array | None, bits: int, scheme: Scheme, *, rate: float = 0.0
) -> tuple[Array, Array]:
    """Return scale and zero point of each unit, `[units]`, that make its squared error, or error and bits, small.

    With `E = sum h (w - v)^2` of a unit, `S = sum h w^2` of all `n` weights and `B` the entropy of the unit's
    steps times its weights, it makes `E + rate S / n B` small. Both ends of the range of min-max are moved
    alike: by each of `NARROWER` (and, if bits count, wider: fewer of the steps are used), then by each of
    `FINE` from the best; last, the scale that is best for the rounded weights is tried. Min-max is the first
    candidate and only less replaces one, so the result is never worse.

    References: Gish, Pierce, Asymptotically efficient quantizing, 1968 (with an entropy coder behind it, a
    uniform grid is 0.25 bits from the best there is); Sullivan, Efficient scalar quantization of exponential
    and Laplacian random variables, 1996.

    Args:
        weight: `[units, n]`.
        importance: weight of each squared error, `[units, n]`; None: 1 each.
        bits: width of the grid.
        scheme: symmetric or affine.
        rate: squared error, relative to that of all zeros, that a bit a weight is worth.
    """
    low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)
    square = np.square(weight, dtype=np.float64) if rate else np.zeros(1)
    bit = rate * float((square if importance is None else square * importance).sum()) / max(weight.size, 1)

    def moved(factor: Array | float) -> tuple[Array, ...]:
        factor = np.broadcast_to(factor, low.shape)
        scale, zero_point = min_max(low * factor, high * factor, bits, scheme)
        return cost(scale, zero_point), factor, scale, zero_point

    def cost(scale: Array, zero_point: Array) -> Array:
        error = squared_error(weight, importance, scale, zero_point, bits)
        return error + bit * entropy_bits(weight, scale, zero_point, bits) if bit else error

    best = moved(1.0)
    of_all = weight.shape[1] if importance is None else importance.sum(axis=1)
    for factor in NARROWER:
        new = moved(factor)
        best = _less(best, new)
        # What is not clipped is at most half a step off; what is, is more so on every narrower grid.
        clipped = new[0] - of_all * np.square(new[2], dtype=np.float64) / 4
        if scheme == "symmetric" and not bit and (clipped > best[0]).all():
            break
    for factor in (2.0 ** (k / 4) for k in range(1, 4 * bits + 1) if bit):
        best = _less(best, moved(factor))
    middle = best[1]
    for factor in FINE:
        best = _less(best, moved(middle * factor))
    _, middle, scale, zero_point = best
    scale = best_scale(weight, importance, scale, zero_point, bits)
    _, _, scale, zero_point = _less(best, (cost(scale, zero_point), middle, scale, zero_point))
    return scale, zero_point


def _less(old: tuple[Array, ...], new: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return, unit by unit, the candidate of less error (the first entry)."""
    less = new[0] < old[0]
    return tuple(np.where(less, b, a) for a, b in zip(old, new, strict=True))


def entropy_bits(weight: Array, scale: Array, zero_point: Array, bits: int) -> Array:
    """Return the bits of each unit's steps under an ideal coder of their frequencies, float64 `[units]`."""
    units, length = weight.shape
    counts = np.zeros(units << bits, np.int64)
    for rows, cols in blocks(weight.shape):
        ratio = weight[rows, cols] / scale[rows, None]
        steps = to_steps(ratio, zero_point[rows, None], bits) + zero_point[rows, None] - grid(bits)[0]
        first = rows.start << bits
        offset = np.arange(len(steps))[:, None] << bits
        seen = np.bincount((steps.astype(np.int64) + offset).ravel())
        counts[first : first + len(seen)] += seen
    share = counts.reshape(units, -1) / max(length, 1)
    of_each = np.log2(share, out=np.zeros_like(share), where=share > 0)
    found: Array = -length * (share * of_each).sum(axis=1)
    return found


def squared_error(
    weight: Array, importance: Array | None, scale: Array, zero_point: Array, bits: int
) -> Array:
    """Return the (weighted) squared error of each unit, float64 `[units]`.

    Summed in steps of the scale, so that no weight is too small or too great to square.
    """
    from featherweight.formats.kernels import missed_steps

    least, most = grid(bits)
    given = np.empty((len(weight), 0)) if importance is None else importance
    low, high = (np.asarray(end - zero_point, np.float32) for end in (least, most))
    error = np.empty(len(weight))
    missed_steps(weight, given, scale, low, high, error)
    squared: Array = error * np.square(scale, dtype=np.float64)
    return squared


def best_scale(weight: Array, importance: Array | None, scale: Array, zero_point: Array, bits: int) -> Array:
    """Return the best scale for the steps `d` of the weights under `scale`: `sum(h w d) / sum(h d d)`."""
    product, square = np.zeros((2, len(weight)))
    for rows, cols in blocks(weight.shape):
        ratio = weight[rows, cols] / scale[rows, None]
        steps = to_steps(ratio, zero_point[rows, None], bits)
        weighed = steps if importance is None else steps * importance[rows, cols]
        product[rows] += (weighed * ratio).sum(axis=1)
        square[rows] += (weighed * steps).sum(axis=1)
    known = (product > 0) & (square > 0)
    return within_float32(np.where(known, product / np.where(known, square, 1), 1) * scale, bits)
