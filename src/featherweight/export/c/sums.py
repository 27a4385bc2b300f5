"""The integers that kernels in C compute with: scales, multipliers and biases, and whether sums fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import numpy as np

from featherweight.activations import Affine
from featherweight.formats import Encoded
from featherweight.formats.view import Array
from featherweight.integers import IntegerLayer, steps_of

MULTIPLIER_BITS = 30


@dataclass(frozen=True, eq=False)
class LayerSums:
    """How a layer sums and rounds.

    Attributes:
        bias: int32 `[rows]` in sums of integer weights, int64 in those of a codebook; None: none.
        scale: of integer weights: float32 `[rows]`, or `[1]` where all are equal.
        bits: of integer weights.
        codebook: int32 `[k]`, in steps of 2**-shift of the step of the output.
        shift: see there.
    """

    bias: Array | None
    scale: Array | None = None
    bits: int = 0
    codebook: Array | None = None
    shift: int = 0


def integer_sums(encoded: Encoded, layer: IntegerLayer, x: Affine, y: Affine | None) -> LayerSums | str:
    """Return how a layer of integer weights sums, or why it cannot.

    Args:
        encoded: the weight.
        layer: it in integers.
        x: quantizer of what is read.
        y: of what is written; None: the sums times their scales are the result.
    """
    if not np.array_equal(layer.weight, encoded.view.tensor(steps_of(encoded).astype(np.int8))):
        return "its bias is so large that its weights change"
    scale = layer.bias_scale if y is None else layer.bias_scale / np.float32(y.scale)
    if not (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all():
        return "the ratio of its steps is no normal float32 number"
    weight = layer.weight.reshape(encoded.view.rows, -1).astype(np.int64)
    if _greatest(weight, layer.bias, x) >= 2**31:
        return "its sums exceed 32 bits"
    scale = scale[:1] if (scale == scale[:1]).all() else scale
    return LayerSums(layer.bias, scale.astype(np.float32), bits=encoded.format.bits)  # type: ignore[attr-defined]


def codebook_sums(encoded: Encoded, bias: Array | None, x: Affine, y: Affine | None) -> LayerSums | str:
    """Return how a layer of weights from a codebook sums, or why it cannot; arguments as of `integer_sums`.

    With steps s_x and s_y, weights are counted in steps of 2**-shift * s_y / s_x, the greatest in about 30 bits: the
    sum of products with integers, and of the bias, is exact, and its high bits are the result.
    """
    step = 1.0 if y is None else y.scale
    ratios = encoded.parts["codebook"].astype(np.float64) * (x.scale / step)
    offsets = None if bias is None else bias.astype(np.float64) / step
    for shift in range(min(MULTIPLIER_BITS - frexp(float(np.abs(ratios).max(initial=0)))[1], 62), 0, -1):
        codebook = np.rint(np.ldexp(ratios, shift))
        wide = None if offsets is None else np.rint(np.ldexp(offsets, shift))
        if np.abs(codebook).max(initial=0) >= 2**31 or (
            wide is not None and np.abs(wide).max(initial=0) >= 2**61
        ):
            continue
        whole = None if wide is None else wide.astype(np.int64)
        weight = codebook.astype(np.int64)[encoded.symbols].reshape(encoded.view.rows, -1)
        if _greatest(weight, whole, x) < 2**62:
            return LayerSums(whole, codebook=codebook.astype(np.int32), shift=shift)
    return "its steps are too far apart"


def _greatest(weight: Array, bias: Array | None, x: Affine) -> int:
    """Return a bound of the magnitude of every sum, whole or partial: `weight: [rows, n]`, int64."""
    least, most = (end - x.zero_point for end in x.grid)
    up = np.maximum(weight * most, weight * least).astype(object).sum(axis=1)
    down = -np.minimum(weight * most, weight * least).astype(object).sum(axis=1)
    offset = 0 if bias is None else np.abs(bias.astype(object))
    return int(max(np.max(np.maximum(up, down) + offset, initial=0), 0))


def averages(x: Affine, y: Affine, count: int) -> tuple[int, int, int]:
    """Return multiplier and shift for the average of `count` integers, and how many sums round otherwise.

    Every sum that there can be is tried, against what the simulation computes.
    """
    least, most = (count * (end - x.zero_point) for end in x.grid)
    sums = np.arange(least, most + 1, dtype=np.int64)
    expected = _rounded(sums * (x.scale / count), y)
    multiplier, shift = _multiplier(x.scale / y.scale / count)
    return multiplier, shift, int((_shifted(sums * multiplier, shift, y) != expected).sum())


@dataclass(frozen=True)
class Pairs:
    """Multipliers of a sum of two activations, of 2**shift, and for how many pairs it rounds otherwise."""

    a: int
    b: int
    shift: int
    apart: int


def pairs(a: Affine, b: Affine, y: Affine) -> Pairs:
    """Return how integers are added; every pair is tried, against what the simulation computes."""
    _, shift = _multiplier(max(a.scale, b.scale) / y.scale)
    first, second = (int(np.rint(np.ldexp(x.scale / y.scale, shift))) for x in (a, b))
    left, right = (np.arange(x.grid[0], x.grid[1] + 1, dtype=np.int64) - x.zero_point for x in (a, b))
    real = (left.astype(np.float32) * np.float32(a.scale))[:, None] + right.astype(np.float32) * np.float32(
        b.scale
    )
    sums = (left * first)[:, None] + right * second
    return Pairs(first, second, shift, int((_shifted(sums, shift, y) != _rounded(real, y)).sum()))


def translation(x: Affine, y: Affine, low: float = -np.inf, high: float = np.inf) -> Array:
    """Return the byte in one quantizer for each of another, uint8 `[256]`: its number, clamped and rounded."""
    integers = np.arange(256) - 128 * x.signed
    numbers = x.dequantize(np.clip(integers, *x.grid)).clip(np.float32(low), np.float32(high))
    return (y.quantize(numbers).astype(np.int16) + 128 * y.signed).astype(np.uint8)


def _multiplier(ratio: float) -> tuple[int, int]:
    """Return integers m, of about 30 bits, and s with m / 2**s nearest to a positive ratio; s from 0 to 62."""
    shift = min(max(MULTIPLIER_BITS - frexp(ratio)[1], 0), 62)
    return int(np.rint(np.ldexp(ratio, shift))), shift


def _rounded(numbers: Array, y: Affine) -> Array:
    """Return the integers of numbers, less the zero point, as the simulation rounds them: in their own precision."""
    least, most = (end - y.zero_point for end in y.grid)
    return np.asarray(np.clip(np.rint(numbers / numbers.dtype.type(y.scale)), least, most), np.int64)


def _shifted(sums: Array, shift: int, y: Affine) -> Array:
    """Return `sums / 2**shift`, rounded half to even, within the range of a quantizer less its zero point."""
    least, most = (end - y.zero_point for end in y.grid)
    whole, rest = sums >> shift, sums & ((1 << shift) - 1)
    half = 1 << shift >> 1
    up = (rest > half) | ((rest == half) & (whole & 1 == 1)) if shift else np.zeros(sums.shape, bool)
    return np.asarray(np.clip(whole + up, least, most))
