"""Lengths of any size in as few bytes as they need."""

from __future__ import annotations

from featherweight.errors import IntegrityError


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
