"""Integers with a scale and, if affine, a zero point, what integer hardware multiplies; and how these are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from msgspec import UNSET, Meta, UnsetType

from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats.base import Part, Parts, Scalar
from featherweight.formats.sweep import Uniform
from featherweight.formats.view import Array, Per, View, blocks, join, split, spread, units_shape

Scheme = Literal["symmetric", "affine"]

# Factors on the range of min-max that a search tries; `FINE`: around the best.
NARROWER = tuple(2.0 ** (-k / 4) for k in range(1, 33))
FINE = tuple(2.0 ** (k / 32) for k in range(-7, 8) if k)
_FLOAT32 = np.finfo(np.float32)

COUNTED_LEVELS = 8  # bits of the widest grid whose integers a search for a scale counts one by one
COUNTED_BITS = 16  # the widest grid whose steps float32 counts and multiplies exactly
# Of grids whose scales are float16 numbers: the widest, the widest with zero points, and the greatest weight.
HALF_BITS, HALF_AFFINE, HALF_MOST = 8, 5, 2.0**14


class Int(Scalar, frozen=True, tag="int"):
    """`w = scale * (q - zero_point)` with `q` in `-2**(bits-1) .. 2**(bits-1) - 1`, as ONNX DequantizeLinear.

    `|error| <= scale / 2`, plus float32's own rounding (under `2**-22 |w|`, which is what remains at 32
    bits), for weights up to 2**126 and `scale_by = "minmax"`: the scale is the smallest that clips nothing by
    more than half a step. `scale_by = "mse"` clips more, where that makes the (importance-weighted) squared
    error of a unit smaller. A number widens the steps for an entropy coder: it is the increase in relative
    squared error (1: that of all zeros) that is accepted to save a bit a weight; few of the integers are used then.

    With `scale_type = "float16"` a scale is a float16 number, rounded up, and so is `scale * (zero_point - least)`,
    the distance from zero to the least number of the grid: what the blocks of GGUF hold. It takes 2 bytes, not 4.
    Weights beyond 2**14 saturate.

    Zero is always on the grid. A symbol is `(q - zero_point) mod 2**bits`, so that 0 is zero whatever the zero point.

    >>> encoded = Int(bits=4).encode(np.array([-0.8, 0.0, 0.3, 0.75], np.float32))
    >>> encoded.parts["scale"].tolist() == [np.float32(0.1)]
    True
    >>> encoded.symbols.tolist()  # two's complement: -8, 0, 3, 7
    [8, 0, 3, 7]

    References: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only
    inference, 2018, eq. 1.

    Attributes:
        bits: 1 to 16, or 32; one bit is {-1, 0}.
        scheme: `symmetric`: every zero point is 0; `affine`: one a unit, an integer of the grid.
        per: what shares a scale: the tensor, a channel, or so many neighbours in a row.
        scale_by: `minmax`, `mse`, or the relative squared error accepted per bit saved (to 8 bits).
        scale_type: `float16` (to 8 bits; affine to 5): scales in 2 bytes, for GGUF. Left open: float32.
    """

    bits: Annotated[int, Meta(ge=1, le=32)] = 8
    scheme: Scheme = "symmetric"
    per: Per = "channel"
    scale_by: Literal["minmax", "mse"] | Annotated[float, Meta(gt=0)] = "minmax"
    scale_type: Literal["float16"] | UnsetType = UNSET  # unset is not written: older files have no such field

    def __post_init__(self) -> None:
        """Refuse widths that no hardware computes with."""
        super().__post_init__()
        if COUNTED_BITS < self.bits < 32:
            raise ConfigError("not a bit width", where="int.bits", got=self.bits, expected="1 to 16, or 32")
        if self.bits > COUNTED_LEVELS and not isinstance(self.scale_by, str):
            what = "too many integers to weigh their entropy"
            raise ConfigError(what, where="int.bits", got=self.bits, expected="1 to 8")
        most = HALF_AFFINE if self.scheme == "affine" else HALF_BITS
        if self.half and self.bits > most:
            what = f"too many bits for {self.scheme} integers with scales of float16"
            raise ConfigError(what, where="int.bits", got=self.bits, expected=f"1 to {most}")

    @property
    def half(self) -> bool:
        """Whether scales are float16 numbers."""
        return self.scale_type is not UNSET

    def fit_units(self, units: Array, importance: Array | None) -> Mapping[str, Array]:
        """Return `scale` and `zero_point`, one a unit."""
        if self.scale_by == "minmax":
            low, high = units.min(axis=1, initial=0), units.max(axis=1, initial=0)
            scale, zero_point = min_max(low, high, self.bits, self.scheme, self.half)
        else:
            rate = 0.0 if self.scale_by == "mse" else self.scale_by
            scale, zero_point = least_squares(
                units, importance, self.bits, self.scheme, rate=rate, half=self.half
            )
        return {"scale": scale, "zero_point": zero_point}

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return scale (float32) and zero point (int64)."""
        scale, (least, most) = parts["scale"].astype(np.float32).reshape(-1, 1), grid(self.bits)
        zero_point = parts.get("zero_point", np.zeros(scale.shape)).reshape(-1, 1).astype(np.int64)
        if (scale <= 0).any() or (zero_point < least).any() or (zero_point > most).any():
            raise IntegrityError("a scale is not positive, or a zero point is outside the grid")
        return scale, zero_point

    def nearest(self, numbers: Array, *columns: Array) -> Array:
        """Return `(q - zero_point) mod 2**bits` for the nearest `q`, ties to even."""
        scale, zero_point = columns
        steps = to_steps(numbers / scale, zero_point, self.bits).astype(np.int64)
        return steps & ((1 << self.bits) - 1)

    def values(self, symbols: Array, *columns: Array) -> Array:
        """Return `(q - zero_point) * scale`."""
        (scale, zero_point), most = columns, grid(self.bits)[1]
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
        """Return `scale`, of `scale_type`, and if affine `zero_point`, signed integers of 1, 2 or 4 bytes."""
        shape = units_shape(view, self.per)
        nbytes = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        affine = {"zero_point": Part(f"<i{nbytes}", shape)} if self.scheme == "affine" else {}
        return {"scale": Part("<f2" if self.half else "<f4", shape)} | affine


