"""Bounded integer sequences (ISE): how the 128 bits of a block hold numbers below 2, 3 or 5 times 2**n. Compiled."""

from __future__ import annotations

from functools import partial

import numpy as np

from featherweight.formats.astc.modes import Array, Range
from featherweight.formats.kernels import compiled

NBYTES = 16
PADDED = NBYTES + 2  # a field may be written across the end
ROOM = 96  # for a sequence: it is read in whole groups, and infill reads (and weighs with 0) points beyond the grid

# Of a group of five trits or three quints: the bits of the packed code that follow each of its values.
TRIT_WIDTHS = (2, 2, 1, 2, 1)
QUINT_WIDTHS = (3, 2, 2)


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
_TRIT_WIDTHS, _QUINT_WIDTHS = np.array(TRIT_WIDTHS), np.array(QUINT_WIDTHS)
_TRIT_PLACES, _QUINT_PLACES = 3 ** np.arange(5), 5 ** np.arange(3)
_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)

Shape = tuple[int, int, int]
"""Whether values of a range have a trit, whether a quint, and their bits."""


def shapes(kinds: tuple[Range, ...]) -> Array:
    """Return the shape of each range, `[n, 3]`."""
    return np.array([(kind.trits, kind.quints, kind.bits) for kind in kinds])


@partial(compiled, signature="uint64(uint64)")
def reverse(half: int) -> int:
    """Return 64 bits in reverse order."""
    found = np.uint64(0)
    for _ in range(8):
        found = found << np.uint64(8) | np.uint64(_REVERSED[half & np.uint64(255)])
        half = half >> np.uint64(8)  # type: ignore[assignment]
    return found  # type: ignore[return-value]


@partial(compiled, signature="int64(uint64, uint64, int64, int64)")
def get(low: int, high: int, position: int, width: int) -> int:
    """Return `width` bits (0 to 62) from `position` on, of a block whose halves are two uint64."""
    shift = np.uint64(position & 63)
    across = high << np.uint64(1) << (np.uint64(63) - shift)
    word = low >> shift | across if position < 64 else high >> shift
    return np.int64(word) & ((1 << width) - 1)  # type: ignore[return-value]


@compiled
def read_sequence(low: int, high: int, position: int, count: int, shape: Shape, values: Array) -> None:
    """Set the first `count` of `values` to a bounded integer sequence of a `Shape`; four more may change.

    In a group of five, the bits of each value are followed by its share of the packed trits; in one of three,
    of the packed quints.
    """
    trits, quints, bits = shape
    mask, end = (1 << bits) - 1, position + count * bits
    if trits:
        end += (8 * count + 4) // 5
        for first in range(0, count, 5):
            word = get(low, high, position, min(5 * bits + 8, end - position))
            second, third = word >> bits, word >> 2 * bits
            fourth, fifth = word >> 3 * bits, word >> 4 * bits
            digits = second & 3 | third & 12 | fourth & 16 | fifth & 96 | fifth >> bits & 128
            values[first] = int(TRITS[digits, 0]) << bits | word & mask
            values[first + 1] = int(TRITS[digits, 1]) << bits | second >> 2 & mask
            values[first + 2] = int(TRITS[digits, 2]) << bits | third >> 4 & mask
            values[first + 3] = int(TRITS[digits, 3]) << bits | fourth >> 5 & mask
            values[first + 4] = int(TRITS[digits, 4]) << bits | fifth >> 7 & mask
            position += 5 * bits + 8
    elif quints:
        end += (7 * count + 2) // 3
        for first in range(0, count, 3):
            word = get(low, high, position, min(3 * bits + 7, end - position))
            second, third = word >> bits, word >> 2 * bits
            digits = second & 7 | third & 24 | third >> bits & 96
            values[first] = int(QUINTS[digits, 0]) << bits | word & mask
            values[first + 1] = int(QUINTS[digits, 1]) << bits | second >> 3 & mask
            values[first + 2] = int(QUINTS[digits, 2]) << bits | third >> 5 & mask
            position += 3 * bits + 7
    else:
        for k in range(count):
            values[k] = get(low, high, position + k * bits, bits)


@compiled
def put(block: Array, position: int, width: int, value: int) -> None:
    """Set `width` bits (0 to 16) of `block: [PADDED]`, all 0 before, from `position` on."""
    i, word = position >> 3, value << (position & 7)
    block[i] |= word & 255
    block[i + 1] |= word >> 8 & 255
    block[i + 2] |= word >> 16 & 255


@compiled
def turned(block: Array) -> Array:
    """Return `block: [PADDED]` with its 128 bits in reverse order."""
    found = np.zeros(PADDED, np.uint8)
    for i in range(NBYTES):
        found[i] = _REVERSED[block[NBYTES - 1 - i]]
    return found


@compiled
def write_sequence(block: Array, position: int, count: int, shape: Shape, values: Array) -> None:
    """Undo `read_sequence`; the bits of the block are 0 before."""
    trits, quints, bits = shape
    group = 5 if trits else 3
    for first in range(0, count, group):
        number = 0
        most = min(group, count - first)
        for k in range(most):
            place = _TRIT_PLACES[k] if trits else _QUINT_PLACES[k]
            number += int(values[first + k] >> bits) * place
        packed = int(TRIT_CODES[number]) if trits else int(QUINT_CODES[number]) if quints else 0
        for k in range(most):
            put(block, position, bits, int(values[first + k]) & ((1 << bits) - 1))
            position += bits
            width = _TRIT_WIDTHS[k] if trits else _QUINT_WIDTHS[k] if quints else 0
            put(block, position, width, packed & ((1 << width) - 1))
            position, packed = position + width, packed >> width
