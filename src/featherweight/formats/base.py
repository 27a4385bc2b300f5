"""The interface of formats: the numbers of one tensor to symbols and a few parts, and back; the result, `Encoded`.

`Scalar` is what formats share that write each number by itself, scaled by something that its unit has in common.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from featherweight.checked import check_fields
from featherweight.errors import ConfigError, IntegrityError, UnsupportedError
from featherweight.formats.coders import Coder, Fixed, StreamSpec, tag
from featherweight.formats.sweep import Uniform
from featherweight.formats.view import Array, Per, View, blocks, group_length, join, split

Parts = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Importance:
    """How much an error in each weight matters: by `diagonal`, 0 or more, `[rows, cols]` in the tensor's view."""

    diagonal: Array

    def __post_init__(self) -> None:
        """Refuse what cannot weight an error."""
        if not (np.isfinite(self.diagonal).all() and (self.diagonal >= 0).all()):
            raise ConfigError("importance holds negative values, NaN or infinity")


@dataclass(frozen=True)
class Part:
    """Type and shape of one of a format's parts, known before a byte is read.

    At most one dimension may be -1, free; `most` bounds it.
    """

    dtype: str
    shape: tuple[int, ...]
    most: int = 0

    @property
    def nbits(self) -> int:
        """Bits of the part; the most there can be where a dimension is free."""
        return 8 * np.dtype(self.dtype).itemsize * prod(n if n >= 0 else self.most for n in self.shape)

    def read(self, name: str, raw: bytes) -> Array:
        """Return `raw` as an array of this type and shape; refuse bytes that make none, or hold NaN or infinity."""
        known = prod(n for n in self.shape if n >= 0) * np.dtype(self.dtype).itemsize
        free = -1 in self.shape
        count = len(raw) // known if free and known else 0
        if len(raw) != (count * known if free else known) or (free and count > self.most):
            expected = f"{known} bytes" + (f" times at most {self.most}" if free else "")
            raise IntegrityError(f"part {name}", got=f"{len(raw)} bytes", expected=expected)
        array = np.frombuffer(raw, self.dtype).reshape([count if n < 0 else n for n in self.shape])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise IntegrityError(f"part {name} holds NaN or infinity")
        return array


class Format(msgspec.Struct, frozen=True, tag_field="format", forbid_unknown_fields=True):
    """How the numbers of one tensor are written: lossy, numbers to symbols.

    A subclass implements `fit` (what is chosen once for the tensor: scales, codebooks), `assign` (the best symbol of
    each number under these), `dequantize`, `parts` and `stream`. Laws, which `featherweight.testing.FormatSuite`
    checks: decoding is a function of the encoded bytes alone; exact zeros decode to exact zeros whenever the stream has
    a zero symbol; the decoded error never exceeds what the format states; every shape works.
    """

    def __post_init__(self) -> None:
        """Check every field against its annotation, in code as in a recipe."""
        check_fields(self, tag(self))

    def encode(
        self,
        weight: Array,
        *,
        view: View | None = None,
        importance: Importance | None = None,
        parts: Parts | None = None,
    ) -> Encoded:
        """Return `weight` in this format, at fixed rate; `Encoded.recoded` changes the coder.

        Args:
            weight: floating-point tensor of any shape.
            view: how it is a matrix; the default keeps axis 0.
            importance: what errors matter; formats that cannot use it ignore it.
            parts: scales, codebook and the like to keep (learned ones, say); by default fitted to the tensor.

        Raises:
            UnsupportedError: the tensor holds NaN, infinity or what float32 cannot, or is not of floating point.
        """
        weight = np.asarray(weight)
        view = view or View.of(weight.shape)
        if weight.dtype.kind != "f":
            raise UnsupportedError(f"format {tag(self)} takes floating-point tensors", got=str(weight.dtype))
        if weight.shape != view.shape:
            raise UnsupportedError("tensor and view differ", got=weight.shape, expected=view.shape)
        with np.errstate(over="ignore"):
            matrix = view.matrix(weight.astype(np.float32))
        if bad := matrix.size - np.count_nonzero(np.isfinite(matrix)):
            what, hint = "beyond the range of float32", "magnitudes up to 3.4e38 can be encoded"
            if undefined := np.count_nonzero(~np.isfinite(weight)):
                what, hint, bad = "NaN or infinity", "look for a diverged training run", undefined
            raise UnsupportedError(what, got=f"{bad} of {weight.size} values", hint=hint)
        if importance is not None and importance.diagonal.shape != matrix.shape:
            got = importance.diagonal.shape
            raise UnsupportedError("importance and tensor differ", got=got, expected=matrix.shape)
        with np.errstate(over="ignore", under="ignore"):
            if parts is None:
                parts = self.fit(matrix, view=view, importance=importance)
            symbols = self.assign(matrix, parts, view=view, importance=importance).reshape(-1)
        return Encoded(self, Fixed(), view, symbols.astype(self.stream(view, parts).dtype, copy=False), parts)

    def decode(self, encoded: Encoded) -> Array:
        """Return the tensor, float32, of `encoded.view.shape`.

        Raises:
            IntegrityError: the parts are not what `encode` writes, or make a number that is not finite.
        """
        with np.errstate(all="ignore"):
            matrix = self.dequantize(encoded.symbols, encoded.parts, view=encoded.view)
        if not np.isfinite(matrix).all():
            raise IntegrityError(f"format {tag(self)}: symbols and parts decode to NaN or infinity")
        return encoded.view.tensor(np.asarray(matrix, np.float32))

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return the parts for a finite float32 `matrix: [rows, cols]`."""
        raise NotImplementedError

    def assign(
        self, matrix: Array, parts: Parts, *, view: View, importance: Importance | None = None
    ) -> Array:
        """Return the symbols, as many as `stream` says, of a finite float32 `matrix` under given parts."""
        raise NotImplementedError

    def dequantize(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return the float32 matrix `[rows, cols]` of `symbols: [count]`.

        Raises:
            IntegrityError: the parts are not what `fit` makes.
        """
        raise NotImplementedError

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return for each of `symbols: [count]` the one whose value is next nearer zero, on the same side.

        A symbol with no such value stays. Rate-aware assignment chooses among what this gives.
        """
        raise UnsupportedError(f"format {tag(self)} does not say which of its values are neighbours")

    def refit(
        self, matrix: Array, symbols: Array, parts: Parts, *, view: View, importance: Importance | None
    ) -> Parts:
        """Return the parts of least squared error for fixed `symbols: [count]`; here: the same parts."""
        return parts

    @property
    def width(self) -> int:
        """Columns that are encoded jointly."""
        return 1

    def put(self, symbols: Array, columns: Array, found: Array, *, view: View) -> None:
        """Set in the `symbols: [count]` of a tensor those `found` for some of its columns.

        These are `width` neighbours, or a run of such blocks; the last block may be short.
        """
        symbols.reshape(view.rows, view.cols)[:, columns] = found.reshape(view.rows, len(columns))

    def columns(self, parts: Parts, view: View, columns: Array) -> tuple[Format, Parts, View]:
        """Return format, parts and view under which `columns: [k]` alone are assigned as they are in the whole."""
        return self, parts, View((view.rows, len(columns)), groups=view.groups)

    def uniform(self, parts: Parts, view: View) -> Uniform | None:
        """Return the uniform grid of each number, if that is what they are rounded to, one by one."""
        return None

    def parts(self, view: View) -> dict[str, Part]:
        """Return what the format stores beside its symbols: name to type and shape."""
        raise NotImplementedError

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return count, alphabet, zero symbol and row length of the symbol stream."""
        raise NotImplementedError

    def nbits(self, shape: tuple[int, ...]) -> float:
        """Return the bits of a tensor of `shape` that keeps axis 0, at fixed rate, parts included: exact or a bound."""
        view = View.of(shape)
        spec = self.stream(view, {})
        return spec.count * spec.bits + sum(part.nbits for part in self.parts(view).values())


