"""Relative index: the number of zeros before each value, in a few bits, and the values."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec
from featherweight.formats.coders.bitmask import (
    Leaf,
    join,
    split,
    values_misfit,
    values_spec,
    with_zero,
    without_zero,
)
from featherweight.formats.coders.bits import read_varint, varint
from featherweight.formats.coders.fixed import Fixed


class Gaps(Coder, frozen=True, tag="gaps"):
    """Deep Compression's sparse storage; `Gaps(values=Huffman(), gaps=Huffman())` is the full method.

    A gap symbol below 2**bits - 1 is that many zeros and then a value. The last one, 2**bits - 1, is a
    filler: that many zeros and no value. (In the paper a filler carries a zero value;
    here it costs no value, and the values need no zero symbol.) Fewer than 2**bits - 1 zeros at the
    very end are not written.

    References: S. Han, H. Mao, W. J. Dally, "Deep Compression", ICLR 2016, arXiv 1510.00149, section 2,
    figure 2.

    Attributes:
        bits: width of a gap, 1 to 16; the paper takes 5 for LeNet and VGG, 4 for AlexNet.
        values: coder of the values; their alphabet lacks the zero symbol.
        gaps: coder of the gaps.
    """

    bits: Annotated[int, Meta(ge=1, le=16)] = 5
    values: Leaf = Fixed()
    gaps: Leaf = Fixed()

    def misfit(self, spec: StreamSpec) -> str:
        """Return why this coder cannot take such a stream, or an empty string if it can."""
        return values_misfit(self.values, spec)

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        at = np.flatnonzero(symbols != spec.zero)
        gaps = relative_index(at, spec.count, self.bits)
        values = without_zero(symbols[at], spec)
        coded = self.gaps.encode(gaps, self._gaps_spec(gaps.size))
        return varint(gaps.size) + join(coded, self.values.encode(values, values_spec(spec, at.size)))

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        count, start = read_varint(payload, 0)
        if count > spec.count:
            raise IntegrityError(
                "gaps", got=count, expected=f"at most {spec.count}, the symbols of the stream"
            )
        coded, values = split(payload, start)
        gaps = self.gaps.decode(coded, self._gaps_spec(count))
        at, covered = absolute_index(gaps, self.bits)
        if not 0 <= spec.count - covered < (1 << self.bits) - 1:
            raise IntegrityError("gaps", got=f"those of {covered} symbols", expected=f"{spec.count}")
        symbols = np.full(spec.count, spec.zero, spec.dtype)
        symbols[at] = with_zero(self.values.decode(values, values_spec(spec, at.size)), spec)
        return symbols

    def _gaps_spec(self, count: int) -> StreamSpec:
        return StreamSpec(count, 1 << self.bits, row_length=max(count, 1))


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
