"""The 16 bytes of a block to its fields and back, one block or many, compiled; reads every LDR block."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featherweight.formats.astc.ise import (
    NBYTES,
    PADDED,
    ROOM,
    Shape,
    get,
    put,
    read_sequence,
    reverse,
    shapes,
    turned,
    write_sequence,
)
from featherweight.formats.astc.modes import (
    BLOCK_BITS,
    ENDPOINT_RANGE,
    ENDPOINT_RANGES,
    MODES,
    MOST_ENDPOINTS,
    STARTS,
    VOID,
    WEIGHT_RANGES,
    Array,
)
from featherweight.formats.kernels import compiled

_WEIGHT_SHAPES, _ENDPOINT_SHAPES = shapes(WEIGHT_RANGES), shapes(ENDPOINT_RANGES)


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
    mode: int = 0
    partitions: int = 0
    seed: int = 0
    kinds: int = 0
    pairs: int = 0
    endpoints: int = 0
    apart: int = -1


FIELDS = len(Fields._fields)

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
    if mode & 0x1FF == VOID:
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
    if 2 * pairs > MOST_ENDPOINTS or end < start or ENDPOINT_RANGE[pairs, end - start] < 0:
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
    found = np.zeros((count, FIELDS), np.int64)
    endpoints, weights = np.zeros((count, ROOM), np.int64), np.zeros((count, ROOM), np.int64)
    for n in range(count):
        fields = read(content[n, 0], content[n, 1], width, height)
        if fields.fault:
            return found, endpoints, weights, (n, fields.fault)
        found[n] = fields
        if fields.partitions:
            read_integers(content[n, 0], content[n, 1], fields, endpoints[n], weights[n])
    return found, endpoints, weights, (-1, 0)