def grid(bits: int) -> tuple[int, int]:
    """Return the least and the greatest integer of two's complement.

    >>> grid(8), grid(1)
    ((-128, 127), (-1, 0))
    """
    return -(1 << bits - 1), (1 << bits - 1) - 1


def min_max(low: Array, high: Array, bits: int, scheme: Scheme, half: bool = False) -> tuple[Array, Array]:
    """Return the smallest scales, and their zero points, that clip nothing by more than half a step.

    Symmetric: `scale = max(high / (most + 1/2), low / (least - 1/2))`, zero point 0. Affine: `scale = (high - low) /
    (most - least)`, rounded up so that the grid spans the range, and `zero_point = round(least - low / scale)`. Scales
    are normal float32 numbers, even of constant zeros, and small enough that no point of the grid overflows.

    Args:
        low: least weight of each unit, 0 at most, `[units]`.
        high: greatest weight of each unit, 0 at least, `[units]`.
        bits: width of the grid.
        scheme: symmetric or affine.
        half: the scales are float16 numbers; see `storable`.
    """
    least, most = grid(bits)
    low, high = low.astype(np.float64), high.astype(np.float64)
    if scheme == "symmetric":
        zero_point = np.zeros(low.shape, np.int64)
        exact = np.maximum(high / (most + 0.5), low / (least - 0.5))
        return storable(exact, zero_point, bits, half), zero_point
    exact = (high - low) / (most - least)
    near = np.minimum(exact, _FLOAT32.max).astype(np.float32)
    # Up: rounded down, 2**32 steps would end 256 short of the range.
    scale = within_float32(np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near), bits)
    zero_point = np.clip(np.rint(least - low / scale), least, most).astype(np.int64)
    return storable(scale, zero_point, bits, half), zero_point


