"""Bounded integer sequences (ISE): how ASTC writes numbers below 2, 3 or 5 times a power of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Of a group of five trits or three quints: the bits of the packed code that follow each of its values.
TRIT_WIDTHS = (2, 2, 1, 2, 1)
QUINT_WIDTHS = (3, 2, 2)


@dataclass(frozen=True)
class Range:
    """The integers `0 .. levels - 1`, each a trit or a quint above `bits` bits.

    >>> Range(12), Range(12).size(16)
    (Range(levels=12), 58)
    """

    levels: int

    @property
    def trits(self) -> int:
        """1 if values have a trit."""
        return int(self.levels % 3 == 0)

    @property
    def quints(self) -> int:
        """1 if values have a quint."""
        return int(self.levels % 5 == 0)

    @property
    def bits(self) -> int:
        """Bits below the trit or quint."""
        return (self.levels // (3 if self.trits else 5 if self.quints else 1)).bit_length() - 1

    def size(self, count: int) -> int:
        """Return the bits of `count` values."""
        return count * self.bits + -(-8 * count * self.trits // 5) + -(-7 * count * self.quints // 3)


WEIGHT_RANGES = tuple(Range(n) for n in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32))
ENDPOINT_RANGES = tuple(
    Range(n) for n in (6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)
)


def _trits(code: int) -> list[int]:
    """Return the five trits of a packed byte, the first one first."""
    if code >> 2 & 7 == 7:
        rest, high = (code >> 5) << 2 | code & 3, [2, 2]
    else:
        rest = code & 31
        high = [code >> 7, 2] if code >> 5 & 3 == 3 else [code >> 5 & 3, code >> 7]
    if rest & 3 == 3:
        low = [(rest >> 3 & 1) << 1 | rest >> 2 & ~(rest >> 3) & 1, rest >> 4, 2]
    elif rest >> 2 & 3 == 3:
        low = [rest & 3, 2, 2]
    else:
        low = [(rest >> 1 & 1) << 1 | rest & ~(rest >> 1) & 1, rest >> 2 & 3, rest >> 4]
    return low + high


def _quints(code: int) -> list[int]:
    """Return the three quints of seven packed bits, the first one first."""
    if code >> 1 & 3 == 3 and code >> 5 == 0:
        free = ~code & 1
        return [4, 4, (code & 1) << 2 | (code >> 4 & free) << 1 | code >> 3 & free]
    if code >> 1 & 3 == 3:
        rest, last = (code >> 3 & 3) << 3 | (~code >> 5 & 3) << 1 | code & 1, 4
    else:
        rest, last = code & 31, code >> 5 & 3
    return [rest >> 3, 4, last] if rest & 7 == 5 else [rest & 7, rest >> 3, last]


def _inverse(table: Array, base: int) -> Array:
    """Return the smallest code of each group of digits, by the group as a number, its first digit lowest."""
    numbers = table.astype(np.int64) @ base ** np.arange(table.shape[1])
    codes = np.zeros(base ** table.shape[1], np.uint8)
    codes[numbers[::-1]] = np.arange(len(table))[::-1]
    return codes


# Code to digits, `[256, 5]` and `[128, 3]`; digits to the smallest of their codes.
TRITS = np.array([_trits(code) for code in range(256)], np.uint8)
QUINTS = np.array([_quints(code) for code in range(128)], np.uint8)
TRIT_CODES = _inverse(TRITS, 3)
QUINT_CODES = _inverse(QUINTS, 5)
