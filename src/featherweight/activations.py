"""Number formats of activations: which numbers an edge can carry. `AnyQuantizer` is their union. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np

from featherweight.checked import check_fields
from featherweight.errors import ConfigError
from featherweight.formats.basis import levels
from featherweight.formats.clustered import boundaries
from featherweight.formats.floating import BITS, MOST, from_bits, to_bits
from featherweight.formats.view import Array

# The name of the node that makes an activation, for all that read it; or `read_by`, for one of them.
Edge = str
FloatKind = Literal["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]

_LEAST_SCALE, _MOST_SCALE = 2.0**-100, 2.0**100  # products of two scales stay normal float32 numbers


def read_by(source: Edge, reader: str) -> Edge:
    """Return the edge from an activation to one of the nodes that read it.

    >>> read_by("relu_1", "conv2d_2"), ends("relu_1>conv2d_2"), ends("relu_1")
    ('relu_1>conv2d_2', ('relu_1', 'conv2d_2'), ('relu_1', ''))
    """
    return f"{source}>{reader}"


def ends(edge: Edge) -> tuple[Edge, str]:
    """Return the activation that an edge carries, and the node that alone reads it so; empty: all read it."""
    source, _, reader = edge.rpartition(">")
    return (source, reader) if source else (reader, "")


def renamed(edge: Edge, names: Mapping[Edge, Edge]) -> Edge:
    """Return an edge, or one to a single reader, by the new names of its ends; what has none keeps its own.

    >>> renamed("pad>conv2d_2", {"pad": "relu_1"})
    'relu_1>conv2d_2'
    """
    source, reader = (names.get(end, end) for end in ends(edge))
    return read_by(source, reader) if reader else source


class Quantizer(msgspec.Struct, frozen=True, tag_field="format", forbid_unknown_fields=True):
    """The numbers that an activation is rounded to."""

    def __post_init__(self) -> None:
        """Check every field against its annotation."""
        check_fields(self, "quantizer")

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number."""
        raise NotImplementedError

    def quantize(self, x: Array) -> Array:
        """Return the code of each number of `x`: any shape; NaN becomes the code of 0."""
        raise NotImplementedError

    def dequantize(self, q: Array) -> Array:
        """Return the numbers, float32, of codes `q`: any shape."""
        raise NotImplementedError

    def steps(self, q: Array) -> Array:
        """Return where codes `q` lie on the grid, int32: neighbours differ by 1."""
        raise NotImplementedError

    def absorbs(self, low: float, high: float) -> bool:
        """Return whether to clamp to `low .. high` before is to do nothing: both ends are those of the grid."""
        ends = self.dequantize(self.quantize(np.array([low, high], np.float32)))
        return tuple(float(end) for end in ends) == tuple(float(np.float32(end)) for end in self.range)


class Scaled(Quantizer, frozen=True):
    """Those of a grid, times a `scale`.

    Attributes:
        scale: a positive float32 number.
    """

    scale: float

    def __post_init__(self) -> None:
        """Refuse a scale that is not a float32 number between 2**-100 and 2**100; names the field."""
        super().__post_init__()
        if not _LEAST_SCALE <= self.scale <= _MOST_SCALE or float(np.float32(self.scale)) != self.scale:
            expected = "float32, 2**-100 to 2**100"
            raise ConfigError("not a step", where="quantizer.scale", got=self.scale, expected=expected)


