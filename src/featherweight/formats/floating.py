"""Floating-point types of 32, 16 and 8 bits, as hardware has them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import Literal

import numpy as np

from featherweight.formats.base import Array, Format, Part, Parts
from featherweight.formats.scalar import Scalar
from featherweight.formats.view import Per, View, units_shape

Kind = Literal["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]

BITS: dict[Kind, int] = {"float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8}
# Greatest finite number of each.
MOST: dict[Kind, float] = {
    "float32": (2 - 2.0**-23) * 2.0**127,
    "float16": 65504.0,
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}


def beyond(values: Array, format: Format) -> str:
    """Return why values do not fit a floating-point format without a scale, which would clamp them, or nothing."""
    if not isinstance(format, Float) or format.per != "none":
        return ""
    greatest, most = float(np.abs(values).max(initial=0)), MOST[format.kind]
    return f"{greatest:g} is beyond the {most:g} of {format.kind}" if most < greatest < inf else ""


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

    References: Micikevicius et al., FP8 formats for deep learning, 2022; Rouhani et al., OCP
    Microscaling formats (MX) specification 1.0, 2023 (the power-of-two scale).

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
    if kind == "float16":
        bits: Array = weight.astype(np.float16).view(np.uint16)
    elif kind == "float32":
        bits = weight.view(np.uint32)
    elif kind == "bfloat16":
        wide = weight.view(np.uint32)
        bits = ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)
    else:
        bits = _float8_of_bfloat16(kind)[_round_to_odd(weight)]
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


def _round_to_odd(weight: Array) -> Array:
    """Return float32 numbers cut to bfloat16 patterns, uint16, the last bit set if anything was cut off.

    Rounding the result to a type with at least two bits less of mantissa equals rounding the number itself
    (Boldo and Melquiond, Emulation of a FMA and correctly rounded sums, 2008).
    """
    wide = weight.view(np.uint32)
    odd: Array = ((wide >> 16) | ((wide & 0xFFFF) != 0)).astype(np.uint16)
    return odd


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
