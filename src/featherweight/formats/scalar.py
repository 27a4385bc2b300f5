"""What formats share that write each number by itself, scaled by something that its unit has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from featherweight.formats.base import Array, Format, Importance, Parts
from featherweight.formats.coders import StreamSpec
from featherweight.formats.view import Per, View, blocks, join, narrowed, split


class Scalar(Format, frozen=True):
    """One symbol a number, 0 for zero; parts hold one entry a unit: a tensor, a channel or a group.

    A subclass has fields `per` and `bits` (or its own `unit` and `symbol_bits`), and implements `parts`, `fit_units`,
    `columns_of`, `nearest` and `values`.
    """

    if TYPE_CHECKING:

        @property
        def per(self) -> Any:
            """A field of subclasses."""

        @property
        def bits(self) -> int:
            """A field of subclasses."""

    @property
    def unit(self) -> Per:
        """What shares an entry of the parts."""
        unit: Per = self.per
        return unit

    @property
    def symbol_bits(self) -> int:
        """Bits of a symbol at fixed rate."""
        return self.bits

    def fit_units(self, units: Array, importance: Array | None) -> Mapping[str, Array]:
        """Return the parts, one entry each of `units: [units, length]`; `importance` has the shape of the units."""
        raise NotImplementedError

    def columns_of(self, parts: Parts) -> tuple[Array, ...]:
        """Return what `nearest` and `values` need of the parts, `[units, 1]` each; refuse what `fit` never makes."""
        raise NotImplementedError

    def nearest(self, numbers: Array, *columns: Array) -> Array:
        """Return the symbols of some of the numbers of some units, `[k, n]`."""
        raise NotImplementedError

    def values(self, symbols: Array, *columns: Array) -> Array:
        """Return the numbers of some of the symbols of some units, `[k, n]`."""
        raise NotImplementedError

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return the parts, one entry a unit."""
        layout = self.parts(view)
        if not layout:
            return {}
        diagonal = None if importance is None else split(importance.diagonal, view, self.unit)
        found = self.fit_units(split(matrix, view, self.unit), diagonal)
        return {name: found[name].astype(part.dtype).reshape(part.shape) for name, part in layout.items()}

    def assign(
        self, matrix: Array, parts: Parts, *, view: View, importance: Importance | None = None
    ) -> Array:
        """Return the symbol of the nearest value of each number."""
        units, columns = split(matrix, view, self.unit), self.columns_of(parts)
        symbols = np.empty(units.shape, self.stream(view, parts).dtype)
        for rows, cols in blocks(units.shape):
            symbols[rows, cols] = self.nearest(units[rows, cols], *(column[rows] for column in columns))
        return join(symbols, view, self.unit)

    def dequantize(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return the value of each symbol."""
        units = split(symbols.reshape(view.rows, view.cols), view, self.unit)
        columns = self.columns_of(parts)
        if not columns:
            return join(self.values(units), view, self.unit)
        numbers = np.empty(units.shape, np.float32)
        for rows, cols in blocks(units.shape):
            numbers[rows, cols] = self.values(units[rows, cols], *(column[rows] for column in columns))
        return join(numbers, view, self.unit)

    def columns(self, parts: Parts, view: View, columns: Array) -> tuple[Format, Parts, View]:
        """Return what assigns `columns: [k]` alone: of groups, each column is one."""
        if not isinstance(self.per, int):
            return super().columns(parts, view, columns)
        return replace(self, per=1), narrowed(parts, view, self.per, columns), View((view.rows, len(columns)))

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: `2**symbol_bits` symbols, 0 is zero."""
        return StreamSpec(view.size, 1 << self.symbol_bits, zero=0, row_length=view.cols)
