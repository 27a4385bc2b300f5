"""Sums of a few numbers with signs: a basis for each unit of a tensor, and for each weight the signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import numpy as np
from msgspec import Meta

from featherweight.formats.base import Encoded, Importance, Part, Parts, Scalar
from featherweight.formats.clustered import boundaries
from featherweight.formats.coders import StreamSpec
from featherweight.formats.integer import Int
from featherweight.formats.view import Array, Per, View, group_length, join, split, units_shape

ROUNDS = 200
RIDGE = 1e-9  # of the weights of a unit: holds what codes that never occur leave open
STARTS = tuple(2.0 ** (-k / 4) for k in range(17))  # of the greatest magnitude, for the greatest level
_MOST = float(np.finfo(np.float32).max) * (1 - 2.0**-20)


class Basis(Scalar, frozen=True, tag="basis"):
    """`w = sum_j v_j b_j`, each `b_j` -1 or +1: a basis `v: [units, bits]` and `bits` binary codes a weight.

    The `2**bits` levels come in pairs of opposite sign; 0 is not one of them as a rule. A product with such weights is
    `bits` sums of signs. Encoding fits the basis by QEM: the nearest level of each weight and the basis of least
    (weighted) squared error for these codes in turns, from a uniform grid. No turn makes the error greater; it ends in
    a local optimum. One bit is `mean|w|` and the sign.

    Levels are summed in float64 and rounded to float32 once. A *geometric* basis, `v_j = 2**j v_0`, is a uniform grid
    without zero, and decodes to an odd integer times `v_0`, exactly: `as_integers` writes it so.

    >>> encoded = Basis(bits=2).encode(np.array([-0.875, 0.125, 0.875, 0.125], np.float32))
    >>> encoded.parts["basis"].round(6).tolist(), encoded.symbols.tolist()
    ([[0.375, 0.5]], [0, 2, 3, 2])

    References: Zhang, Yang, Ye, Hua, LQ-Nets: learned quantization for highly accurate and compact deep neural
    networks, 2018, arXiv 1807.10029 (QEM).

    Attributes:
        bits: 1 to 8, of each weight, and numbers of a basis.
        per: what shares a basis: the tensor, a channel, or so many neighbours in a row.
    """

    bits: Annotated[int, Meta(ge=1, le=8)] = 2
    per: Per = "channel"

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return `basis`, each ascending and not negative."""
        if importance is None and isinstance(self.per, int) and view.cols % group_length(view, self.per):
            importance = Importance(
                np.ones(matrix.shape)
            )  # so that what fills the last groups counts nothing
        return super().fit(matrix, view=view, importance=importance)

    def fit_units(self, units: Array, importance: Array | None) -> Mapping[str, Array]:
        """Return `basis`, float32 `[units, bits]`."""
        return {"basis": fitted(units, importance, self.bits)}

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return the levels by code, `[units, 2**bits]`, and the codes in order of their levels, likewise."""
        found = levels(parts["basis"].reshape(-1, self.bits))
        return found, np.argsort(found, axis=1, kind="stable").astype(np.uint8)

    def nearest(self, numbers: Array, *columns: Array) -> Array:
        """Return the code of the nearest level, ties to the smaller."""
        found, order = columns
        rank = np.zeros(numbers.shape, np.uint8)
        for limit in boundaries(np.take_along_axis(found, order, axis=1)).T:
            rank += numbers > limit[:, None]
        return np.take_along_axis(order, rank, axis=1)

    def values(self, symbols: Array, *columns: Array) -> Array:
        """Return the level of each code."""
        return np.take_along_axis(columns[0], symbols, axis=1)

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return the codes of the next levels between each level and zero."""
        found, order = self.columns_of(parts)
        rising = np.take_along_axis(found, order, axis=1)
        inward = np.arange(rising.shape[1]) - np.sign(rising).astype(int)
        inside = np.clip(inward, 0, rising.shape[1] - 1)
        next_level = np.take_along_axis(rising, inside, axis=1)
        stays = (np.abs(next_level) >= np.abs(rising)) | (next_level * np.sign(rising) < 0)
        lower = np.empty(order.shape, np.uint8)
        nearer = np.where(stays, order, np.take_along_axis(order, inside, axis=1))
        np.put_along_axis(lower, order, nearer, axis=1)
        units = split(symbols.reshape(view.rows, view.cols), view, self.per)
        return join(np.take_along_axis(lower, units, axis=1), view, self.per).reshape(-1)

    def refit(
        self, matrix: Array, symbols: Array, parts: Parts, *, view: View, importance: Importance | None
    ) -> Parts:
        """Return the basis of least (weighted) squared error for these codes."""
        basis, weights = parts["basis"], None if importance is None else importance.diagonal
        mass, moment = self.sums(matrix, symbols, view=view, weights=weights)
        ridge = RIDGE * np.maximum(mass.sum(axis=1), np.finfo(np.float32).tiny)
        found = least_squares(mass, moment, basis.reshape(-1, self.bits).astype(np.float64), ridge)
        return {"basis": found.astype(np.float32).reshape(basis.shape)}

    def sums(
        self, matrix: Array, symbols: Array, *, view: View, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Return how many numbers of each unit have each code, and their sums, float64 `[units, 2**bits]`."""
        heavy = np.ones(matrix.shape) if weights is None else weights
        masses, numbers = (split(part, view, self.per) for part in (heavy, matrix))
        codes = split(symbols.reshape(view.rows, view.cols), view, self.per)
        places, count = codes + (np.arange(len(codes)) << self.bits)[:, None], len(codes) << self.bits
        found = (np.bincount(places.ravel(), part.ravel(), count) for part in (masses, masses * numbers))
        mass, moment = (part.reshape(len(codes), -1) for part in found)
        return mass, moment

    def parts(self, view: View) -> dict[str, Part]:
        """Return `basis`, float32, `bits` numbers a unit."""
        return {"basis": Part("<f4", (*units_shape(view, self.per), self.bits))}

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: `2**bits` symbols, bit j of each set where `b_j` is +1; none is zero."""
        return StreamSpec(view.size, 1 << self.bits, row_length=view.cols)


def levels(basis: Array, low: int = -1) -> Array:
    """Return the sum `basis[j] b_j` of every code, float32 `[..., 2**k]`: bit j of a code is set where `b_j` is 1.

    Args:
        basis: float32 `[..., k]`.
        low: what `b_j` is where it is not 1, -1 or 0.

    >>> levels(np.array([1, 2], np.float32)).tolist(), levels(np.array([1, 2], np.float32), low=0).tolist()
    ([-3.0, -1.0, 1.0, 3.0], [0.0, 1.0, 2.0, 3.0])
    """
    total = np.zeros((*basis.shape[:-1], 1))
    for j in range(basis.shape[-1]):
        one = basis[..., j : j + 1].astype(np.float64)
        total = np.concatenate([total + low * one, total + one], axis=-1)
    with np.errstate(over="ignore"):
        return total.astype(np.float32)


def signs(bits: int, low: int = -1) -> Array:
    """Return `b_j` of every code, float64 `[2**bits, bits]`.

    >>> signs(2).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    ones = np.arange(1 << bits)[:, None] >> np.arange(bits) & 1
    return np.where(ones, 1.0, low)


def least_squares(mass: Array, moment: Array, basis: Array, ridge: Array | float, low: int = -1) -> Array:
    """Return the basis of least squared error for given codes, `v = (B'B + ridge I)^-1 (B'x + ridge basis)`.

    With the ridge it is the least of the error plus `ridge |v - basis|**2`, so the error is not above that of `basis`.

    Args:
        mass: how many numbers have each code, or the sums of their weights, float64 `[units, 2**k]`.
        moment: the (weighted) sums of these numbers, likewise.
        basis: the one before, float64 `[units, k]`.
        ridge: positive; of each unit, `[units]`, or of all.
        low: what a bit that is not set stands for, -1 or 0.

    References: Zhang et al., LQ-Nets, 2018 (the second step of QEM; the ridge is that of the authors' code).
    """
    b, ridge = signs(basis.shape[-1], low), np.broadcast_to(ridge, len(basis))
    gram = (mass @ (b[:, :, None] * b[:, None, :]).reshape(len(b), -1)).reshape(-1, b.shape[1], b.shape[1])
    target = moment @ b + ridge[:, None] * basis
    return np.asarray(
        np.linalg.solve(gram + ridge[:, None, None] * np.eye(b.shape[1]), target[..., None])[..., 0]
    )


def fitted(units: Array, importance: Array | None, bits: int) -> Array:
    """Return a basis of each unit that QEM ends in, float32 `[units, bits]`, ascending and not negative.

    Rounding to the nearest level is a cut of the sorted numbers: the sums of a code are differences of prefix sums, and
    a turn costs one binary search a level.

    Args:
        units: float32 `[units, length]`.
        importance: weight of each squared error, likewise; None: 1 each.
        bits: numbers of a basis.
    """
    order = np.argsort(units, axis=1, kind="stable")
    values = np.take_along_axis(units, order, axis=1).astype(np.float64)
    weights = np.ones((1, 1)) if importance is None else np.take_along_axis(importance, order, axis=1)
    mass, moment = _prefix(np.broadcast_to(weights, values.shape)), _prefix(values * weights)
    del order, weights
    total = mass[:, -1]
    ridge = RIDGE * np.where(total > 0, total, 1.0)
    greatest = np.maximum(-values.min(axis=1, initial=0), values.max(axis=1, initial=0))
    grid = (greatest / ((1 << bits) - 1))[:, None] * 2.0 ** np.arange(bits)
    b = signs(bits)

    def cut(basis: Array, some: Array) -> tuple[Array, Array, Array]:
        """Return where the codes of some units begin in their sorted numbers; their masses and moments, by code."""
        found = basis @ b.T
        codes = np.argsort(found, axis=1, kind="stable")
        rising = np.take_along_axis(found, codes, axis=1)
        inner = _up_to(values[some], (rising[:, 1:] + rising[:, :-1]) / 2)
        edges = np.pad(inner, [(0, 0), (1, 1)])
        edges[:, -1] = values.shape[1]
        masses, moments = np.empty((2, *found.shape))
        for prefix, by_code in ((mass, masses), (moment, moments)):
            np.put_along_axis(
                by_code, codes, np.diff(np.take_along_axis(prefix[some], edges, axis=1)), axis=1
            )
        return np.concatenate([inner, codes], axis=1), masses, moments

    every = np.arange(len(units))
    best, least = grid, np.full(len(units), np.inf)
    for factor in STARTS:
        basis = grid * factor
        _, masses, moments = cut(basis, every)
        found = basis @ b.T
        error = (masses * found * found - 2 * moments * found).sum(axis=1)  # and the squares, which stay
        best, least = np.where((error < least)[:, None], basis, best), np.minimum(error, least)
    basis, moving = best.copy(), every
    before, masses, moments = cut(basis, moving)
    for _ in range(ROUNDS):
        if not moving.size:
            break
        basis[moving] = least_squares(masses, moments, basis[moving], ridge[moving])
        after, masses, moments = cut(basis[moving], moving)
        still = (after != before).any(axis=1)
        moving, before, masses, moments = moving[still], after[still], masses[still], moments[still]
    made = np.sort(np.abs(basis), axis=1)
    return np.asarray(
        made * np.minimum(_MOST / np.maximum(made.sum(axis=1, keepdims=True), 1.0), 1.0), np.float32
    )


def _prefix(terms: Array) -> Array:
    """Return the sums of the first 0, 1, ... n numbers of each row, float64 `[rows, n + 1]`."""
    sums = np.zeros((len(terms), terms.shape[1] + 1))
    np.cumsum(terms, axis=1, out=sums[:, 1:])
    return sums


def _up_to(values: Array, limits: Array) -> Array:
    """Return how many of the rising `values: [rows, n]` are at most each of `limits: [rows, k]`, by row."""
    found = np.zeros(limits.shape, int)
    for bit in reversed(range(values.shape[1].bit_length())):
        probe = found + (1 << bit)
        inside = probe <= values.shape[1]
        last = np.take_along_axis(values, np.where(inside, probe, 1) - 1, axis=1)
        found = np.where(inside & (last <= limits), probe, found)
    return found


def is_geometric(encoded: Encoded) -> bool:
    """Return whether a tensor in `Basis` has a basis `v_j = 2**j v_0`, `v_0` positive, in every unit."""
    basis = encoded.parts["basis"].astype(np.float64)
    first = basis[..., :1]
    return bool((first > 0).all() and (basis == first * 2.0 ** np.arange(basis.shape[-1])).all())


def as_integers(encoded: Encoded) -> Encoded:
    """Return a tensor in a geometric `Basis` as `Int` of one bit more, the same numbers bit for bit; others stay.

    >>> weight = np.array([-3, -1, 1, 3], np.float32)
    >>> found = as_integers(Basis(bits=2).encode(weight, parts={"basis": np.array([[1, 2]], np.float32)}))
    >>> found.format.bits, found.symbols.tolist(), found.decode().tolist()
    (3, [5, 7, 1, 3], [-3.0, -1.0, 1.0, 3.0])
    """
    format = encoded.format
    if not isinstance(format, Basis) or not is_geometric(encoded):
        return encoded
    most, made = (1 << format.bits) - 1, Int(bits=format.bits + 1, per=format.per)
    symbols = (2 * encoded.symbols.astype(np.int16) - most) & (2 * most + 1)
    kind, scale = made.stream(encoded.view, {}).dtype, encoded.parts["basis"][..., 0]
    return replace(encoded, format=made, symbols=symbols.astype(kind), parts={"scale": scale})
