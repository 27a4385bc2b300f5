"""Coders of fixed statistics: a table of the symbols that occur and of their quantised counts, and rANS behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, nothing, tag
from featherweight.formats.coders.bits import Bits, Fields, integers, integers_size, pack, read_integers

MOST_SYMBOLS = 1 << 16
MOST_TOTAL = 1 << 24
PRECISION = 24

# The state that rANS starts from and decoding ends at. It is no smaller than any weight, so that every symbol makes it
# grow; from 0, a run of the first symbol would cost nothing.
SEED = 1 << PRECISION


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

    def ranks(self, symbols: Array, spec: StreamSpec) -> Array:
        """Return each symbol's place in `self.symbols`, uint16."""
        table = np.zeros(spec.alphabet, np.uint16)
        table[self.symbols] = np.arange(self.symbols.size)
        return table[symbols]

    def fields(self) -> list[Fields]:
        """Return the table as lists: distinct - 1; gaps between symbols; counts - 1 if distinct > 1."""
        gaps = np.diff(self.symbols, prepend=-1) - 1
        lists = [np.array([self.symbols.size - 1]), gaps, self.counts - 1]
        return [integers(values) for values in lists[: 3 if self.symbols.size > 1 else 2]]


def read_frequencies(bits: Bits, spec: StreamSpec) -> tuple[Frequencies, int]:
    """Return the table at the start of `bits` and the position behind it; refuse a table of another stream."""
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
        if table.symbols.size == 1:
            return pack(*table.fields())
        return self._encode_ranks(table.ranks(symbols, spec), table)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        if spec.count == 0:
            return nothing(payload, spec)
        bits = Bits(payload)
        table, position = read_frequencies(bits, spec)
        if table.symbols.size == 1:
            if (position + 7) // 8 != len(payload):
                raise IntegrityError(f"coder {tag(self)}: bytes behind the end of the payload")
            return np.full(spec.count, table.symbols[0], spec.dtype)
        ranks = self._decode_ranks(bits, position, table, spec.count)
        return np.asarray(table.symbols.astype(spec.dtype)[ranks])

    def _encode_ranks(self, ranks: Array, table: Frequencies) -> bytes:
        """Return table and `ranks: [count]`, uint16."""
        raise NotImplementedError

    def _decode_ranks(self, bits: Bits, position: int, table: Frequencies, count: int) -> Array:
        """Return the ranks `[count]` that stand behind the table, from `position` on."""
        raise NotImplementedError


class Rans(Static, frozen=True, tag="rans"):
    """Static rANS with a 64-bit state and 32-bit words, by the `constriction` library.

    References: J. Duda, "Asymmetric numeral systems", 2013, arXiv 1311.2540; R. Bamler, "Understanding
    entropy coding with asymmetric numeral systems", 2022, arXiv 2201.01741.
    """

    def _encode_ranks(self, ranks: Array, table: Frequencies) -> bytes:
        coder = _ans([SEED])
        coder.encode_reverse(ranks.astype(np.int32), _model(table.counts))
        words: bytes = coder.get_compressed().astype("<u4").tobytes()
        return pack(*table.fields()) + words.rstrip(b"\0")

    def _decode_ranks(self, bits: Bits, position: int, table: Frequencies, count: int) -> Array:
        body, least = bits.payload[(position + 7) // 8 :], least_bits(table.counts, count)
        if body.endswith(b"\0"):
            raise IntegrityError("rANS payload: bytes behind its end")
        if least > 8 * len(body):
            got, expected = f"{8 * len(body)} bits", f"at least {least:.0f}"
            raise IntegrityError(f"rANS payload too short for {count} symbols", got=got, expected=expected)
        coder = _ans(np.frombuffer(body + bytes(-len(body) % 4), "<u4"))
        ranks: Array = coder.decode(_model(table.counts), count)
        if coder.get_compressed().tolist() != [SEED]:
            raise IntegrityError("rANS payload: its state does not end where encoding starts")
        return ranks


def least_bits(counts: Array, count: int) -> float:
    """Return fewer bits than any `count` symbols of a table of `counts: [distinct]` can be coded in.

    A symbol of weight w costs log2(2**24 / w) bits. With q = state / w, rounded down, integers make it
    cheaper by a factor q / (q + 1) at most: q is at least 256 once a word is out, and what is cheaper before
    comes to under 6 bits, for which the 24 of the seed are more than enough.
    """
    return count * (PRECISION - math.log2(int(weights(counts).max()))) * 128 / 129


def weights(counts: Array) -> Array:
    """Return integers of at least 1, sum 2**24, in proportion to `counts: [distinct]`.

    With C the running sums of the counts and T their total, the running sums of the weights are floor(C * 2**24 / T).
    """
    sums: Array = np.cumsum(counts, dtype=np.int64)
    return np.asarray(np.diff((sums << PRECISION) // int(sums[-1]), prepend=0))


def _model(counts: Array) -> Any:
    """Return the library's model with exactly these weights.

    For float probabilities p of n symbols it takes the running weights floor(P * (2**24 - n) / sum(p)) + i, with P the
    sum of the i probabilities before; from p = weight - 1, all in integers, come the weights themselves.
    """
    return constriction.stream.model.Categorical((weights(counts) - 1).astype(np.float64), perfect=False)


def _ans(words: ArrayLike) -> Any:
    return constriction.stream.stack.AnsCoder(np.asarray(words, np.uint32))
