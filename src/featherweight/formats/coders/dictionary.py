"""Tunstall's tree of words: about equally likely runs of symbols, grown from a frequency table."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from featherweight.formats.coders.base import Array

MOST_LEAVES = 1 << 12
_ROOT_WEIGHT = 1 << 38
_WEIGHT_SHIFT = 18


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

    @property
    def next_word(self) -> Array:
        """Return, for each word, the child of rank 0 that follows: of the word's node, or of the root for a leaf."""
        following = np.zeros(self.weights.size, np.int64)
        following[self.parents[1:]] = np.arange(1, self.parents.size) * self.distinct
        return following

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

    While no more than `limit` leaves come of it, the likeliest leaf (the lowest word of equals) gets
    children. A child's weight is its parent's times its count over the total, rounded down, at least 1; the
    root's is 2**38. In the end leaves keep their weight over 2**18, rounded down, at least 1, and inner
    nodes, which are written only where an encoder breaks off, have 1. All in integers, so that both sides
    grow the same tree.

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
