"""The coders that other coders may hold, and how two payloads become one."""

from __future__ import annotations

from featherweight.errors import IntegrityError
from featherweight.formats.coders.cabac import Cabac
from featherweight.formats.coders.fixed import Fixed
from featherweight.formats.coders.huffman import Huffman
from featherweight.formats.coders.rans import Rans
from featherweight.formats.coders.varints import read_varint, varint
from featherweight.formats.coders.zstd import Zstd

Leaf = Fixed | Huffman | Rans | Zstd | Cabac


def join(first: bytes, second: bytes) -> bytes:
    """Return the length of `first`, `first` and `second`."""
    return varint(len(first)) + first + second


def split(payload: bytes, start: int = 0) -> tuple[bytes, bytes]:
    """Undo `join`, from byte `start` on.

    Raises:
        IntegrityError: the payload ends too early.
    """
    size, start = read_varint(payload, start)
    if size > len(payload) - start:
        raise IntegrityError(
            "payload cut short", got=f"{len(payload) - start} bytes", expected=f"at least {size}"
        )
    return payload[start : start + size], payload[start + size :]
