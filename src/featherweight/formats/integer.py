"""Integers with a scale and, if affine, a zero point: what integer hardware multiplies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats.base import Format, Importance, Part, Parts
from featherweight.formats.coders import StreamSpec
from featherweight.formats.units import Per, blocks, join, narrowed, split, units_shape
from featherweight.formats.view import View

Array = NDArray[Any]
Scheme = Literal["symmetric", "affine"]

COUNTED_BITS = 16  # the widest grid whose steps float32 counts and multiplies exactly

# Factors on the range of min-max that the search for the least squared error tries; `FINE`: around the best.
COARSE = tuple(2.0 ** (-k / 4) for k in range(1, 33))
FINE = tuple(2.0 ** (k / 32) for k in range(-7, 8) if k)
_FLOAT32 = np.finfo(np.float32)


class Int(Format, frozen=True, tag="int"):
    """`w = scale * (q - zero_point)` with `q` in `-2**(bits-1) .. 2**(bits-1) - 1`, as ONNX DequantizeLinear.

    `|error| <= scale / 2`, plus float32's own rounding (under `2**-22 |w|`, which is what remains at 32
    bits), for weights up to 2**126 and `scale_by = "minmax"`: the scale is the smallest that clips nothing by
    more than half a step. `scale_by = "mse"` clips more, where that makes the (importance-weighted) squared
    error of a unit smaller. Zero is always on the grid. A symbol is `(q - zero_point) mod 2**bits`, so that 0
    is zero whatever the zero point.

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
        scale_by: `minmax` or `mse`.
    """

    bits: Annotated[int, Meta(ge=1, le=32)] = 8
    scheme: Scheme = "symmetric"
    per: Per = "channel"
    scale_by: Literal["minmax", "mse"] = "minmax"

    def __post_init__(self) -> None:
        """Refuse widths that nothing computes with."""
        super().__post_init__()
        if COUNTED_BITS < self.bits < 32:
            raise ConfigError("not a bit width", where="int.bits", got=self.bits, expected="1 to 16, or 32")

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return `scale` and, if affine, `zero_point`, one a unit."""
        weight = split(matrix, view, self.per)
        if self.scale_by == "mse":
            diagonal = None if importance is None else split(importance.diagonal, view, self.per)
            scale, zero_point = least_squares(weight, diagonal, self.bits, self.scheme)
        else:
            low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)
            scale, zero_point = min_max(low, high, self.bits, self.scheme)
        found = {"scale": scale, "zero_point": zero_point}
        layout = self.parts(view).items()
        return {name: found[name].astype(part.dtype).reshape(part.shape) for name, part in layout}

    def assign(
        self, matrix: Array, parts: Parts, *, view: View, importance: Importance | None = None
    ) -> Array:
        """Return `(q - zero_point) mod 2**bits` for the nearest `q`, ties to even."""
        weight = split(matrix, view, self.per)
        scale, zero_point = self._columns(parts)
        symbols = np.empty(weight.shape, self.stream(view, parts).dtype)
        for rows, cols in blocks(weight.shape):
            steps = to_steps(weight[rows, cols] / scale[rows], zero_point[rows], self.bits)
            symbols[rows, cols] = steps.astype(np.int64) & ((1 << self.bits) - 1)
        return join(symbols, view, self.per)

    def dequantize(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return `(q - zero_point) * scale`."""
        scale, zero_point = self._columns(parts)
        least, most = grid(self.bits)
        if (scale <= 0).any() or (zero_point < least).any() or (zero_point > most).any():
            raise IntegrityError("a scale is not positive, or a zero point is outside the grid")
        units = split(symbols.reshape(view.rows, view.cols), view, self.per)
        weight = np.empty(units.shape, np.float32)
        for rows, cols in blocks(units.shape):
            steps = units[rows, cols].astype(np.int64 if self.bits > COUNTED_BITS else np.int32)
            steps = np.where(steps > most - zero_point[rows], steps - (1 << self.bits), steps)
            weight[rows, cols] = steps.astype(np.float32) * scale[rows]
        return join(weight, view, self.per)

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return symbols one step nearer zero."""
        _, zero_point = self._columns(parts)
        units = split(symbols.reshape(view.rows, view.cols), view, self.per)
        positive = units <= grid(self.bits)[1] - zero_point
        moved = np.where(positive, units - (units > 0), (units + 1) & ((1 << self.bits) - 1))
        return join(moved.astype(symbols.dtype), view, self.per).reshape(-1)

    def columns(self, parts: Parts, view: View, columns: Array) -> tuple[Format, Parts, View]:
        """Return what assigns `columns: [k]` alone: of groups, each column is one."""
        if not isinstance(self.per, int):
            return super().columns(parts, view, columns)
        return replace(self, per=1), narrowed(parts, view, self.per, columns), View((view.rows, len(columns)))

    def parts(self, view: View) -> dict[str, Part]:
        """Return `scale`, float32, and if affine `zero_point`, signed integers of 1, 2 or 4 bytes."""
        shape = units_shape(view, self.per)
        scale = {"scale": Part("<f4", shape)}
        if self.scheme == "symmetric":
            return scale
        nbytes = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        return scale | {"zero_point": Part(f"<i{nbytes}", shape)}

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: `2**bits` symbols, 0 is zero."""
        return StreamSpec(view.size, 1 << self.bits, zero=0, row_length=view.cols)

    def nbits(self, shape: tuple[int, ...]) -> float:
        """Return the exact bits of a tensor that keeps axis 0."""
        view = View.of(shape)
        return view.size * self.bits + sum(part.nbits for part in self.parts(view).values())

    def _columns(self, parts: Parts) -> tuple[Array, Array]:
        """Return scale (float32) and zero point (int64), both `[units, 1]`."""
        scale = parts["scale"].reshape(-1, 1)
        zero_point = parts.get("zero_point", np.zeros(scale.shape))
        return scale, zero_point.reshape(-1, 1).astype(np.int64)


def grid(bits: int) -> tuple[int, int]:
    """Return the least and the greatest integer of two's complement.

    >>> grid(8), grid(1)
    ((-128, 127), (-1, 0))
    """
    return -(1 << bits - 1), (1 << bits - 1) - 1


def min_max(low: Array, high: Array, bits: int, scheme: Scheme) -> tuple[Array, Array]:
    """Return the smallest scales, and their zero points, that clip nothing by more than half a step.

    Symmetric: `scale = max(high / (most + 1/2), low / (least - 1/2))`, zero point 0. Affine: `scale = (high -
    low) / (most - least)`, `zero_point = round(least - low / scale)`. Scales are normal float32 numbers, even
    of constant zeros, and small enough that no point of the grid overflows.

    Args:
        low: least weight of each unit, 0 at most, `[units]`.
        high: greatest weight of each unit, 0 at least, `[units]`.
        bits: width of the grid.
        scheme: symmetric or affine.

    Returns:
        Scale (float32) and zero point (int64), both `[units]`.
    """
    least, most = grid(bits)
    low, high = low.astype(np.float64), high.astype(np.float64)
    if scheme == "symmetric":
        scale = within_float32(np.maximum(high / (most + 0.5), low / (least - 0.5)), bits)
        return scale, np.zeros(scale.shape, np.int64)
    scale = within_float32((high - low) / (most - least), bits)
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


def least_squares(weight: Array, importance: Array | None, bits: int, scheme: Scheme) -> tuple[Array, Array]:
    """Return scale and zero point of each unit, `[units]`, that make the squared error small.

    Both ends of the range of min-max are moved alike: by each of `COARSE`, then by each of `FINE` from the
    best; last, the scale that is best for the rounded weights is tried. Min-max is the first candidate and
    only less error replaces one, so the result is never worse.

    Args:
        weight: `[units, n]`.
        importance: weight of each squared error, `[units, n]`; None: 1 each.
        bits: width of the grid.
        scheme: symmetric or affine.
    """
    low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)

    def moved(factor: Array | float) -> tuple[Array, ...]:
        factor = np.broadcast_to(factor, low.shape)
        scale, zero_point = min_max(low * factor, high * factor, bits, scheme)
        return squared_error(weight, importance, scale, zero_point, bits), factor, scale, zero_point

    best = moved(1.0)
    for factor in COARSE:
        best = _less(best, moved(factor))
    middle = best[1]
    for factor in FINE:
        best = _less(best, moved(middle * factor))
    _, middle, scale, zero_point = best
    scale = best_scale(weight, importance, scale, zero_point, bits)
    last = squared_error(weight, importance, scale, zero_point, bits), middle, scale, zero_point
    _, _, scale, zero_point = _less(best, last)
    return scale, zero_point


def _less(old: tuple[Array, ...], new: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return, unit by unit, the candidate of less error (the first entry)."""
    less = new[0] < old[0]
    return tuple(np.where(less, b, a) for a, b in zip(old, new, strict=True))


def squared_error(
    weight: Array, importance: Array | None, scale: Array, zero_point: Array, bits: int
) -> Array:
    """Return the (weighted) squared error of each unit, float64 `[units]`.

    Summed in steps of the scale, so that no weight is too small or too great to square.
    """
    error = np.zeros(len(weight))
    for rows, cols in blocks(weight.shape):
        ratio = weight[rows, cols] / scale[rows, None]
        ratio -= to_steps(ratio, zero_point[rows, None], bits)
        ratio *= ratio
        if importance is not None:
            ratio *= importance[rows, cols]
        error[rows] += ratio.sum(axis=1)
    return error * np.square(scale, dtype=np.float64)


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
