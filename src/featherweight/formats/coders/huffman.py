"""Canonical Huffman coding of words of symbols, so that symbols may take less than a bit: words, their code, lanes."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array
from featherweight.formats.coders.bits import Bits, integers, pack, read_integers
from featherweight.formats.coders.static import Frequencies, Static

LANE = 512  # words in a lane; lanes follow one another in the bits and are decoded in parallel
MOST_LEAVES = 1 << 12
_LONGEST = 31
_ROOT_WEIGHT = 1 << 38
_WEIGHT_SHIFT = 18
_BLOCK = 1 << 18  # about so many symbols are spelled at a time, which bounds the memory of decoding


class Huffman(Static, frozen=True, tag="huffman"):
    """Tunstall's words under a canonical Huffman code; a plain Huffman code where the alphabet is large.

    Both sides grow the words and their code from the frequency table. The coded words are cut into lanes of
    512, whose lengths in bits are kept, so that decoding runs over all lanes at once.

    References: D. A. Huffman, "A method for the construction of minimum-redundancy codes", 1952; E. S.
    Schwartz and B. Kallick, "Generating a canonical prefix encoding", 1964.
    """

    def _encode_ranks(self, ranks: Array, table: Frequencies) -> bytes:
        from featherweight.formats.coders.kernels import parse

        dictionary = grow(table.counts, min(MOST_LEAVES, ranks.size))
        following = np.zeros(dictionary.weights.size, np.int64)
        following[dictionary.parents[1:]] = np.arange(1, dictionary.parents.size) * dictionary.distinct
        words = parse(ranks, following)
        codes, widths = Code.of(dictionary.weights).fields(words)
        sizes = np.add.reduceat(widths, np.arange(0, words.size, LANE))[:-1]
        lanes = [np.array([sizes.size])]
        if sizes.size:
            lanes += [sizes.min(keepdims=True), sizes - sizes.min()]
        return pack(*table.fields(), *map(integers, lanes)) + pack((codes, widths))

    def _decode_ranks(self, bits: Bits, position: int, table: Frequencies, count: int) -> Array:
        starts = _read_lanes(bits, position, count)
        dictionary = grow(table.counts, min(MOST_LEAVES, count))
        words, ends = Code.of(dictionary.weights).read(bits, starts)
        ranks, used = _spell(words, dictionary, count)
        last = used - (starts.size - 1) * LANE
        if not 0 < last <= LANE or (ends[last - 1] + 7) // 8 != len(bits.payload):
            raise IntegrityError(f"Huffman payload: its words do not make {count} symbols")
        return ranks


def _read_lanes(bits: Bits, position: int, count: int) -> Array:
    """Return the bit positions `[lanes]` where lanes start; `position` is behind the frequency table."""
    further, position = read_integers(bits, position, 1)
    lanes, sizes = int(further[0]) + 1, np.zeros(0, np.int64)
    if (lanes - 1) * LANE > min(bits.size, count):
        raise IntegrityError("Huffman payload", got=f"{lanes} lanes", expected=f"fewer, for {count} symbols")
    if lanes > 1:
        least, position = read_integers(bits, position, 1)
        sizes, position = read_integers(bits, position, lanes - 1)
        sizes += least
    starts = (position + 7) // 8 * 8 + np.append(0, np.cumsum(sizes))
    if int(starts[-1]) > bits.size:
        raise IntegrityError("Huffman payload cut short")
    return starts


def _spell(words: Array, dictionary: Dictionary, count: int) -> tuple[Array, int]:
    """Return the `[count]` ranks that `words` spell, and how many words that takes; refuse words that spell fewer."""
    flat, offsets, lengths = dictionary.spelled()
    ends = np.cumsum(lengths[words])
    used = int(np.searchsorted(ends, count)) + 1
    if used > words.size:
        raise IntegrityError("Huffman payload cut short", got=f"{ends[-1:].sum()} symbols", expected=count)
    ranks = np.empty(count, np.uint16)
    cuts = np.searchsorted(ends[:used], np.arange(_BLOCK, count, _BLOCK))
    for block in np.split(np.arange(used), cuts):
        if block.size:
            first, size = block[0], lengths[words[block]]
            begin = int(ends[first] - size[0])
            shift = offsets[words[block]] - ends[block] + size + begin
            index = np.arange(size.sum()) + np.repeat(shift, size)
            ranks[begin : begin + index.size] = flat[index[: count - begin]]
    return ranks, used


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A tree whose nodes below the root are the words; a word spells the path to its node.

    Every inner node has one child for each of the `distinct` symbols. The e-th node to get children has the
    words `e * distinct + rank`, one for each symbol's rank; node 0 to get them is the root.

    Attributes:
        distinct: number of symbols, at least 2.
        parents: `[inner]`, the words that have children, the root (written -1) first.
        weights: `[words]`, in proportion to how often each word is expected: at least 1, sum below 2**21.
    """

    distinct: int
    parents: Array
    weights: Array

    def spelled(self) -> tuple[Array, Array, Array]:
        """Return the ranks of all words one after another, and `[words]` starts and lengths in them."""
        depths: list[int] = []
        for parent in self.parents.tolist():
            depths += [depths[parent] + 1 if depths else 1] * self.distinct
        lengths = np.array(depths)
        ends = np.cumsum(lengths)
        flat = np.empty(int(ends[-1]), np.uint16)
        word, at = np.arange(lengths.size), ends.copy()
        while word.size:
            at -= 1
            inner, flat[at] = np.divmod(word, self.distinct)
            word = self.parents[inner]
            below_root = word >= 0
            word, at = word[below_root], at[below_root]
        return flat, ends - lengths, lengths


