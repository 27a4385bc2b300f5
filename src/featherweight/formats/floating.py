"""Numbers whose steps grow with them: floating-point types as hardware has them, and logarithms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import IntegrityError
from featherweight.formats.base import Format, Part, Parts, Scalar
from featherweight.formats.clustered import boundaries
from featherweight.formats.integer import HALF_MOST, Int
from featherweight.formats.view import Array, Per, View, units_shape

Kind = Literal["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]

BITS: dict[Kind, int] = {"float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8}
# Greatest finite number of each.
MOST: dict[Kind, float] = {
    "float32": (2 - 2.0**-23) * 2.0**127, "float16": 65504.0, "bfloat16": (2 - 2.0**-7) * 2.0**127,
    "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0,
}  # fmt: skip


def beyond(values: Array, format: Format) -> str:
    """Return why a floating-point format without a scale, or one with scales of float16, would clamp values, or ""."""
    if isinstance(format, Int) and format.half:
        most, kind = HALF_MOST, "scales of float16"
    elif isinstance(format, Float) and format.per == "none":
        most, kind = MOST[format.kind], format.kind
    else:
        return ""
    greatest = float(np.abs(values).max(initial=0))
    return f"{greatest:g} is beyond the {most:g} of {kind}" if most < greatest < inf else ""


class Float(Scalar, frozen=True, tag="float"):
    """IEEE 754 numbers of 32 and 16 bits, bfloat16, the two 8-bit types of the OCP; symbols are bit patterns.

    Rounds to nearest, ties to even; saturates at the greatest finite number, so that infinity never arises;
    -0.0 becomes 0.0, so that zero is symbol 0. With `m` bits of mantissa, `|error| <= 2**-(m+1) |w|`, or half
    the least subnormal number if that is more, for weights within range.

    Eight bits have little range: weights of 0.01 are subnormal in e4m3. With `per`, each channel (or tensor,
    or group) is multiplied by the power of two that brings its greatest magnitude under the type's own, so
    that rounding is relative and nothing saturates; the exponents are one signed byte each.

    >>> Float(kind="float8_e4m3fn").encode(np.array([0.0, 1.0, -1.3, 1000.0], np.float32)).decode().tolist()
    [0.0, 1.0, -1.25, 448.0]

    References: Micikevicius et al., FP8 formats for deep learning, 2022; Rouhani et al., OCP Microscaling formats (MX)
    specification 1.0, 2023 (the power-of-two scale).

    Attributes:
        kind: the type, by torch's name.
        per: what shares an exponent; `none`: nothing is scaled.
    """

    kind: Kind = "float16"
    per: Literal["none"] | Per = "none"

    @property
    def unit(self) -> Per:
        """What shares an exponent; a channel, where nothing is scaled."""
        return "channel" if self.per == "none" else self.per

    @property
    def symbol_bits(self) -> int:
        """Bits of the type."""
        return BITS[self.kind]

    def fit_units(self, units: Array, importance: Array | None) -> Mapping[str, Array]:
        """Return `exponent`, one a unit: the least with which nothing saturates, -126 at least."""
        greatest = np.abs(units).max(axis=1, initial=0).astype(np.float64)
        mantissa, exponent = np.frexp(greatest / MOST[self.kind])
        return {"exponent": np.clip(exponent - (mantissa == 0.5), -126, 127)}

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return the exponents, int32, if there is scaling."""
        return tuple(part.reshape(-1, 1).astype(np.int32) for part in parts.values())

    def nearest(self, numbers: Array, *exponent: Array) -> Array:
        """Return the bit pattern of each number, scaled and rounded."""
        return to_bits(np.ldexp(numbers, -exponent[0]) if exponent else numbers, self.kind)

    def values(self, symbols: Array, *exponent: Array) -> Array:
        """Return the number of each bit pattern, scaled back; `decode` refuses NaN and infinity."""
        numbers = from_bits(symbols, self.kind)
        return np.ldexp(numbers, exponent[0]) if exponent else numbers

    def parts(self, view: View) -> dict[str, Part]:
        """Return `exponent`, signed bytes, if there is scaling."""
        return {} if self.per == "none" else {"exponent": Part("|i1", units_shape(view, self.per))}