@dataclass(frozen=True, eq=False)
class Encoded:
    """One tensor in a format: what is evaluated and what is written to the file.

    Attributes:
        format: how numbers become symbols.
        coder: how symbols become bytes.
        view: how the tensor is a matrix.
        symbols: `[count]`, unsigned integers.
        parts: the format's own arrays (scale, zero point, codebook), as `format.parts` lays them out.
    """

    format: Format
    coder: Coder
    view: View
    symbols: Array
    parts: Parts

    @property
    def spec(self) -> StreamSpec:
        """What is known of the stream before it is read."""
        return self.format.stream(self.view, self.parts)

    @property
    def payload(self) -> bytes:
        """The coded symbols; kept once they are computed, but at fixed rate, where packing them again is quick."""
        return self._packed() if isinstance(self.coder, Fixed) else self._coded

    @cached_property
    def _coded(self) -> bytes:
        return self._packed()

    def _packed(self) -> bytes:
        return self.coder.encode(self.symbols, self.spec)

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of symbols and parts, the parts in the order of their names."""
        digest = hashlib.sha256(np.ascontiguousarray(self.symbols).data)
        for name in sorted(self.parts):
            digest.update(np.ascontiguousarray(self.parts[name]).data)
        return digest.digest()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in a file: coded symbols and parts; its line in the index is not counted."""
        fixed, spec = isinstance(self.coder, Fixed), self.spec
        payload = (spec.count * spec.bits + 7) // 8 if fixed else len(self.payload)
        return payload + sum(part.nbytes for part in self.parts.values())

    def decode(self) -> Array:
        """Return the tensor, float32."""
        return self.format.decode(self)

    def recoded(self, coder: Coder) -> Encoded:
        """Return the same symbols under another coder; the numbers stay the same, bit for bit."""
        return dataclasses.replace(self, coder=coder)


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
        return self.per  # type: ignore[no-any-return]

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
        groups = columns // group_length(view, self.per)
        narrow = {name: part[:, groups] for name, part in parts.items()}
        return msgspec.structs.replace(self, per=1), narrow, View((view.rows, len(columns)))

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: `2**symbol_bits` symbols, 0 is zero."""
        return StreamSpec(view.size, 1 << self.symbol_bits, zero=0, row_length=view.cols)
