"""The `.astc` file: sixteen bytes of header and the blocks of one texture."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats.astc.modes import FOOTPRINTS, Footprint, size

Array = NDArray[Any]

MAGIC = 0x5CA1AB13
HEADER = 16
MOST_TEXELS = 1 << 24  # of a side


def write_astc(content: Array, footprint: Footprint, width: int, height: int) -> bytes:
    """Return the file of a texture of `width` by `height` texels.

    >>> write_astc(np.zeros((1, 2, 16), np.uint8), "6x5", 8, 5)[:16].hex()
    '13aba15c060501080000050000010000'

    Args:
        content: its blocks, uint8 `[block rows, block columns, 16]`.
        footprint: texels of a block.
        width: in texels.
        height: in texels.

    Raises:
        UnsupportedError: a side has 2**24 texels or more.
    """
    if max(width, height) >= MOST_TEXELS:
        raise UnsupportedError("too large a texture", got=f"{width} x {height}", expected="sides below 2**24")
    sides = b"".join(n.to_bytes(3, "little") for n in (width, height, 1))
    return struct.pack("<I3B", MAGIC, *size(footprint), 1) + sides + content.tobytes()


def read_astc(content: bytes) -> tuple[Array, Footprint, int, int]:
    """Undo `write_astc`.

    Raises:
        IntegrityError: not such a file, not two-dimensional, or not as long as its header says.
    """
    if len(content) < HEADER or struct.unpack_from("<I", content)[0] != MAGIC:
        raise IntegrityError("not an .astc file", got=content[:4].hex(), expected="13aba15c")
    names: dict[tuple[int, int], Footprint] = {size(name): name for name in FOOTPRINTS}
    sides = [int.from_bytes(content[start : start + 3], "little") for start in (7, 10, 13)]
    if (content[4], content[5]) not in names or content[6] != 1 or sides[2] != 1:
        raise IntegrityError("not a texture of two dimensions", got=f"blocks {tuple(content[4:7])}")
    rows, cols = -(-sides[1] // content[5]), -(-sides[0] // content[4])
    if len(content) != HEADER + 16 * rows * cols:
        raise IntegrityError("blocks", got=f"{len(content) - HEADER} bytes", expected=16 * rows * cols)
    blocks = np.frombuffer(content, np.uint8, offset=HEADER).reshape(rows, cols, 16)
    return blocks, names[content[4], content[5]], sides[0], sides[1]
