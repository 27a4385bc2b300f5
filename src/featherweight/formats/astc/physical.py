"""The 16 bytes of a block to its fields and back, compiled; every LDR block of any encoder can be read."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.bits import (
    PADDED,
    Shape,
    get,
    put,
    read_sequence,
    shapes,
    turned,
    write_sequence,
)
from featherweight.formats.astc.ise import ENDPOINT_RANGES, WEIGHT_RANGES, Array
from featherweight.formats.astc.modes import (
    BLOCK_BITS,
    ENDPOINT_RANGE,
    MODES,
    MORE_PARTITIONS,
    MOST_ENDPOINTS,
    ONE_PARTITION,
    VOID,
)
from featherweight.formats.compiled import compiled

_WEIGHT_SHAPES, _ENDPOINT_SHAPES = shapes(WEIGHT_RANGES), shapes(ENDPOINT_RANGES)

# The fields of a block: its mode, partitions (0: all of one colour), seed, position of the range of endpoints,
# the channel whose weights are apart (-1: none), and how the endpoints of four partitions are written.
MODE, PARTITIONS, SEED, ENDPOINT_KIND, APART, KINDS = 0, 1, 2, 3, 4, 5
FIELDS = KINDS + 4

FAULTS = (
    "",
    "a reserved block mode, or too many or too few weights",
    "a grid of weights larger than the footprint",
    "two planes of weights and four partitions",
    "too many endpoints, or too few bits for them",
    "endpoints of high dynamic range",
    "a block of one colour with a malformed extent",
)
HIGH_RANGE = 1 << 2 | 1 << 3 | 1 << 7 | 1 << 11 | 1 << 14 | 1 << 15  # endpoint modes, one bit each


@compiled
def _shape(table: Array, kind: int) -> Shape:
    """Return a row of a table of `shapes`: a tuple costs the loops less than a view of an array."""
    return table[kind, 0], table[kind, 1], table[kind, 2]


@compiled
def read(
    block: Array,
    backwards: Array,
    footprint: tuple[int, int],
    fields: Array,
    endpoints: Array,
    weights: Array,
) -> int:
    """Read one block; return 0, or the position in `FAULTS` of why it is malformed.

    Args:
        block: its bits, as `load` sets them.
        backwards: its bits turned round.
        footprint: width and height in texels.
        fields: `[FIELDS]`, set.
        endpoints: `[MOST_ENDPOINTS]`, set to their integers; of a block of one colour, to four of 16 bits.
        weights: `[64]`, set to their integers.
    """
    code = get(block, 0, 11)
    fields[MODE], fields[PARTITIONS], fields[SEED], fields[APART] = code, 0, 0, -1
    if code & 0x1FF == VOID:
        return _read_void(block, endpoints)
    wide, high, kind = MODES[code, 0], MODES[code, 1], MODES[code, 2]
    planes, nbits = MODES[code, 3], MODES[code, 4]
    count = get(block, 11, 2) + 1
    if wide == 0:
        return 1
    if wide > footprint[0] or high > footprint[1]:
        return 2
    if planes == 2 and count == 4:
        return 3
    fields[PARTITIONS] = count
    if count > 1:
        fields[SEED] = get(block, 13, 10)
    extra = _read_kinds(block, count, BLOCK_BITS - nbits, fields)
    start = MORE_PARTITIONS if count > 1 else ONE_PARTITION
    end = BLOCK_BITS - nbits - extra
    if planes == 2:
        end -= 2
        fields[APART] = get(block, end, 2)
    pairs = 0
    for k in range(count):
        if HIGH_RANGE >> fields[KINDS + k] & 1:
            return 5
        pairs += (fields[KINDS + k] >> 2) + 1
    if 2 * pairs > MOST_ENDPOINTS or end < start or ENDPOINT_RANGE[pairs, end - start] < 0:
        return 4
    fields[ENDPOINT_KIND] = ENDPOINT_RANGE[pairs, end - start]
    read_sequence(block, start, 2 * pairs, _shape(_ENDPOINT_SHAPES, fields[ENDPOINT_KIND]), endpoints)
    read_sequence(backwards, 0, wide * high * planes, _shape(_WEIGHT_SHAPES, kind), weights)
    return 0


@compiled
def _read_void(block: Array, colour: Array) -> int:
    """Read a block of one colour: four channels of 16 bits."""
    if get(block, 9, 1):
        return 5
    least_x, most_x, least_y, most_y = (
        get(block, 12, 13),
        get(block, 25, 13),
        get(block, 38, 13),
        get(block, 51, 13),
    )
    everywhere = least_x & most_x & least_y & most_y == 0x1FFF
    if get(block, 10, 2) != 3 or not (everywhere or (least_x < most_x and least_y < most_y)):
        return 6
    for c in range(4):
        colour[c] = get(block, 64 + 16 * c, 16)
    return 0


@compiled
def _read_kinds(block: Array, count: int, end: int, fields: Array) -> int:
    """Read how the endpoints of each partition are written; return the bits of it that lie below `end`."""
    if count == 1:
        fields[KINDS] = get(block, 13, 4)
        return 0
    if get(block, 23, 2) == 0:
        for k in range(count):
            fields[KINDS + k] = get(block, 25, 4)
        return 0
    extra = 3 * count - 4
    code = get(block, 23, 6) | get(block, end - extra, extra) << 6
    least = (code & 3) - 1
    for k in range(count):
        fields[KINDS + k] = (least + (code >> (2 + k) & 1)) << 2 | code >> (2 + count + 2 * k) & 3
    return extra


@compiled
def write(block: Array, fields: Array, endpoints: Array, weights: Array) -> None:
    """Write one block of one plane whose partitions have one kind of endpoints; undoes `read`.

    `block: [PADDED]` is 0 before; the other arguments are those of `read`.
    """
    mode = fields[MODE]
    wide, high, kind, nbits = MODES[mode, 0], MODES[mode, 1], MODES[mode, 2], MODES[mode, 4]
    count = fields[PARTITIONS]
    put(block, 0, 11, fields[MODE])
    put(block, 11, 2, count - 1)
    start, place = ONE_PARTITION, 13
    if count > 1:
        put(block, 13, 10, fields[SEED])
        start, place = MORE_PARTITIONS, 25
    put(block, place, 4, fields[KINDS])
    pairs = count * ((fields[KINDS] >> 2) + 1)
    shape = _shape(_ENDPOINT_SHAPES, ENDPOINT_RANGE[pairs, BLOCK_BITS - start - nbits])
    write_sequence(block, start, 2 * pairs, shape, endpoints)
    backwards = np.zeros(PADDED, np.uint8)
    write_sequence(backwards, 0, wide * high, _shape(_WEIGHT_SHAPES, kind), weights)
    block |= turned(backwards)
