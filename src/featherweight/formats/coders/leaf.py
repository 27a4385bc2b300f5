"""The coders that other coders may hold, and how two payloads become one."""

from __future__ import annotations

from featherweight.errors import IntegrityError
from featherweight.formats.coders.fixed import Fixed
from featherweight.formats.coders.huffman import Huffman
from featherweight.formats.coders.rans import Rans
from featherweight.formats.coders.zstd import Zstd

Leaf = Fixed | Huffman | Rans | Zstd


def varint(value: int) -> bytes:
    """Return `value` seven bits a byte, lowest first; all bytes but the last have their top bit set."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(payload: bytes, start: int) -> tuple[int, int]:
    """Return the integer at byte `start`, and the byte behind it.

    Raises:
        IntegrityError: it does not end within nine bytes, or not in the fewest.
    """
    value = 0
    for index, byte in enumerate(payload[start : start + 9]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if byte == 0 and index:
                break
            return value, start + index + 1
    raise IntegrityError("not a length", where=f"byte {start}")


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
