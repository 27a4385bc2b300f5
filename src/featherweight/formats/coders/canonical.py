"""Canonical Huffman codes: from weights to code words, and from bits back, over many lanes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array
from featherweight.formats.coders.bits import Bits

LANE = 512
"""Words in a lane. Lanes follow one another in the bits and are decoded in parallel."""

_LONGEST = 31


@dataclass(frozen=True, eq=False)
class Code:
    """A prefix code; words are sorted by the width of their code, then by number, and so are the codes.

    Attributes:
        order: `[words]`, the words in that order.
        widths: `[words]`, bits of their codes in that order, 1 to 31.
    """

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
        starts: Array = np.cumsum(shares) - shares
        return starts

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

        Raises:
            IntegrityError: a lane does not end where the next one starts.
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
    """Return the widths `[words]` of a Huffman code, by two queues.

    One queue holds the words by ascending weight (the lower number of equals first), the other the sums in
    the order they are made. The two lightest are joined until one is left; of equals, words go before sums,
    older sums before newer ones.
    """
    count = weights.size
    order = np.argsort(weights, kind="stable")
    light = weights[order].tolist()
    sums: list[int] = []
    parents = [0] * (2 * count - 1)
    word = joined = 0
    for node in range(count, 2 * count - 1):
        total = 0
        for _ in range(2):
            if word < count and (joined == len(sums) or light[word] <= sums[joined]):
                total += light[word]
                parents[word] = node
                word += 1
            else:
                total += sums[joined]
                parents[count + joined] = node
                joined += 1
        sums.append(total)
    depths = [0] * (2 * count - 1)
    for node in range(2 * count - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
    widths = np.empty(count, np.int64)
    widths[order] = depths[:count]
    return widths