class Affine(Scaled, frozen=True, tag="affine"):
    """Affine integers: `x = scale * (q - zero_point)`, `q = clamp(round(x / scale) + zero_point)`, ties to even.

    As ONNX QuantizeLinear and DequantizeLinear compute, in float32.

    >>> relu6 = Affine.of(0.0, 6.0)
    >>> relu6.quantize(np.float32([-1, 0, 3, 6, 9])).tolist()
    [0, 0, 128, 255, 255]
    >>> relu6.absorbs(0, 6)  # clamping to 0 .. 6 before changes nothing
    True

    References: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only
    inference, 2018, eq. 1.

    Attributes:
        scale: the step, a positive float32 number.
        zero_point: the integer that stands for 0.
        bits: width, 1 to 16; runtimes multiply 8. Signed integers have 2 at least.
        signed: whether the integers are two's complement.
    """

    zero_point: int
    bits: Annotated[int, msgspec.Meta(ge=1, le=16)] = 8
    signed: bool = False

    def __post_init__(self) -> None:
        """Refuse a zero point outside the grid, and a sign without a number; names the field."""
        super().__post_init__()
        if self.signed and self.bits == 1:
            raise ConfigError(
                "a sign alone", where="quantizer.bits", got=1, expected="2 or more, or unsigned"
            )
        (least, most), got = self.grid, self.zero_point
        if not least <= got <= most:
            where, expected = "quantizer.zero_point", f"{least} to {most}"
            raise ConfigError("outside the grid", where=where, got=got, expected=expected)

    @classmethod
    def of(
        cls, low: float, high: float, *, bits: int = 8, signed: bool = False, symmetric: bool = False
    ) -> Affine:
        """Return the quantizer of a range, which is widened to hold 0.

        Zero points are whole, so the ends of the range move by half a step at most. A range of one point, 0,
        gets the range 0 to 1.

        Args:
            low: least number to hold.
            high: greatest number to hold.
            bits: width.
            signed: whether the integers are two's complement.
            symmetric: have the zero point in the middle of the grid, if it has one, unless no number is negative.
        """
        least, most = _grid(bits, signed)
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if low == high:
            high = 1.0
        if symmetric and low < 0 and bits > 1:
            zero_point = (least + most + 1) // 2
            step = max(high / (most - zero_point), low / (least - zero_point))
            return cls(_step(step), zero_point, bits, signed)
        step = _step((high - low) / (most - least))
        return cls(step, int(np.clip(np.rint(least - low / step), least, most)), bits, signed)

    @property
    def grid(self) -> tuple[int, int]:
        """The least and the greatest integer."""
        return _grid(self.bits, self.signed)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest real number."""
        least, most = self.grid
        return (least - self.zero_point) * self.scale, (most - self.zero_point) * self.scale

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that holds the integers: of 8 or 16 bits."""
        return np.dtype(f"{'' if self.signed else 'u'}int{8 if self.bits <= 8 else 16}")

    def quantize(self, x: Array) -> Array:
        """Return the integers of `x`: any shape; NaN becomes the zero point."""
        least, most = self.grid
        steps = np.nan_to_num(np.rint(np.asarray(x, np.float32) / np.float32(self.scale)), nan=0.0)
        return np.asarray(np.clip(steps + np.float32(self.zero_point), least, most), self.dtype)

    def dequantize(self, q: Array) -> Array:
        """Return the numbers, float32, of integers `q`: any shape."""
        steps = (np.asarray(q, np.int32) - self.zero_point).astype(np.float32)
        return np.asarray(np.multiply(steps, np.float32(self.scale), dtype=np.float32))

    def steps(self, q: Array) -> Array:
        """Return the integers themselves, int32."""
        return np.asarray(q, np.int32)


