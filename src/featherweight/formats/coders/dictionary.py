"""Tunstall's tree of words: runs of symbols that are all about equally likely, grown from a frequency table."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from featherweight.formats.coders.base import Array

MOST_WORDS = 1 << 12
_ROOT_WEIGHT = 1 << 38
_WEIGHT_SHIFT = 18


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A tree whose nodes below the root are the words; a word spells the path to its node.

    Every inner node has one child for each of the `distinct` symbols. The e-th node to get children has the words
    `e * distinct + rank`, one for each symbol's rank; node 0 to get them is the root.

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
        """Return, for each word, the child of rank 0 after it: of its own node, or of the root for a leaf."""
        following = np.zeros(self.weights.size, np.int64)
        following[self.parents[1:]] = np.arange(1, self.parents.size) * self.distinct
        return following

    def spelled(self) -> tuple[Array, Array, Array]:
        """Return the ranks of all words one after another, and `[words]` starts and lengths in them."""
        blocks: list[Array] = []
        lengths = np.ones(self.weights.size, np.int64)
        last = np.arange(self.distinct, dtype=np.uint16)
        for inner, parent in enumerate(self.parents.tolist()):
            block, row = divmod(parent, self.distinct)
            path = blocks[block][row, :] if inner else last[:0]
            spelled = np.empty((self.distinct, path.size + 1), np.uint16)
            spelled[:, :-1] = path
            spelled[:, -1] = last
            blocks.append(spelled)
            lengths[inner * self.distinct : (inner + 1) * self.distinct] = path.size + 1
        flat = np.concatenate([block.reshape(-1) for block in blocks])
        return flat, np.cumsum(lengths) - lengths, lengths


def grow(counts: Array, limit: int) -> Dictionary:
    """Return the dictionary of a table of `counts: [distinct]`, of at most `limit` words if one level has no more.

    While there is room, the likeliest leaf (the lowest word of equals) gets children. A child's weight is its
    parent's times its count over the total, rounded down, at least 1; the root's is 2**38. In the end leaves keep
    their weight over 2**18, rounded down, at least 1, and inner nodes, which are written only where an encoder
    breaks off, have 1. All in integers, so that both sides grow the same tree.

    References: B. P. Tunstall, "Synthesis of noiseless compression codes", PhD thesis, Georgia Tech, 1967.
    """
    distinct = int(counts.size)
    total = int(counts.sum())
    weights = [np.maximum((_ROOT_WEIGHT * counts) // total, 1)]
    parents = [-1]
    heap: list[tuple[int, int]] = []
    while (len(parents) + 1) * distinct <= limit:
        base = (len(parents) - 1) * distinct
        for word, weight in enumerate(weights[-1].tolist(), base):
            heapq.heappush(heap, (-weight, word))
        negative, parent = heapq.heappop(heap)
        parents.append(parent)
        weights.append(np.maximum((-negative * counts) // total, 1))
    words = np.maximum(np.concatenate(weights) >> _WEIGHT_SHIFT, 1)
    words[parents[1:]] = 1
    return Dictionary(distinct, np.array(parents), words)
