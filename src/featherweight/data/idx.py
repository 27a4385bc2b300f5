"""IDX files: the format of MNIST and its successors, one array a file."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import IntegrityError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

MOST_AXES = 8


def parse(content: bytes, *, where: str = "") -> NDArray[Any]:
    """Return the array of an IDX file, in native byte order.

    The file is two zero bytes, a type code, the number of axes, their lengths as big-endian 32-bit integers,
    and the elements, row-major.

    >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
    [7, 8, 9]

    Raises:
        IntegrityError: not an IDX file, or not of the length that its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        raise IntegrityError(
            "not an IDX file", where=where, got=f"magic {content[:4].hex()}", expected="0000TTNN"
        )
    dtype, axes = np.dtype(TYPES[content[2]]), content[3]
    header = 4 + 4 * axes
    if not 1 <= axes <= MOST_AXES:
        raise IntegrityError("axes of an IDX file", where=where, got=axes, expected=f"1 to {MOST_AXES}")
    if len(content) < header:
        raise IntegrityError("IDX header is cut short", where=where, got=f"{len(content)} bytes")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    expected = header + prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise IntegrityError(
            f"IDX file of shape {shape}", where=where, got=f"{len(content)} bytes", expected=str(expected)
        )
    try:
        array = np.frombuffer(content, dtype, offset=header).reshape(shape)
    except ValueError as error:
        raise IntegrityError(f"IDX file of shape {shape}: {error}", where=where) from error
    return array.astype(dtype.newbyteorder("="))