def grow(counts: Array, limit: int) -> Dictionary:
    """Return the dictionary of a table of `counts: [distinct]`, with `limit` leaves or one for each symbol.

    While no more than `limit` leaves come of it, the likeliest leaf (the lowest word of equals) gets children. A
    child's weight is its parent's times its count over the total, rounded down, at least 1; the root's is 2**38. In the
    end leaves keep their weight over 2**18, rounded down, at least 1, and inner nodes, which are written only where an
    encoder breaks off, have 1. All in integers, so that both sides grow the same tree.

    References: B. P. Tunstall, "Synthesis of noiseless compression codes", PhD thesis, Georgia Tech, 1967.
    """
    distinct, shares, total = int(counts.size), counts.tolist(), int(counts.sum())
    weights: list[int] = []
    parents: list[int] = []
    heap = [(-_ROOT_WEIGHT, -1)]
    while not parents or (len(parents) + 1) * (distinct - 1) < limit:
        negative, parent = heapq.heappop(heap)
        children = [max(-negative * share // total, 1) for share in shares]
        for word, weight in enumerate(children, len(weights)):
            heapq.heappush(heap, (-weight, word))
        parents.append(parent)
        weights += children
    words = np.maximum(np.array(weights) >> _WEIGHT_SHIFT, 1)
    words[parents[1:]] = 1
    return Dictionary(distinct, np.array(parents), words)


@dataclass(frozen=True, eq=False)
class Code:
    """A prefix code; `order: [words]` is by the `widths: [words]` of their codes, 1 to 31 bits, then by number."""

    order: Array
    widths: Array

    @classmethod
    def of(cls, weights: Array) -> Code:
        """Return the code of at least two words of such weights, whose sum is below F(34) = 5,702,887."""
        widths = huffman_widths(weights)
        order = np.argsort(widths, kind="stable")
        return cls(order, widths[order])

    @property
    def starts(self) -> Array:
        """Codes in order, each followed by zeros to 31 bits."""
        shares = np.int64(1) << (_LONGEST - self.widths)
        return np.asarray(np.cumsum(shares) - shares)

    def fields(self, words: Array) -> tuple[Array, Array]:
        """Return codes and widths of `words: [n]`."""
        codes, widths = np.empty_like(self.order), np.empty_like(self.order)
        codes[self.order] = self.starts >> (_LONGEST - self.widths)
        widths[self.order] = self.widths
        return codes[words], widths[words]

    def read(self, bits: Bits, starts: Array) -> tuple[Array, Array]:
        """Return the words of lanes that start at `starts: [lanes]`, and where words of the last lane end.

        Every lane but the last has 512 words and ends where the next one starts. The last one is read for as
        long as the others; its end i is the bit position behind its word i.
        """
        first = np.flatnonzero(np.diff(self.widths, prepend=0))
        limits, shifts = self.starts[first][1:], _LONGEST - self.widths[first]
        offsets = first - (self.starts[first] >> shifts)
        places = np.empty((LANE, starts.size), np.uint16)
        positions, ends = starts.copy(), np.empty(LANE, np.int64)
        step = 0
        while step < LANE and (starts.size > 1 or positions[0] < bits.size):
            window = bits.peek(positions, _LONGEST).view(np.int64)
            group = np.searchsorted(limits, window, side="right")
            shift = shifts[group]
            places[step] = (window >> shift) + offsets[group]
            positions += _LONGEST - shift
            ends[step] = positions[-1]
            step += 1
        if (positions[:-1] != starts[1:]).any():
            raise IntegrityError("Huffman payload: a lane does not end where the next one starts")
        return self.order.astype(np.uint16)[places[:step].T.reshape(-1)], ends[:step]


def huffman_widths(weights: Array) -> Array:
    """Return the widths `[words]` of a Huffman code.

    The two lightest nodes are joined until one is left; of equals, words go before sums, lower numbers and older sums
    first.
    """
    count, order = weights.size, np.argsort(weights, kind="stable")
    end = int(weights.sum()) + 1  # of both queues: words by weight, and sums
    light, sums, parents = [*weights[order].tolist(), end], [end] * count, [0] * (2 * count - 1)
    word = joined = 0
    for node in range(count, 2 * count - 1):
        total = 0
        for _ in range(2):
            if light[word] <= sums[joined]:
                total, parents[word], word = total + light[word], node, word + 1
            else:
                total, parents[count + joined], joined = total + sums[joined], node, joined + 1
        sums[node - count] = total
    depths, widths = [0] * (2 * count - 1), np.empty(count, np.int64)
    for node in range(2 * count - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
    widths[order] = depths[:count]
    return widths
