"""Fixed-rate coding: every symbol in ceil(log2(alphabet)) bits, so any symbol is found by its position."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, unsigned


class Fixed(Coder, frozen=True, tag="fixed"):
    """Symbols of `spec.bits` bits one after another, least significant bit first."""

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        return pack_bits(symbols, spec.bits)

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        if (got := len(payload)) != (expected := (spec.count * spec.bits + 7) // 8):
            raise IntegrityError("fixed-rate payload", got=f"{got} bytes", expected=f"{expected}")
        return unpack_bits(payload, spec.bits, spec.count)


def pack_bits(symbols: Array, bits: int) -> bytes:
    """Return `symbols: [n]` in `bits` bits each (0 to 32), lowest bit first, padded with zeros."""
    if bits == 0 or symbols.size == 0:
        return b""
    period, nbytes = _period(bits)
    groups = -(-symbols.size // period)
    padded = np.zeros(groups * period, unsigned(bits))
    padded[: symbols.size] = symbols
    rows, packed = padded.reshape(groups, period), np.zeros((groups, nbytes), np.uint8)
    for place in range(period):
        for byte, shift in _bytes(place, bits):
            column = rows[:, place]
            packed[:, byte] |= (column >> shift if shift >= 0 else column << -shift).astype(np.uint8)
    return packed.tobytes()[: (symbols.size * bits + 7) // 8]


def unpack_bits(payload: bytes, bits: int, count: int) -> Array:
    """Undo `pack_bits`: return `[count]` unsigned integers."""
    if bits == 0 or count == 0:
        return np.zeros(count, np.uint8)
    period, nbytes = _period(bits)
    groups = -(-count // period)
    raw = np.frombuffer(payload.ljust(groups * nbytes, b"\0"), np.uint8).reshape(groups, nbytes)
    symbols, mask = np.zeros((groups, period), unsigned(bits)), (1 << bits) - 1
    for place in range(period):
        for byte, shift in _bytes(place, bits):
            column = raw[:, byte].astype(symbols.dtype, copy=False)
            symbols[:, place] |= column << shift if shift >= 0 else column >> -shift
    symbols &= symbols.dtype.type(mask)
    return symbols.reshape(-1)[:count]


def _period(bits: int) -> tuple[int, int]:
    """Return after how many symbols, and how many bytes, a symbol starts at a byte again."""
    common = gcd(bits, 8)
    return 8 // common, bits // common


def _bytes(place: int, bits: int) -> Iterator[tuple[int, int]]:
    """Yield each byte that holds bits of a symbol of the period, and where its lowest bit stands in the symbol."""
    start = place * bits
    for byte in range(start // 8, (start + bits + 7) // 8):
        yield byte, 8 * byte - start
