"""Fixed-rate coding: every symbol in ceil(log2(alphabet)) bits, so any symbol is found by its position."""

from __future__ import annotations

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec


class Fixed(Coder, frozen=True, tag="fixed"):
    """Symbols of `spec.bits` bits one after another, least significant bit first."""

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        return pack_bits(symbols, spec.bits)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        expected = (spec.count * spec.bits + 7) // 8
        if len(payload) != expected:
            raise IntegrityError("fixed-rate payload", got=f"{len(payload)} bytes", expected=f"{expected}")
        return unpack_bits(payload, spec.bits, spec.count)


def pack_bits(symbols: Array, bits: int) -> bytes:
    """Return `symbols: [n]` in `bits` bits each (0 to 32), lowest bit first, padded with zeros."""
    if bits == 0 or symbols.size == 0:
        return b""
    if bits in (8, 16, 32):
        return symbols.astype(f"<u{bits // 8}").tobytes()
    width = _bytes(bits)
    words = symbols.astype(f"<u{width}").view(np.uint8).reshape(-1, width)
    planes = np.unpackbits(words, axis=1, bitorder="little")[:, :bits]
    return np.packbits(planes.reshape(-1), bitorder="little").tobytes()


def unpack_bits(payload: bytes, bits: int, count: int) -> Array:
    """Undo `pack_bits`: return `[count]` unsigned integers."""
    if bits == 0 or count == 0:
        return np.zeros(count, np.uint8)
    raw = np.frombuffer(payload, np.uint8)
    if bits in (8, 16, 32):
        return raw.view(f"<u{bits // 8}")[:count]
    planes = np.unpackbits(raw, bitorder="little", count=count * bits).reshape(count, bits)
    width = _bytes(bits)
    words = np.zeros((count, width), np.uint8)
    words[:, : (bits + 7) // 8] = np.packbits(planes, axis=1, bitorder="little")
    return words.view(f"<u{width}").reshape(count)


def _bytes(bits: int) -> int:
    """Return the bytes of the smallest integer type that holds `bits` bits."""
    return 1 if bits <= 8 else 2 if bits <= 16 else 4
