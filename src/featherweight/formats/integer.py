"""Integers with a scale and, if affine, a zero point: what integer hardware multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats.base import Array, Part, Parts
from featherweight.formats.scalar import Scalar
from featherweight.formats.scales import Scheme, grid, least_squares, min_max, to_steps
from featherweight.formats.sweep import Uniform
from featherweight.formats.view import Per, View, join, split, spread, units_shape

COUNTED_LEVELS = 8  # bits of the widest grid whose integers a search for a scale counts one by one
COUNTED_BITS = 16  # the widest grid whose steps float32 counts and multiplies exactly


class Int(Scalar, frozen=True, tag="int"):
    """`w = scale * (q - zero_point)` with `q` in `-2**(bits-1) .. 2**(bits-1) - 1`, as ONNX DequantizeLinear.

    `|error| <= scale / 2`, plus float32's own rounding (under `2**-22 |w|`, which is what remains at 32
    bits), for weights up to 2**126 and `scale_by = "minmax"`: the scale is the smallest that clips nothing by
    more than half a step. `scale_by = "mse"` clips more, where that makes the (importance-weighted) squared
    error of a unit smaller. A number widens the steps for an entropy coder: it is the increase in relative
    squared error (1: that of all zeros) that is accepted to save a bit a weight; few of the integers are used then.

    Zero is always on the grid. A symbol is `(q - zero_point) mod 2**bits`, so that 0 is zero whatever the
    zero point.

    >>> encoded = Int(bits=4).encode(np.array([-0.8, 0.0, 0.3, 0.75], np.float32))
    >>> encoded.parts["scale"].tolist() == [np.float32(0.1)]
    True
    >>> encoded.symbols.tolist()  # two's complement: -8, 0, 3, 7
    [8, 0, 3, 7]

    References: Jacob et al., Quantization and training of neural networks for efficient
    integer-arithmetic-only inference, 2018, eq. 1.

    Attributes:
        bits: 1 to 16, or 32; one bit is {-1, 0}.
        scheme: `symmetric`: every zero point is 0; `affine`: one a unit, an integer of the grid.
        per: what shares a scale: the tensor, a channel, or so many neighbours in a row.
        scale_by: `minmax`, `mse`, or the relative squared error accepted per bit saved (to 8 bits).
    """

    bits: Annotated[int, Meta(ge=1, le=32)] = 8
    scheme: Scheme = "symmetric"
    per: Per = "channel"
    scale_by: Literal["minmax", "mse"] | Annotated[float, Meta(gt=0)] = "minmax"

    def __post_init__(self) -> None:
        """Refuse widths that no hardware computes with."""
        super().__post_init__()
        if COUNTED_BITS < self.bits < 32:
            raise ConfigError("not a bit width", where="int.bits", got=self.bits, expected="1 to 16, or 32")
        if self.bits > COUNTED_LEVELS and not isinstance(self.scale_by, str):
            raise ConfigError(
                "too many integers to weigh their entropy", where="int.bits", got=self.bits, expected="1 to 8"
            )

    def fit_units(self, units: Array, importance: Array | None) -> Mapping[str, Array]:
        """Return `scale` and `zero_point`, one a unit."""
        if self.scale_by == "minmax":
            low, high = units.min(axis=1, initial=0), units.max(axis=1, initial=0)
            scale, zero_point = min_max(low, high, self.bits, self.scheme)
        else:
            rate = 0.0 if self.scale_by == "mse" else self.scale_by
            scale, zero_point = least_squares(units, importance, self.bits, self.scheme, rate=rate)
        return {"scale": scale, "zero_point": zero_point}

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return scale (float32) and zero point (int64)."""
        scale = parts["scale"].reshape(-1, 1)
        zero_point = parts.get("zero_point", np.zeros(scale.shape))
        return scale, zero_point.reshape(-1, 1).astype(np.int64)

    def nearest(self, numbers: Array, *columns: Array) -> Array:
        """Return `(q - zero_point) mod 2**bits` for the nearest `q`, ties to even."""
        scale, zero_point = columns
        steps = to_steps(numbers / scale, zero_point, self.bits).astype(np.int64)
        return steps & ((1 << self.bits) - 1)

    def values(self, symbols: Array, *columns: Array) -> Array:
        """Return `(q - zero_point) * scale`."""
        scale, zero_point = columns
        least, most = grid(self.bits)
        if (scale <= 0).any() or (zero_point < least).any() or (zero_point > most).any():
            raise IntegrityError("a scale is not positive, or a zero point is outside the grid")
        steps = symbols.astype(np.int64 if self.bits > COUNTED_BITS else np.int32)
        steps = np.where(steps > most - zero_point, steps - (1 << self.bits), steps)
        return steps.astype(np.float32) * scale

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return symbols one step nearer zero."""
        _, zero_point = self.columns_of(parts)
        units = split(symbols.reshape(view.rows, view.cols), view, self.per)
        positive = units <= grid(self.bits)[1] - zero_point
        moved = np.where(positive, units - (units > 0), (units + 1) & ((1 << self.bits) - 1))
        return join(moved.astype(symbols.dtype), view, self.per).reshape(-1)

    def uniform(self, parts: Parts, view: View) -> Uniform | None:
        """Return the grid of each weight; None beyond 16 bits, whose steps float32 does not count."""
        if self.bits > COUNTED_BITS:
            return None
        scale, zero_point = (spread(part, view, self.per) for part in self.columns_of(parts))
        low, high = (np.asarray(end - zero_point, np.float32) for end in grid(self.bits))
        return Uniform((view.rows, view.cols), scale, low, high)

    def parts(self, view: View) -> dict[str, Part]:
        """Return `scale`, float32, and if affine `zero_point`, signed integers of 1, 2 or 4 bytes."""
        shape = units_shape(view, self.per)
        scale = {"scale": Part("<f4", shape)}
        if self.scheme == "symmetric":
            return scale
        nbytes = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        return scale | {"zero_point": Part(f"<i{nbytes}", shape)}
