"""Arrays of blocks to bytes and back, compiled: one block after another."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.bits import NBYTES, PADDED, ROOM
from featherweight.formats.astc.ise import Array
from featherweight.formats.astc.physical import FIELDS, read, read_integers, write
from featherweight.formats.compiled import compiled


@compiled
def pack_all(
    mode: Array, partitions: Array, seed: Array, kind: Array, endpoints: Array, weights: Array
) -> Array:
    """Return the bytes of blocks, uint8 `[n, 16]`; the arguments are the attributes of `Blocks`."""
    content = np.zeros((mode.size, NBYTES), np.uint8)
    block = np.zeros(PADDED, np.uint8)
    for n in range(mode.size):
        block[:] = 0
        integers = endpoints[n].astype(np.int64), weights[n].astype(np.int64)
        write(block, int(mode[n]), int(partitions[n]), int(seed[n]), int(kind[n]), *integers)
        content[n] = block[:NBYTES]
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
