"""Logarithmic numbers: a sign and a base-2 logarithm, so that a product is an addition."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

import numpy as np
from msgspec import Meta

from featherweight.errors import IntegrityError
from featherweight.formats.base import Array, Part, Parts
from featherweight.formats.clustered import boundaries
from featherweight.formats.scalar import Scalar
from featherweight.formats.view import Per, View, units_shape


class Log2(Scalar, frozen=True, tag="log2"):
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

    def fit_units(self, units: Array, importance: Array | None) -> Mapping[str, Array]:
        """Return `top`, each unit's greatest magnitude as a rounded logarithm in steps of `2**-fraction`."""
        greatest = np.abs(units).max(axis=1, initial=0)
        top = np.where(greatest > 0, nearest_log2(greatest, self.fraction), 0)
        return {"top": np.minimum(top, _most(self.fraction))}

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return the logarithm that `k = 0` would have, in steps."""
        top = parts["top"].reshape(-1, 1).astype(np.int32)
        if (top > _most(self.fraction)).any() or (top < -150 << self.fraction).any():
            raise IntegrityError("an exponent is outside the range of float32")
        return (top - ((1 << self.bits - 1) - 1),)

    def nearest(self, numbers: Array, *columns: Array) -> Array:
        """Return sign and `k` of the nearest level of each number."""
        (first,), sign, magnitude = columns, 1 << self.bits - 1, np.abs(numbers)
        level: Array = np.clip(nearest_log2(magnitude, self.fraction) - first, 1, sign - 1)
        level[magnitude <= exp2(first + 1, self.fraction) / 2] = 0
        return np.where((numbers < 0) & (level > 0), level + sign, level)

    def values(self, symbols: Array, *columns: Array) -> Array:
        """Return the level of each symbol."""
        (first,), sign = columns, 1 << self.bits - 1
        level = (symbols & (sign - 1)).astype(np.int32)
        magnitude = exp2(first + level, self.fraction)
        magnitude[level == 0] = 0
        return np.where(symbols > sign, -magnitude, magnitude)

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return symbols one level lower, zero under the least level."""
        sign = symbols.dtype.type(1 << self.bits - 1)
        level = symbols & (sign - 1)
        return np.where(level > 1, symbols - 1, 0).astype(symbols.dtype)

    def parts(self, view: View) -> dict[str, Part]:
        """Return `top`, one 32-bit integer a unit."""
        return {"top": Part("<i4", units_shape(view, self.per))}


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
