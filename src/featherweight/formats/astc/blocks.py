"""Blocks as fields (mode, partitions, endpoints, weights), as 16 bytes, as texels, and as an `.astc` file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats.astc.tables import MOST_ENDPOINTS, MOST_WEIGHTS, Array, Footprint, geometry, size

MAGIC = 0x5CA1AB13
MOST_TEXELS = 1 << 24  # of a side
LUMINANCE, RGBA = 0, 12  # endpoint modes that give the ends themselves
DecodeMode = Literal["unorm8", "float16"]


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of one plane of weights, all partitions of a block with one kind of endpoints.

    Attributes:
        footprint: texels of a block.
        mode: the 11 bits that say its grid of weights, uint16 `[n]`.
        partitions: 1 to 4, uint8 `[n]`.
        seed: which of 1024 partitionings, uint16 `[n]`.
        kind: endpoint mode, uint8 `[n]`; 0 luminance, 12 RGBA.
        endpoints: integers of the range that the bits left imply, uint8 `[n, 18]`: for each partition and
            channel both ends.
        weights: integers of the mode's range, uint8 `[n, 64]`, row by row of the grid.
    """

    footprint: Footprint
    mode: Array
    partitions: Array
    seed: Array
    kind: Array
    endpoints: Array
    weights: Array

    def pack(self) -> Array:
        """Return the bytes, uint8 `[n, 16]`."""
        from featherweight.formats.astc.physical import pack_all

        return pack_all(self.mode, self.partitions, self.seed, self.kind, self.endpoints, self.weights)

    @classmethod
    def unpack(cls, content: Array, footprint: Footprint) -> Blocks:
        """Return the fields of `content: [n, 16]`.

        Raises:
            IntegrityError: a block is malformed.
            UnsupportedError: a block has two planes, one colour alone or several kinds of endpoints.
        """
        from featherweight.formats.astc.physical import read_all

        fields, endpoints, weights, bad = read_all(halves(content), *size(footprint))
        check(*bad)
        _, mode, count, seed, kinds, _, _, apart = fields.T
        place, kind = np.arange(4), kinds[:, None]
        mixed = ((kind >> 4 * place ^ kind) & 15 > 0) & (place < count[:, None])
        if ((count == 0) | (apart >= 0) | mixed.any(axis=1)).any():
            raise UnsupportedError("blocks of one colour, two planes or mixed endpoints have no such meaning")
        return cls(
            footprint, mode.astype(np.uint16), count.astype(np.uint8), seed.astype(np.uint16),
            (kinds & 15).astype(np.uint8), endpoints[:, :MOST_ENDPOINTS].astype(np.uint8),
            weights[:, :MOST_WEIGHTS].astype(np.uint8),
        )  # fmt: skip


def halves(content: Array) -> Array:
    """Return bytes of blocks, `[..., 16]`, as two integers each, uint64 `[..., 2]`."""
    return np.ascontiguousarray(content).view("<u8").astype(np.uint64, copy=False)


def check(number: int, fault: int) -> None:
    """Refuse a block that a kernel found malformed."""
    from featherweight.formats.astc.physical import FAULTS

    if fault:
        raise IntegrityError(f"malformed ASTC block {number}: {FAULTS[fault]}")


def decode_texels(content: Array, footprint: Footprint, rows: slice, cols: slice, channels: int) -> Array:
    """Return a window of a texture, uint16 `[rows, cols, channels]`; only the blocks that it touches are read.

    These are the 16 bits before rounding to the texel's type: see `texel_values`. A malformed block is refused.

    Args:
        content: bytes of all blocks, `[block rows, block columns, 16]`.
        footprint: texels of a block.
        rows: of texels, with start and stop.
        cols: of texels, with start and stop.
        channels: 1, the first one, or 4.
    """
    from featherweight.formats.astc.decode import decode_blocks

    width, height = size(footprint)
    top, left = rows.start // height, cols.start // width
    touched = content[top : -(-rows.stop // height), left : -(-cols.stop // width)]
    texels = np.empty((rows.stop - rows.start, cols.stop - cols.start, channels), np.uint16)
    first = rows.start - top * height, cols.start - left * width
    check(*decode_blocks(halves(touched), geometry(footprint), first, texels))
    return texels


def texel_values(texels: Array, mode: DecodeMode) -> Array:
    """Return the values that hardware returns for 16-bit channels, float32, 0 to 1.

    `unorm8` keeps the upper eight bits `n` and reads `n / 255`. `float16` reads `C / 65536`, rounded toward
    zero, and 1 of 65535.

    >>> [round(float(v), 4) for v in texel_values(np.array([255, 256, 65535], np.uint16), "unorm8")]
    [0.0, 0.0039, 1.0]
    """
    if mode == "unorm8":
        return (texels >> 8).astype(np.float32) / np.float32(255)
    return np.asarray(_float16_values()[texels])


@lru_cache
def _float16_values() -> Array:
    """Return the value of each of 2**16 channels in float16, as float32."""
    fractions = np.arange(1 << 16) / 65536
    exponent = np.maximum(np.frexp(fractions)[1] - 11, -24)
    values = np.floor(np.ldexp(fractions, -exponent)) * np.ldexp(1.0, exponent)
    return np.append(values[:-1], 1.0).astype(np.float32)


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
