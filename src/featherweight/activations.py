"""Quantizers of activations: which integer stands for which real number on an edge of the graph. No torch."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.checked import check_fields
from featherweight.errors import ConfigError

Array = NDArray[Any]

_LEAST_SCALE, _MOST_SCALE = 2.0**-100, 2.0**100  # products of two scales stay normal float32 numbers


class Quantizer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Affine integers: `x = scale * (q - zero_point)`, `q = clamp(round(x / scale) + zero_point)`, ties to even.

    As ONNX QuantizeLinear and DequantizeLinear compute, in float32.

    >>> relu6 = Quantizer.of(0.0, 6.0)
    >>> relu6.quantize(np.float32([-1, 0, 3, 6, 9])).tolist()
    [0, 0, 128, 255, 255]
    >>> relu6.absorbs(0, 6)  # clamping to 0 .. 6 before changes nothing
    True

    References: Jacob et al., Quantization and training of neural networks for efficient
    integer-arithmetic-only inference, 2018, eq. 1.

    Attributes:
        scale: the step, a positive float32 number.
        zero_point: the integer that stands for 0.
        bits: width, 2 to 8.
        signed: whether the integers are two's complement.
    """

    scale: float
    zero_point: int
    bits: Annotated[int, msgspec.Meta(ge=2, le=8)] = 8
    signed: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not a quantizer.

        Raises:
            ConfigError: a scale that is not a positive float32 number between 2**-100 and 2**100, or a zero
                point outside the grid.
        """
        check_fields(self, "quantizer")
        if not _LEAST_SCALE <= self.scale <= _MOST_SCALE or float(np.float32(self.scale)) != self.scale:
            raise ConfigError(
                "not a step", where="quantizer.scale", got=self.scale, expected="float32, 2**-100 to 2**100"
            )
        least, most = self.grid
        if not least <= self.zero_point <= most:
            raise ConfigError(
                "outside the grid", where="quantizer.zero_point", got=self.zero_point,
                expected=f"{least} to {most}",
            )  # fmt: skip

    @classmethod
    def of(
        cls, low: float, high: float, *, bits: int = 8, signed: bool = False, symmetric: bool = False
    ) -> Quantizer:
        """Return the quantizer of a range, which is widened to hold 0.

        Zero points are whole, so the ends of the range move by half a step at most. A range of one point, 0,
        gets the range 0 to 1.

        Args:
            low: least number to hold.
            high: greatest number to hold.
            bits: width.
            signed: whether the integers are two's complement.
            symmetric: have the zero point in the middle of the grid, unless no number is negative.
        """
        least, most = _grid(bits, signed)
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if low == high:
            high = 1.0
        if symmetric and low < 0:
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
        """The type that holds the integers: int8 or uint8."""
        return np.dtype(np.int8 if self.signed else np.uint8)

    def quantize(self, x: Array) -> Array:
        """Return the integers of `x`: any shape; NaN becomes the zero point."""
        least, most = self.grid
        steps = np.nan_to_num(np.rint(np.asarray(x, np.float32) / np.float32(self.scale)), nan=0.0)
        return np.asarray(np.clip(steps + np.float32(self.zero_point), least, most), self.dtype)

    def dequantize(self, q: Array) -> Array:
        """Return the numbers, float32, of integers `q`: any shape."""
        steps = (np.asarray(q, np.int32) - self.zero_point).astype(np.float32)
        return np.asarray(np.multiply(steps, np.float32(self.scale), dtype=np.float32))

    def absorbs(self, low: float, high: float) -> bool:
        """Return whether to clamp to `low .. high` before is to do nothing: both ends are those of the grid."""
        return [int(q) for q in self.quantize(np.array([low, high], np.float32))] == list(self.grid)


def _grid(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _step(step: float) -> float:
    return float(np.float32(np.clip(step, _LEAST_SCALE, _MOST_SCALE)))
