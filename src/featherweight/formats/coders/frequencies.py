"""What Huffman and Rans share: a table of the symbols that occur and of their quantised counts, before the symbols."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, nothing, tag
from featherweight.formats.coders.bits import Bits, Fields, integers, integers_size, pack, read_integers

MOST_SYMBOLS = 1 << 16
MOST_TOTAL = 1 << 24


def misfit(spec: StreamSpec) -> str:
    """Return why a table cannot describe such a stream, or an empty string if it can."""
    reason = f"an alphabet of {spec.alphabet} symbols; a frequency table holds at most {MOST_SYMBOLS}"
    return reason if spec.alphabet > MOST_SYMBOLS else ""


@dataclass(frozen=True, eq=False)
class Frequencies:
    """What is known of a stream's statistics on both sides.

    `symbols: [distinct]` are those that occur, ascending; `counts: [distinct]`, at least 1 each, their sum at most
    2**24, are proportional to how often each occurs, as precisely as minimises total bits.
    """

    symbols: Array
    counts: Array

    @classmethod
    def of(cls, symbols: Array, spec: StreamSpec) -> Frequencies:
        """Return the table with which it and a stream, not empty, take the fewest bits together."""
        exact = np.bincount(symbols, minlength=spec.alphabet)
        present = np.flatnonzero(exact)
        exact = exact[present]
        best, least = exact, np.inf
        for shift in range(int(exact.max()).bit_length()):
            counts = np.maximum((exact + (1 << shift >> 1)) >> shift, 1)
            total = int(counts.sum())
            if total > MOST_TOTAL:
                continue
            size = integers_size(counts - 1) + float(exact @ -np.log2(counts / total))
            if size < least:
                best, least = counts, size
        return cls(present, best)

    @property
    def distinct(self) -> int:
        """Number of symbols that occur."""
        return int(self.symbols.size)

    def ranks(self, symbols: Array, spec: StreamSpec) -> Array:
        """Return each symbol's place in `self.symbols`, uint16."""
        table = np.zeros(spec.alphabet, np.uint16)
        table[self.symbols] = np.arange(self.distinct)
        return table[symbols]

    def fields(self) -> list[Fields]:
        """Return the table as lists: distinct - 1; gaps between symbols; counts - 1 if distinct > 1."""
        gaps = np.diff(self.symbols, prepend=-1) - 1
        lists = [np.array([self.distinct - 1]), gaps] + ([self.counts - 1] if self.distinct > 1 else [])
        return [integers(values) for values in lists]


def read_frequencies(bits: Bits, spec: StreamSpec) -> tuple[Frequencies, int]:
    """Return the table at the start of `bits`, and the position behind it.

    Raises:
        IntegrityError: what is there is no table of such a stream.
    """
    head, position = read_integers(bits, 0, 1)
    distinct = int(head[0]) + 1
    if distinct > min(spec.alphabet, spec.count):
        raise IntegrityError("frequency table", got=f"{distinct} symbols", expected=spec.alphabet)
    gaps, position = read_integers(bits, position, distinct)
    symbols = np.cumsum(gaps + 1) - 1
    if (last := int(symbols[-1])) >= spec.alphabet:
        raise IntegrityError("frequency table", got=f"symbol {last}", expected=f"below {spec.alphabet}")
    if distinct == 1:
        return Frequencies(symbols, np.ones(1, np.int64)), position
    counts, position = read_integers(bits, position, distinct)
    counts += 1
    if (total := int(counts.sum())) > MOST_TOTAL:
        raise IntegrityError("frequency table", got=f"a total of {total}", expected=f"{MOST_TOTAL} at most")
    return Frequencies(symbols, counts), position


class Static(Coder, frozen=True):
    """A coder of fixed statistics: a frequency table and then, of two distinct symbols or more, their ranks in it."""

    def misfit(self, spec: StreamSpec) -> str:
        """Return why this coder cannot take such a stream, or an empty string if it can."""
        return misfit(spec)

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        if spec.count == 0:
            return b""
        table = Frequencies.of(symbols, spec)
        if table.distinct == 1:
            return pack(*table.fields())
        return self._encode_ranks(table.ranks(symbols, spec), table)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        if spec.count == 0:
            return nothing(payload, spec)
        bits = Bits(payload)
        table, position = read_frequencies(bits, spec)
        if table.distinct == 1:
            if (position + 7) // 8 != len(payload):
                raise IntegrityError(f"coder {tag(self)}: bytes behind the end of the payload")
            return np.full(spec.count, table.symbols[0], spec.dtype)
        symbols: Array = table.symbols.astype(spec.dtype)[
            self._decode_ranks(bits, position, table, spec.count)
        ]
        return symbols

    def _encode_ranks(self, ranks: Array, table: Frequencies) -> bytes:
        """Return table and `ranks: [count]`, uint16."""
        raise NotImplementedError

    def _decode_ranks(self, bits: Bits, position: int, table: Frequencies, count: int) -> Array:
        """Return the ranks `[count]` that stand behind the table, from `position` on."""
        raise NotImplementedError