def to_steps(ratio: Array, zero_point: Array, bits: int) -> Array:
    """Return `q - zero_point`, whole numbers in floating point, of `ratio = weight / scale`; ties to even.

    Float32 counts steps exactly to 24 bits; at 32 bits the steps are float64, rounded from a float32 ratio.
    """
    exact = np.float32 if bits <= 16 else np.float64
    low, high = ((end - zero_point).astype(exact) for end in grid(bits))
    steps: Array = np.rint(ratio).astype(exact, copy=False)
    return np.clip(steps, low, high, out=steps)


def within_float32(scale: Array, bits: int) -> Array:
    """Return scales as normal float32 numbers under which no point of the grid overflows."""
    return np.clip(scale, _FLOAT32.tiny, _FLOAT32.max / 2**bits).astype(np.float32)


def storable(scale: Array, zero_point: Array, bits: int, half: bool) -> Array:
    """Return scales as normal float32 numbers, or as float16 ones: the least that are not under `scale`.

    The product of a float16 scale and `zero_point - least`, whose odd factor is d, is a float16 number too: the scale
    is a power of two, at least 2**-24, times one of 1 to 2047 // d, so that both have 11 bits.

    >>> storable(np.array([0.1, 0.1]), np.array([0, 7]), 4, half=True).tolist()  # 8 and 15 steps
    [0.10003662109375, 0.1005859375]
    """
    if not half:
        return within_float32(scale, bits)
    steps = np.maximum(zero_point - grid(bits)[0], 1)
    most = 2047 // (steps // (steps & -steps))
    exact = np.maximum(scale, _FLOAT32.tiny).astype(np.float64)
    place = np.maximum(np.frexp(exact / most)[1] - 1, -24)
    place += np.ceil(np.ldexp(exact, -place)) > most
    made = np.ldexp(np.ceil(np.ldexp(exact, -place)), place)
    return np.asarray(np.minimum(made, 2.0**15), np.float32)


def least_squares(
    weight: Array, importance: Array | None, bits: int, scheme: Scheme, *,
    rate: float = 0.0, half: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
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
        half: the scales are float16 numbers; see `storable`.
    """
    low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)
    square = np.square(weight, dtype=np.float64) if rate else np.zeros(1)
    bit = rate * float((square if importance is None else square * importance).sum()) / max(weight.size, 1)

    def moved(factor: Array | float) -> tuple[Array, ...]:
        factor = np.broadcast_to(factor, low.shape)
        scale, zero_point = min_max(low * factor, high * factor, bits, scheme, half)
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
    scale = storable(best_scale(weight, importance, scale, zero_point, bits), zero_point, bits, half)
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
        first, offset = rows.start << bits, np.arange(len(steps))[:, None] << bits
        seen = np.bincount((steps.astype(np.int64) + offset).ravel())
        counts[first : first + len(seen)] += seen
    share = counts.reshape(units, -1) / max(length, 1)
    of_each = np.log2(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(-length * (share * of_each).sum(axis=1))


def squared_error(
    weight: Array, importance: Array | None, scale: Array, zero_point: Array, bits: int
) -> Array:
    """Return the (weighted) squared error of each unit, float64 `[units]`, summed in steps: no square overflows."""
    from featherweight.formats.kernels import missed_steps

    given = np.empty((len(weight), 0)) if importance is None else importance
    low, high = (np.asarray(end - zero_point, np.float32) for end in grid(bits))
    error = np.empty(len(weight))
    missed_steps(weight, given, scale, low, high, error)
    return np.asarray(error * np.square(scale, dtype=np.float64))


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
