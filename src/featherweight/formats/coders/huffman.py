"""Canonical Huffman coding of words of symbols, so that symbols may take less than a bit."""

from __future__ import annotations

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders import frequencies
from featherweight.formats.coders.base import Array, Coder, StreamSpec
from featherweight.formats.coders.bits import Bits, integers, pack, read_integers
from featherweight.formats.coders.canonical import LANE, Code
from featherweight.formats.coders.dictionary import MOST_LEAVES, Dictionary, grow
from featherweight.formats.coders.frequencies import Frequencies, read_frequencies

# The decoder spells about this many symbols at a time, to bound its memory.
_BLOCK = 1 << 18


class Huffman(Coder, frozen=True, tag="huffman"):
    """Tunstall's words under a canonical Huffman code; a plain Huffman code where the alphabet is large.

    Both sides grow the words and their code from the frequency table. The coded words are cut into lanes of
    512, whose lengths in bits are kept, so that decoding runs over all lanes at once.

    References: D. A. Huffman, "A method for the construction of minimum-redundancy codes", 1952; E. S.
    Schwartz and B. Kallick, "Generating a canonical prefix encoding", 1964.
    """

    def misfit(self, spec: StreamSpec) -> str:
        """Return why this coder cannot take such a stream, or an empty string if it can."""
        return frequencies.misfit(spec)

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        if spec.count == 0:
            return b""
        table = Frequencies.of(symbols, spec)
        if table.distinct == 1:
            return pack(*table.fields())
        from featherweight.formats.coders.kernels import parse

        dictionary = grow(table.counts, min(MOST_LEAVES, spec.count))
        words = parse(table.ranks(symbols, spec), dictionary.next_word)
        codes, widths = Code.of(dictionary.weights).fields(words)
        sizes = np.add.reduceat(widths, np.arange(0, words.size, LANE))[:-1]
        lanes = [np.array([sizes.size])] + (
            [sizes.min(keepdims=True), sizes - sizes.min()] if sizes.size else []
        )
        return pack(*table.fields(), *map(integers, lanes)) + pack((codes, widths))

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        if spec.count == 0:
            if payload:
                raise IntegrityError("bytes behind the end of an empty stream", got=len(payload), expected=0)
            return np.zeros(0, spec.dtype)
        bits = Bits(payload)
        table, position = read_frequencies(bits, spec)
        if table.distinct == 1:
            if (position + 7) // 8 != len(payload):
                raise IntegrityError("Huffman payload: bytes behind its end")
            return np.full(spec.count, table.symbols[0], spec.dtype)
        starts = _read_lanes(bits, position, spec.count)
        dictionary = grow(table.counts, min(MOST_LEAVES, spec.count))
        words, ends = Code.of(dictionary.weights).read(bits, starts)
        ranks, used = _spell(words, dictionary, spec.count)
        last = used - (starts.size - 1) * LANE
        if not 0 < last <= LANE or (ends[last - 1] + 7) // 8 != len(payload):
            raise IntegrityError(f"Huffman payload: its words do not make {spec.count} symbols")
        return table.symbols.astype(spec.dtype)[ranks]


def _read_lanes(bits: Bits, position: int, count: int) -> Array:
    """Return the bit positions `[lanes]` where lanes start; `position` is behind the frequency table."""
    further, position = read_integers(bits, position, 1)
    lanes = int(further[0]) + 1
    if (lanes - 1) * LANE > min(bits.size, count):
        raise IntegrityError("Huffman payload", got=f"{lanes} lanes", expected=f"fewer, for {count} symbols")
    sizes = np.zeros(0, np.int64)
    if lanes > 1:
        least, position = read_integers(bits, position, 1)
        sizes, position = read_integers(bits, position, lanes - 1)
        sizes += least
    starts = (position + 7) // 8 * 8 + np.cumsum(np.concatenate([np.zeros(1, np.int64), sizes]))
    if int(starts[-1]) > bits.size:
        raise IntegrityError("Huffman payload cut short")
    return starts


def _spell(words: Array, dictionary: Dictionary, count: int) -> tuple[Array, int]:
    """Return the `[count]` ranks that `words` spell, and how many words that takes.

    Raises:
        IntegrityError: they spell fewer.
    """
    flat, offsets, lengths = dictionary.spelled()
    ends = np.cumsum(lengths[words])
    used = int(np.searchsorted(ends, count)) + 1
    if used > words.size:
        raise IntegrityError(
            "Huffman payload cut short", got=f"{ends[-1] if ends.size else 0} symbols", expected=count
        )
    ranks = np.empty(count, np.uint16)
    cuts = np.searchsorted(ends[:used], np.arange(_BLOCK, count, _BLOCK))
    for block in np.split(np.arange(used), cuts):
        if block.size:
            first, size = block[0], lengths[words[block]]
            begin = int(ends[first] - size[0])
            index = np.arange(size.sum()) + np.repeat(
                offsets[words[block]] - ends[block] + size + begin, size
            )
            ranks[begin : begin + index.size] = flat[index[: count - begin]]
    return ranks, used
