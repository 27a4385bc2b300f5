"""Arrays of blocks to bytes and back, compiled: one block after another."""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.bits import NBYTES, PADDED, load
from featherweight.formats.astc.ise import Array
from featherweight.formats.astc.modes import MOST_ENDPOINTS, MOST_WEIGHTS
from featherweight.formats.astc.physical import FIELDS, KINDS, MODE, PARTITIONS, SEED, read, write
from featherweight.formats.compiled import compiled


@compiled
def pack_all(
    mode: Array, partitions: Array, seed: Array, kind: Array, endpoints: Array, weights: Array
) -> Array:
    """Return the bytes of blocks, uint8 `[n, 16]`; the arguments are the attributes of `Blocks`."""
    content = np.zeros((mode.size, NBYTES), np.uint8)
    block, fields = np.zeros(PADDED, np.uint8), np.zeros(FIELDS, np.int64)
    for n in range(mode.size):
        block[:] = 0
        fields[MODE], fields[PARTITIONS], fields[SEED] = mode[n], partitions[n], seed[n]
        fields[KINDS:] = kind[n]
        write(block, fields, endpoints[n].astype(np.int64), weights[n].astype(np.int64))
        content[n] = block[:NBYTES]
    return content


@compiled
def read_all(content: Array, footprint: tuple[int, int]) -> tuple[Array, Array, Array, tuple[int, int]]:
    """Return fields, endpoints and weights of `content: [n, 16]`, and which block is malformed and why."""
    count = len(content)
    fields = np.zeros((count, FIELDS), np.int64)
    endpoints, weights = (
        np.zeros((count, MOST_ENDPOINTS), np.int64),
        np.zeros((count, MOST_WEIGHTS), np.int64),
    )
    block, backwards = np.zeros(NBYTES, np.int64), np.zeros(NBYTES, np.int64)
    for n in range(count):
        load(content[n], block, backwards)
        fault = read(block, backwards, footprint, fields[n], endpoints[n], weights[n])
        if fault:
            return fields, endpoints, weights, (n, fault)
    return fields, endpoints, weights, (-1, 0)