def to_bits(weight: Array, kind: Kind) -> Array:
    """Return the bit patterns of finite float32 numbers: to nearest even, saturated, no negative zero."""
    weight = np.clip(weight, -MOST[kind], MOST[kind])
    wide = weight.view(np.uint32)
    if kind == "float16":
        bits: Array = weight.astype(np.float16).view(np.uint16)
    elif kind == "float32":
        bits = wide
    elif kind == "bfloat16":
        bits = ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)
    else:
        # By way of bfloat16, cut, the last bit set if anything was cut off: rounding that to a type with at least two
        # bits less equals rounding the number (Boldo, Melquiond, Emulation of a FMA and correctly rounded sums, 2008).
        odd = (wide >> 16 | ((wide & 0xFFFF) != 0)).astype(np.uint16)
        bits = _float8_of_bfloat16(kind)[odd]
    bits[bits == 1 << BITS[kind] - 1] = 0
    return bits


def from_bits(bits: Array, kind: Kind) -> Array:
    """Return the float32 numbers of bit patterns, NaN and infinity among them."""
    if kind == "float16":
        return bits.astype(np.uint16, copy=False).view(np.float16).astype(np.float32)
    if kind == "float32":
        return bits.astype(np.uint32).view(np.float32)
    if kind == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return float8_values(kind)[bits]


@lru_cache
def float8_values(kind: Kind) -> Array:
    """Return the numbers of all 256 patterns, float32 `[256]`.

    A pattern is a sign, an exponent field `e` and a mantissa field of `m` bits: `2**(e - bias) (1 + field /
    2**m)`, or without the 1, at the exponent of `e = 1`, if `e = 0`. E4M3 has bias 7, no infinity and one NaN
    a sign (all ones); E5M2 has bias 15, and infinity and NaN as IEEE types have them.

    >>> float8_values("float8_e4m3fn")[[1, 8, 126]].tolist() == [2.0**-9, 2.0**-6, 448.0]
    True
    """
    mantissa_bits, bias = (3, 7) if kind == "float8_e4m3fn" else (2, 15)
    field, mantissa = np.divmod(np.arange(128), 1 << mantissa_bits)
    fraction = mantissa / (1 << mantissa_bits) + (field > 0)
    values = np.ldexp(fraction, np.maximum(field, 1) - bias)
    if kind == "float8_e4m3fn":
        values[127] = np.nan
    else:
        values[124:] = [np.inf, np.nan, np.nan, np.nan]
    return np.concatenate([values, -values]).astype(np.float32)


@lru_cache
def _float8_of_bfloat16(kind: Kind) -> Array:
    """Return the 8-bit pattern nearest to each bfloat16 pattern, uint8 `[65536]`, saturated; ties to even."""
    values = float8_values(kind)[:128]
    finite = values[np.isfinite(values)].astype(np.float64)
    middle = (finite[1:] + finite[:-1]) / 2
    middle[1::2] = np.nextafter(middle[1::2], 0)  # between an odd pattern and an even one: a tie goes up
    magnitude = np.nan_to_num(from_bits(np.arange(1 << 15), "bfloat16"))
    codes = np.searchsorted(middle, magnitude).astype(np.uint8)
    return np.concatenate([codes, codes | 0x80])


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

    References: Miyashita, Lee, Murmann, Convolutional neural networks using logarithmic data representation, 2016;
    Zhou et al., Incremental network quantization, 2017 (the greatest power of two: `floor(log2(4 max / 3))`).

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
        return {"top": np.minimum(top, (128 << self.fraction) - 1)}

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return the logarithm that `k = 0` would have, in steps."""
        top = parts["top"].reshape(-1, 1).astype(np.int32)
        if (top >= 128 << self.fraction).any() or (top < -150 << self.fraction).any():
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
    return np.asarray((exponent.astype(np.int32) - 1 << fraction) + above)


def exp2(steps: Array, fraction: int) -> Array:
    """Return `2**(steps / 2**fraction)` in float32: one octave, rounded, and its exact multiples."""
    return np.asarray(np.ldexp(_octave(fraction)[steps & (1 << fraction) - 1], steps >> fraction))


@lru_cache
def _octave(fraction: int) -> Array:
    """Return the levels of `[1, 2)`, float32 `[2**fraction]`."""
    return np.exp2(np.arange(1 << fraction) / (1 << fraction)).astype(np.float32)


@lru_cache
def _limits(fraction: int) -> Array:
    """Return the boundaries between the levels from 1/2 to 1, where `frexp` puts mantissas."""
    return boundaries(np.append(_octave(fraction), np.float32(2)) / 2)
