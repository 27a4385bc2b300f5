"""Logarithmic numbers: a sign and a base-2 logarithm, so that a product is an addition."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from featherweight.errors import IntegrityError
from featherweight.formats.base import Format, Importance, Part, Parts
from featherweight.formats.clustered import boundaries
from featherweight.formats.coders import StreamSpec
from featherweight.formats.units import Per, blocks, join, narrowed, split, units_shape
from featherweight.formats.view import View

Array = NDArray[Any]


class Log2(Format, frozen=True, tag="log2"):
    """Zero, or `+-2**(m / 2**fraction)` with whole `m`: the greatest `m` of each unit is chosen by the data.

    A symbol is a sign bit and `k`, an integer of `bits - 1` bits: 0 is zero, `k > 0` is `m = top -
    (2**(bits-1) - 1) + k`. `fraction = 0` gives powers of two (a product is a shift), more fractional bits
    the number system of logarithmic accelerators.

    Rounds to the nearest level in value, ties to the smaller magnitude. With `r = 2**(2**-fraction)` the
    error is at most `(r - 1) / (r + 1) |w|` (1/3 for powers of two; 4.3 % with three fractional bits), which
    is less than rounding the logarithm gives (`sqrt(r) - 1`), as the squared error is. Under the least level
    the nearer of it and zero is taken.

    >>> Log2(bits=4).encode(np.array([1.0, -0.6, 0.0, 0.001], np.float32)).decode().tolist()
    [1.0, -0.5, 0.0, 0.0]

    References: Miyashita, Lee, Murmann, Convolutional neural networks using logarithmic data representation,
    2016; Zhou et al., Incremental network quantization, 2017 (the greatest power of two: `floor(log2(4
    max / 3))`).

    Attributes:
        bits: 2 to 16, of a symbol.
        fraction: fractional bits of the logarithm.
        per: what shares a greatest exponent.
    """

    bits: Annotated[int, Meta(ge=2, le=16)] = 4
    fraction: Annotated[int, Meta(ge=0, le=12)] = 0
    per: Per = "tensor"

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return `top`, each unit's greatest magnitude as a rounded logarithm in steps of `2**-fraction`."""
        greatest = np.abs(split(matrix, view, self.per)).max(axis=1, initial=0)
        top = np.where(greatest > 0, nearest_log2(greatest, self.fraction), 0)
        top = np.minimum(top, _most(self.fraction))
        return {"top": top.astype("<i4").reshape(units_shape(view, self.per))}

    def assign(
        self, matrix: Array, parts: Parts, *, view: View, importance: Importance | None = None
    ) -> Array:
        """Return sign and `k` of the nearest level of each number."""
        units = split(matrix, view, self.per)
        first, sign = self._first(parts), 1 << self.bits - 1
        symbols = np.empty(units.shape, self.stream(view, parts).dtype)
        for rows, cols in blocks(units.shape):
            weight = units[rows, cols]
            magnitude = np.abs(weight)
            level = np.clip(nearest_log2(magnitude, self.fraction) - first[rows], 1, sign - 1)
            level[magnitude <= exp2(first[rows] + 1, self.fraction) / 2] = 0
            symbols[rows, cols] = np.where((weight < 0) & (level > 0), level + sign, level)
        return join(symbols, view, self.per)

    def dequantize(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return the level of each symbol."""
        top = parts["top"]
        if (top > _most(self.fraction)).any() or (top < -150 << self.fraction).any():
            raise IntegrityError("an exponent is outside the range of float32")
        units = split(symbols.reshape(view.rows, view.cols), view, self.per)
        first, sign = self._first(parts), 1 << self.bits - 1
        weight = np.empty(units.shape, np.float32)
        for rows, cols in blocks(units.shape):
            level = (units[rows, cols] & (sign - 1)).astype(np.int32)
            magnitude = exp2(first[rows] + level, self.fraction)
            magnitude[level == 0] = 0
            weight[rows, cols] = np.where(units[rows, cols] > sign, -magnitude, magnitude)
        return join(weight, view, self.per)

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return symbols one level lower, zero under the least level."""
        sign = symbols.dtype.type(1 << self.bits - 1)
        level = symbols & (sign - 1)
        return np.where(level > 1, symbols - 1, 0).astype(symbols.dtype)

    def columns(self, parts: Parts, view: View, columns: Array) -> tuple[Format, Parts, View]:
        """Return what assigns `columns: [k]` alone: of groups, each column is one."""
        if not isinstance(self.per, int):
            return super().columns(parts, view, columns)
        return replace(self, per=1), narrowed(parts, view, self.per, columns), View((view.rows, len(columns)))

    def parts(self, view: View) -> dict[str, Part]:
        """Return `top`, one 32-bit integer a unit."""
        return {"top": Part("<i4", units_shape(view, self.per))}

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: `2**bits` symbols (a negative zero is never written), 0 is zero."""
        return StreamSpec(view.size, 1 << self.bits, zero=0, row_length=view.cols)

    def nbits(self, shape: tuple[int, ...]) -> float:
        """Return the exact bits of a tensor that keeps axis 0."""
        view = View.of(shape)
        return view.size * self.bits + sum(part.nbits for part in self.parts(view).values())

    def _first(self, parts: Parts) -> Array:
        """Return the logarithm that `k = 0` would have, `[units, 1]`, in steps."""
        return parts["top"].reshape(-1, 1).astype(np.int32) - ((1 << self.bits - 1) - 1)


def nearest_log2(magnitude: Array, fraction: int) -> Array:
    """Return whole `m`, int32, whose `2**(m / 2**fraction)` is nearest in value; ties to the smaller.

    Exact: the exponent is read off, and the mantissa compared with the boundaries in one octave.
    """
    mantissa, exponent = np.frexp(magnitude)
    above = np.searchsorted(_limits(fraction), mantissa).astype(np.int32)
    steps: Array = (exponent.astype(np.int32) - 1 << fraction) + above
    return steps


def exp2(steps: Array, fraction: int) -> Array:
    """Return `2**(steps / 2**fraction)` in float32: one octave, rounded, and its exact multiples."""
    level: Array = np.ldexp(_octave(fraction)[steps & (1 << fraction) - 1], steps >> fraction)
    return level


@lru_cache
def _octave(fraction: int) -> Array:
    """Return the levels of `[1, 2)`, float32 `[2**fraction]`."""
    return np.exp2(np.arange(1 << fraction) / (1 << fraction)).astype(np.float32)


@lru_cache
def _limits(fraction: int) -> Array:
    """Return the boundaries between the levels from 1/2 to 1, where `frexp` puts mantissas."""
    return boundaries(np.append(_octave(fraction), np.float32(2)) / 2)


def _most(fraction: int) -> int:
    """Return the greatest logarithm, in steps, whose level float32 holds."""
    return (128 << fraction) - 1
