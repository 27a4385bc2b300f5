"""The 128 bits of a block to its fields and back, one block or many, compiled; reads every LDR block.

Integers below 2, 3 or 5 times 2**n are in bounded integer sequences (ISE), those of weights from the end backwards.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from featherweight.formats.astc import tables
from featherweight.formats.astc.tables import BLOCK_BITS, ENDPOINT_RANGE, MODES, NBYTES, STARTS, Array, Range
from featherweight.formats.kernels import compiled

PADDED = NBYTES + 2  # a field may be written across the end
ROOM = 96  # for a sequence: it is read in whole groups, and infill reads (and weighs with 0) points beyond the grid


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
    return np.asarray(np.unique(numbers, return_index=True)[1], np.uint8)


# Code to digits, `[256, 5]` and `[128, 3]`; digits to the smallest of their codes.
TRITS = np.array([_trits(code) for code in range(256)], np.uint8)
QUINTS = np.array([_quints(code) for code in range(128)], np.uint8)
TRIT_CODES = _inverse(TRITS, 3)
QUINT_CODES = _inverse(QUINTS, 5)
# Of a group of five trits or three quints: the bits of the packed code that follow each of its values.
_TRIT_WIDTHS, _QUINT_WIDTHS = np.array((2, 2, 1, 2, 1)), np.array((3, 2, 2))
_TRIT_PLACES, _QUINT_PLACES = 3 ** np.arange(5), 5 ** np.arange(3)
_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)

Shape = tuple[int, int, int]
"""Whether values of a range have a trit, whether a quint, and their bits."""


def _shapes(kinds: tuple[Range, ...]) -> Array:
    return np.array([(kind.trits, kind.quints, kind.bits) for kind in kinds])


_WEIGHT_SHAPES, _ENDPOINT_SHAPES = _shapes(tables.WEIGHT_RANGES), _shapes(tables.ENDPOINT_RANGES)


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


class Fields(NamedTuple):
    """The fields of a block.

    Attributes:
        fault: position in `FAULTS` of why it is malformed; 0 if it is not.
        mode: 11 bits.
        partitions: 1 to 4; 0: all of one colour, the upper half of the block.
        seed: of the partitioning.
        kinds: how the endpoints of each partition are written, four bits each, the first one lowest.
        pairs: number of pairs of endpoints.
        endpoints: position of their range.
        apart: the channel whose weights are apart; -1: none.
    """

    fault: int
    mode: int
    partitions: int
    seed: int
    kinds: int
    pairs: int
    endpoints: int
    apart: int


_FIELDS = len(Fields._fields)
_POSITIONS: Array = np.arange(1, 7)  # in `FAULTS`
RESERVED, TOO_LARGE, FOUR_PARTITIONS, NO_ROOM, HIGH_RANGE, EXTENT = _POSITIONS
FAULTS = (
    "",
    "a reserved block mode, or too many or too few weights",
    "a grid of weights larger than the footprint",
    "two planes of weights and four partitions",
    "too many endpoints, or too few bits for them",
    "endpoints of high dynamic range",
    "a block of one colour with a malformed extent",
)
HIGH_RANGE_MODES = 1 << 2 | 1 << 3 | 1 << 7 | 1 << 11 | 1 << 14 | 1 << 15  # endpoint modes, one bit each


@compiled
def _shape(table: Array, kind: int) -> Shape:
    """Return a row of a table of `shapes`: a tuple is cheaper in kernels than an array view."""
    return table[kind, 0], table[kind, 1], table[kind, 2]


@compiled
def read(low: int, high: int, width: int, height: int) -> Fields:
    """Return the fields of a block, given as two uint64, the first 64 bits `low`; `width, height` of the footprint."""
    mode, count = get(low, high, 0, 11), get(low, high, 11, 2) + 1
    if mode & 0x1FF == tables.VOID:
        return _read_void(low, high, mode)
    planes, nbits = MODES[mode, 3], MODES[mode, 4]
    if planes == 0:
        return _malformed(RESERVED)
    if MODES[mode, 0] > width or MODES[mode, 1] > height:
        return _malformed(TOO_LARGE)
    if planes == 2 and count == 4:
        return _malformed(FOUR_PARTITIONS)
    start, seed = STARTS[count], get(low, high, 13, 10) if count > 1 else 0
    kinds, extra = _read_kinds(low, high, count, BLOCK_BITS - nbits)
    end, apart = BLOCK_BITS - nbits - extra, -1
    if planes == 2:
        end -= 2
        apart = get(low, high, end, 2)
    pairs = 0
    for k in range(count):
        kind = kinds >> 4 * k & 15
        if HIGH_RANGE_MODES >> kind & 1:
            return _malformed(HIGH_RANGE)
        pairs += (kind >> 2) + 1
    if 2 * pairs > tables.MOST_ENDPOINTS or end < start or ENDPOINT_RANGE[pairs, end - start] < 0:
        return _malformed(NO_ROOM)
    return Fields(0, mode, count, seed, kinds, pairs, ENDPOINT_RANGE[pairs, end - start], apart)


@compiled
def _malformed(fault: int) -> Fields:
    return Fields(fault, 0, 0, 0, 0, 0, 0, -1)


@compiled
def read_integers(low: int, high: int, fields: Fields, endpoints: Array, weights: Array) -> None:
    """Set the integers of endpoints and weights, `[ROOM]`, of a block that is not of one colour."""
    shape = _shape(_ENDPOINT_SHAPES, fields.endpoints)
    read_sequence(low, high, STARTS[fields.partitions], 2 * fields.pairs, shape, endpoints)
    mode = fields.mode
    shape, count = _shape(_WEIGHT_SHAPES, MODES[mode, 2]), MODES[mode, 0] * MODES[mode, 1] * MODES[mode, 3]
    read_sequence(reverse(high), reverse(low), STARTS[0], count, shape, weights)


@compiled
def _read_void(low: int, high: int, mode: int) -> Fields:
    """Read a block of one colour."""
    if mode & 0x200:
        return _malformed(HIGH_RANGE)
    least_x, most_x = get(low, high, 12, 13), get(low, high, 25, 13)
    least_y, most_y = get(low, high, 38, 13), get(low, high, 51, 13)
    everywhere = least_x & most_x & least_y & most_y == 0x1FFF
    if get(low, high, 10, 2) != 3 or not (everywhere or (least_x < most_x and least_y < most_y)):
        return _malformed(EXTENT)
    return Fields(0, mode, 0, 0, 0, 0, 0, -1)


@compiled
def _read_kinds(low: int, high: int, count: int, end: int) -> tuple[int, int]:
    """Return how the endpoints of each partition are written, and the bits of it that lie below `end`."""
    if count == 1:
        return get(low, high, 13, 4), 0
    if get(low, high, 23, 2) == 0:
        return get(low, high, 25, 4) * 0x1111, 0
    extra = 3 * count - 4
    code = get(low, high, 23, 6) | get(low, high, end - extra, extra) << 6
    kinds, least = 0, (code & 3) - 1
    for k in range(count):
        kind = (least + (code >> (2 + k) & 1)) << 2 | code >> (2 + count + 2 * k) & 3
        kinds |= kind << 4 * k
    return kinds, extra


@compiled
def pack_all(
    mode: Array, partitions: Array, seed: Array, kind: Array, endpoints: Array, weights: Array
) -> Array:
    """Return the bytes of blocks, uint8 `[n, 16]`; the arguments are the attributes of `Blocks`."""
    content = np.zeros((mode.size, NBYTES), np.uint8)
    block, backwards = np.zeros(PADDED, np.uint8), np.zeros(PADDED, np.uint8)
    for n in range(mode.size):
        block[:], backwards[:] = 0, 0
        code, count, of = int(mode[n]), int(partitions[n]), int(kind[n])
        put(block, 0, 11, code)
        put(block, 11, 2, count - 1)
        if count > 1:
            put(block, 13, 10, int(seed[n]))
        put(block, 25 if count > 1 else 13, 4, of)
        pairs, nbits = count * ((of >> 2) + 1), MODES[code, 4]
        shape = _shape(_ENDPOINT_SHAPES, ENDPOINT_RANGE[pairs, BLOCK_BITS - STARTS[count] - nbits])
        write_sequence(block, STARTS[count], 2 * pairs, shape, endpoints[n].astype(np.int64))
        shape = _shape(_WEIGHT_SHAPES, MODES[code, 2])
        write_sequence(backwards, 0, MODES[code, 0] * MODES[code, 1], shape, weights[n].astype(np.int64))
        content[n] = (block | turned(backwards))[:NBYTES]
    return content


@compiled
def read_all(content: Array, width: int, height: int) -> tuple[Array, Array, Array, tuple[int, int]]:
    """Return fields, endpoints and weights of `content: uint64 [n, 2]`, and which block is malformed and why."""
    count = len(content)
    found = np.zeros((count, _FIELDS), np.int64)
    endpoints, weights = np.zeros((count, ROOM), np.int64), np.zeros((count, ROOM), np.int64)
    for n in range(count):
        low, high = content[n, 0], content[n, 1]
        fields = read(low, high, width, height)
        if fields.fault:
            return found, endpoints, weights, (n, fields.fault)
        found[n] = fields
        if fields.partitions:
            read_integers(low, high, fields, endpoints[n], weights[n])
    return found, endpoints, weights, (-1, 0)
