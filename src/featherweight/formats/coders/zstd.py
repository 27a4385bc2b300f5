"""Zstandard over the bytes of the symbols: for streams whose symbols depend on each other."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import zstandard
from msgspec import Meta

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, nothing
from featherweight.formats.coders.bits import pack_bits, unpack_bits

_PACKED, _PLANES = 0, 1
_REPEATED, _COMPRESSED = 1, 2  # kinds of blocks: one byte over and over; anything
_BLOCK = 1 << 17

# High levels search for matches. In streams without repetition (quantized weights) they find none and take a hundred
# times as long. So in a stream longer than the sample, layout and level are chosen on the sample, where the high level
# must save a hundredth.
_QUICK, _SAMPLE, _EFFORT = 3, 1 << 17, 1.01


class Zstd(Coder, frozen=True, tag="zstd"):
    """The blocks of a frame (RFC 8878) of packed symbols or of byte planes, whichever come out smaller.

    Attributes:
        level: most effort of the encoder, 1 to 22; any decoder reads any level.
    """

    level: Annotated[int, Meta(ge=1, le=22)] = 19

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        if not spec.count * spec.bits:
            return b""
        layouts = (_PACKED, _PLANES) if spec.bits % 8 else (_PACKED,)
        levels = sorted({min(self.level, _QUICK), self.level})
        tried = [(layout, level) for level in levels for layout in layouts]
        if spec.count > _SAMPLE:
            sample, part = symbols[:_SAMPLE], dataclasses.replace(spec, count=_SAMPLE)
            efforts = [_EFFORT if level > _QUICK else 1 for _, level in tried]
            sizes = [len(_frame(sample, part, *way)) - 1 for way in tried]
            tried = [tried[int(np.argmin(np.multiply(sizes, efforts)))]]
        return min((_frame(symbols, spec, *way) for way in tried), key=len)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        packed = (spec.count * spec.bits + 7) // 8
        if packed == 0:
            return nothing(payload, spec)
        layout = payload[0] if payload else -1
        if layout == _PACKED:
            return unpack_bits(_decompress(payload[1:], packed), spec.bits, spec.count)
        if layout == _PLANES:
            width = (spec.bits + 7) // 8
            raw = np.frombuffer(_decompress(payload[1:], width * spec.count), np.uint8)
            words = np.zeros((spec.count, spec.dtype.itemsize), np.uint8)
            words[:, :width] = raw.reshape(width, spec.count).T
            return words.view(spec.dtype.newbyteorder("<")).reshape(spec.count)
        raise IntegrityError("Zstandard payload", got=f"layout {layout}", expected=f"{_PACKED} or {_PLANES}")


def _frame(symbols: Array, spec: StreamSpec, layout: int, level: int) -> bytes:
    """Return a layout and the blocks of a frame; planes are all lowest bytes, then all next ones."""
    raw = pack_bits(symbols, spec.bits)
    if layout == _PLANES:
        words = symbols.astype(spec.dtype.newbyteorder("<")).view(np.uint8).reshape(spec.count, -1)
        raw = words[:, : (spec.bits + 7) // 8].T.tobytes()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(raw), format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False,
        write_checksum=False, write_dict_id=False,
    )  # fmt: skip
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(raw)
    return bytes([layout]) + frame[len(_header(len(raw))) :]


def _decompress(blocks: bytes, size: int) -> bytes:
    """Return the `size` bytes of a frame's blocks; refuse blocks of another frame."""
    if (most := _most(blocks)) < size:
        raise IntegrityError("Zstandard payload", got=f"at most {most} bytes", expected=f"{size}")
    decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    try:
        raw = decompressor.decompress(_header(size) + blocks, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"Zstandard payload: {error}") from None
    if len(raw) != size:
        raise IntegrityError("Zstandard payload", got=f"{len(raw)} bytes", expected=f"{size}")
    return raw


def _most(blocks: bytes) -> int:
    """Return how many bytes `blocks` can hold at most (RFC 8878, 3.1.1.2), so that no more is allocated."""
    most, at, last = 0, 0, False
    while not last and at + 3 <= len(blocks):
        header = int.from_bytes(blocks[at : at + 3], "little")
        last, kind, length = header & 1 == 1, header >> 1 & 3, header >> 3
        most += _BLOCK if kind == _COMPRESSED else min(length, _BLOCK)
        at += 4 if kind == _REPEATED else 3 + length
    return most


def _header(size: int) -> bytes:
    """Return a magicless frame header: no content size, checksum or dictionary, the least window for `size`.

    It says nothing that both sides do not know; unwritten, it cannot be forged either.
    """
    exponent = min(max((size - 1).bit_length(), 10), 27)
    return bytes([0, (exponent - 10) << 3])