class FloatingPoint(Scaled, frozen=True, tag="float"):
    """Floating-point numbers of 16 or 8 bits: `x = scale * f`, rounded to nearest, ties to even, saturated.

    >>> FloatingPoint.of(-1, 3, "float8_e4m3fn").dequantize(np.uint8([1])) > 0
    array([ True])

    References: Micikevicius et al., FP8 formats for deep learning, 2022.

    Attributes:
        scale: of types of 8 bits, whose range is narrow; usually 1 for those of 16.
        kind: the type, by torch's name.
    """

    kind: FloatKind

    @classmethod
    def of(cls, low: float, high: float, kind: FloatKind) -> FloatingPoint:
        """Return the quantizer of a range: its greatest magnitude is the greatest number of a type of 8 bits."""
        most = max(-float(low), float(high))
        return cls(_step(most / MOST[kind]) if BITS[kind] == 8 and most else 1.0, kind)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number."""
        return -MOST[self.kind] * self.scale, MOST[self.kind] * self.scale

    def quantize(self, x: Array) -> Array:
        """Return the bit pattern of each number of `x`: any shape; NaN becomes 0."""
        with np.errstate(over="ignore"):
            numbers = np.nan_to_num(np.asarray(x, np.float32), nan=0.0) / np.float32(self.scale)
        return to_bits(np.atleast_1d(numbers), self.kind).reshape(np.shape(x))

    def dequantize(self, q: Array) -> Array:
        """Return the numbers, float32, of bit patterns `q`: any shape."""
        return np.asarray(from_bits(q, self.kind) * np.float32(self.scale))

    def steps(self, q: Array) -> Array:
        """Return where bit patterns `q` lie on the grid, int32: a sign, then a magnitude."""
        sign, q = 1 << BITS[self.kind] - 1, np.asarray(q, np.int32)
        return np.where(q & sign, sign - q, q)


class BinaryCoded(Quantizer, frozen=True, tag="binary_coded"):
    """The sums of some of a few numbers: `x = sum_j v_j b_j`, each `b_j` 0 or 1; the nearest, of two the smaller.

    These levels need not be evenly spaced. A product with a weight of `Basis` is a binary product for each number here
    and each there.

    >>> quantizer = BinaryCoded((0.5, 1.25))
    >>> quantizer.dequantize(quantizer.quantize(np.float32([-1, 0.3, 1, 1.6, 9]))).tolist()
    [0.0, 0.5, 1.25, 1.75, 1.75]

    References: Zhang, Yang, Ye, Hua, LQ-Nets: learned quantization for highly accurate and compact deep neural
    networks, 2018, arXiv 1807.10029.

    Attributes:
        basis: 1 to 8 float32 numbers; bit j of a code is `b_j`.
    """

    basis: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=8)]

    def __post_init__(self) -> None:
        """Refuse what is not a float32 number of at most 2**100; names the field."""
        super().__post_init__()
        for number in self.basis:
            if not abs(number) <= _MOST_SCALE or float(np.float32(number)) != number:
                where, expected = "quantizer.basis", "float32, at most 2**100"
                raise ConfigError("not a number of a basis", where=where, got=number, expected=expected)

    @property
    def levels(self) -> Array:
        """The numbers in order, float32 `[2**bits]`; some may be equal."""
        return _coded(self.basis)[1]

    @property
    def limits(self) -> Array:
        """The greatest numbers that are rounded to each of the levels but the last, float32 `[2**bits - 1]`."""
        return _coded(self.basis)[2]

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number."""
        return float(self.levels[0]), float(self.levels[-1])

    def quantize(self, x: Array) -> Array:
        """Return the code of each number of `x`: any shape; NaN becomes 0."""
        numbers = np.asarray(x, np.float32)
        numbers = np.where(np.isnan(numbers), np.float32(0), numbers)
        return np.asarray(_coded(self.basis)[0][np.searchsorted(self.limits, numbers)])

    def dequantize(self, q: Array) -> Array:
        """Return the numbers, float32, of codes `q`: any shape."""
        return np.asarray(levels(np.array(self.basis, np.float32), low=0)[q])

    def steps(self, q: Array) -> Array:
        """Return how many levels are below those of codes `q`, int32."""
        return np.searchsorted(np.unique(self.levels), self.dequantize(q)).astype(np.int32)


@lru_cache(maxsize=1 << 10)
def _coded(basis: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """Return the codes in order of their levels, the levels and their limits."""
    found = levels(np.array(basis, np.float32), low=0)
    order = np.argsort(found, kind="stable").astype(np.uint8)
    return order, found[order], boundaries(found[order])


KINDS: tuple[FloatKind, ...] = get_args(FloatKind)
AnyScaled = Affine | FloatingPoint
AnyQuantizer = Affine | FloatingPoint | BinaryCoded


def _grid(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _step(step: float) -> float:
    return float(np.float32(np.clip(step, _LEAST_SCALE, _MOST_SCALE)))
