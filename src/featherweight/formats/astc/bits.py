"""Integers in the 128 bits of a block, lowest bit first, compiled: single ones and bounded sequences."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.ise import (
    QUINT_CODES,
    QUINT_WIDTHS,
    QUINTS,
    TRIT_CODES,
    TRIT_WIDTHS,
    TRITS,
    Array,
    Range,
)
from featherweight.formats.compiled import compiled

NBYTES = 16
PADDED = NBYTES + 2  # a field may be written across the end
_TRIT_WIDTHS, _QUINT_WIDTHS = np.array(TRIT_WIDTHS), np.array(QUINT_WIDTHS)
_TRIT_PLACES, _QUINT_PLACES = 3 ** np.arange(5), 5 ** np.arange(3)
_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)


Shape = tuple[int, int, int]
"""Whether values of a range have a trit, whether a quint, and their bits."""


def shapes(kinds: tuple[Range, ...]) -> Array:
    """Return the shape of each range, `[n, 3]`."""
    return np.array([(kind.trits, kind.quints, kind.bits) for kind in kinds])


@compiled
def load(content: Array, windows: Array, backwards: Array) -> None:
    """Set two arrays `[16]` to the 24 bits from every byte of a block on, and of it with its bits turned round.

    Args:
        content: the block, uint8 `[16]`; zeros follow it.
        windows: int64, set.
        backwards: int64, set; the first bit is the last one of the block.
    """
    here, there = 0, 0
    for i in range(NBYTES - 1, -1, -1):
        here = (here << 8 | int(content[i])) & 0xFFFFFF
        there = (there << 8 | int(_REVERSED[content[NBYTES - 1 - i]])) & 0xFFFFFF
        windows[i], backwards[i] = here, there


@compiled
def get(windows: Array, position: int, width: int) -> int:
    """Return `width` bits (0 to 16) of a block from `position` on; `windows` as `load` sets it."""
    return windows[position >> 3] >> (position & 7) & ((1 << width) - 1)  # type: ignore[no-any-return]


@compiled
def read_sequence(windows: Array, position: int, count: int, shape: Shape, values: Array) -> None:
    """Set the first `count` of `values` to a bounded integer sequence of a `Shape`."""
    trits, quints, bits = shape
    if trits:
        _read_groups(windows, position, count, bits, TRITS, _TRIT_WIDTHS, values)
    elif quints:
        _read_groups(windows, position, count, bits, QUINTS, _QUINT_WIDTHS, values)
    else:
        for k in range(count):
            values[k] = get(windows, position + k * bits, bits)


@compiled
def _read_groups(
    windows: Array, position: int, count: int, bits: int, digits: Array, widths: Array, values: Array
) -> None:
    """Read groups of trits or quints: of each value its bits, and then its share of the packed digits."""
    group = widths.size
    for first in range(0, count, group):
        packed, shift = 0, 0
        most = min(group, count - first)
        for k in range(most):
            values[first + k] = get(windows, position, bits)
            position += bits
            packed |= get(windows, position, widths[k]) << shift
            position, shift = position + widths[k], shift + widths[k]
        for k in range(most):
            values[first + k] |= int(digits[packed, k]) << bits


@compiled
def put(block: Array, position: int, width: int, value: int) -> None:
    """Set `width` bits (0 to 16) of `block: [PADDED]`, all 0 before, from `position` on."""
    i, word = position >> 3, value << (position & 7)
    block[i] |= word & 255
    block[i + 1] |= word >> 8 & 255
    block[i + 2] |= word >> 16 & 255


@compiled
def turned(block: Array) -> Array:
    """Return `block: [PADDED]` with its 128 bits turned round."""
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
