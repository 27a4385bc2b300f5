"""Zeros apart from values: where the values are, by a bit a symbol or by the gaps between them, and the values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec
from featherweight.formats.coders.bits import Fixed, read_varint, varint
from featherweight.formats.coders.cabac import Cabac
from featherweight.formats.coders.huffman import Huffman
from featherweight.formats.coders.static import Rans
from featherweight.formats.coders.zstd import Zstd

Leaf = Fixed | Huffman | Rans | Zstd | Cabac
"""Coders that other coders may hold."""


class Sparse(Coder, frozen=True):
    """A coder with a field `values`: the coder of what is not zero, whose alphabet lacks the zero symbol."""

    if TYPE_CHECKING:

        @property
        def values(self) -> Leaf:
            """A field of subclasses."""

    def misfit(self, spec: StreamSpec) -> str:
        """Return why this coder cannot take such a stream, or an empty string if it can."""
        if spec.zero is None:
            return "no symbol means zero"
        return self.values.misfit(_list_spec(spec.count, spec.alphabet - 1))

    def _joined(self, where: bytes, symbols: Array, at: Array, spec: StreamSpec) -> bytes:
        """Return the length of `where`, itself, and the coded values, which are `at` some places or under a mask."""
        values = symbols[at]
        values -= (values > spec.zero).astype(spec.dtype)
        coded = self.values.encode(values, _list_spec(values.size, spec.alphabet - 1))
        return varint(len(where)) + where + coded

    def _placed(self, payload: bytes, at: Array, count: int, spec: StreamSpec) -> Array:
        """Return the symbols of a stream whose `count` values have the given `payload` and places."""
        values = self.values.decode(payload, _list_spec(count, spec.alphabet - 1)).astype(spec.dtype)
        symbols = np.full(spec.count, spec.zero, spec.dtype)
        symbols[at] = values + (values >= spec.zero).astype(spec.dtype)
        return symbols


class Bitmask(Sparse, frozen=True, tag="bitmask"):
    """The mask (1: not zero) by one coder, the values that are not zero by another.

    Attributes:
        values: coder of the values.
        mask: coder of the mask.
    """

    values: Leaf = Fixed()
    mask: Leaf = Fixed()

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        nonzero = symbols != spec.zero
        mask = self.mask.encode(nonzero, replace(spec, alphabet=2, zero=0))
        return self._joined(mask, symbols, nonzero, spec)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        mask, values = _split(payload, 0)
        nonzero = self.mask.decode(mask, replace(spec, alphabet=2, zero=0)).astype(bool)
        return self._placed(values, nonzero, int(np.count_nonzero(nonzero)), spec)


class Gaps(Sparse, frozen=True, tag="gaps"):
    """Deep Compression's sparse storage; `Gaps(values=Huffman(), gaps=Huffman())` is the full method.

    A gap symbol below 2**bits - 1 is that many zeros and then a value. The last one, 2**bits - 1, is a filler: that
    many zeros and no value (in the paper, a zero value). Fewer than 2**bits - 1 zeros at the very end are not written.

    References: S. Han, H. Mao, W. J. Dally, "Deep Compression", ICLR 2016, arXiv 1510.00149, section 2, figure 2.

    Attributes:
        bits: width of a gap, 1 to 16; the paper takes 5 for LeNet and VGG, 4 for AlexNet.
        values: coder of the values.
        gaps: coder of the gaps.
    """

    bits: Annotated[int, Meta(ge=1, le=16)] = 5
    values: Leaf = Fixed()
    gaps: Leaf = Fixed()

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        at = np.flatnonzero(symbols != spec.zero)
        gaps = relative_index(at, spec.count, self.bits)
        coded = self.gaps.encode(gaps, _list_spec(gaps.size, 1 << self.bits))
        return varint(gaps.size) + self._joined(coded, symbols, at, spec)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        count, start = read_varint(payload, 0)
        if count > spec.count:
            raise IntegrityError("gaps", got=count, expected=f"at most {spec.count}, one a symbol")
        coded, values = _split(payload, start)
        gaps = self.gaps.decode(coded, _list_spec(count, 1 << self.bits))
        at, covered = absolute_index(gaps, self.bits)
        if not 0 <= spec.count - covered < (1 << self.bits) - 1:
            raise IntegrityError("gaps", got=f"those of {covered} symbols", expected=f"{spec.count}")
        return self._placed(values, at, at.size, spec)


def relative_index(at: Array, count: int, bits: int) -> Array:
    """Return the gap symbols of `count` symbols whose values are at `at: [n]`, ascending.

    >>> relative_index(np.array([2, 3, 11]), 16, bits=2)  # 7 zeros are two fillers of 3, and 1 more
    array([2, 0, 3, 3, 1, 3])
    """
    filler = (1 << bits) - 1
    zeros = np.diff(at, prepend=-1, append=count) - 1
    ends = np.cumsum(zeros // filler + 1)
    gaps = np.full(int(ends[-1]), filler)
    gaps[ends - 1] = zeros % filler
    return gaps[:-1]


def absolute_index(gaps: Array, bits: int) -> tuple[Array, int]:
    """Undo `relative_index`: return where the values are, and how many symbols the gaps account for."""
    is_value = gaps != (1 << bits) - 1
    ends = np.cumsum(gaps + is_value, dtype=np.int64)
    return ends[is_value] - 1, int(ends[-1]) if ends.size else 0


def _list_spec(count: int, alphabet: int) -> StreamSpec:
    """Return what is known of symbols in one row, none of which means zero: values that are not, or gaps."""
    return StreamSpec(count, alphabet, row_length=max(count, 1))


def _split(payload: bytes, start: int) -> tuple[bytes, bytes]:
    """Return what follows a length at byte `start`, and the rest; refuse a payload that ends too early."""
    size, start = read_varint(payload, start)
    if (left := len(payload) - start) < size:
        raise IntegrityError("payload cut short", got=f"{left} bytes", expected=f"at least {size}")
    return payload[start : start + size], payload[start + size :]
