"""Bit strings: symbols at fixed rate, fields of any width, lists of small integers; and lengths in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec

Fields = tuple[Array, Array]
"""Values and their widths in bits, `[n]` each."""

_ALL_ZERO = 31


class Fixed(Coder, frozen=True, tag="fixed"):
    """Symbols of `spec.bits` bits one after another, least significant bit first: each is found by its position."""

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
    period, nbytes, moves = _period(bits)
    groups = -(-symbols.size // period)
    padded = np.zeros(groups * period, np.min_scalar_type((1 << bits) - 1))
    padded[: symbols.size] = symbols
    rows, packed = padded.reshape(groups, period), np.zeros((groups, nbytes), np.uint8)
    for place, byte, shift in moves:
        column = rows[:, place]
        packed[:, byte] |= (column >> shift if shift >= 0 else column << -shift).astype(np.uint8)
    return packed.tobytes()[: (symbols.size * bits + 7) // 8]


def unpack_bits(payload: bytes, bits: int, count: int) -> Array:
    """Undo `pack_bits`: return `[count]` unsigned integers."""
    if bits == 0 or count == 0:
        return np.zeros(count, np.uint8)
    period, nbytes, moves = _period(bits)
    groups = -(-count // period)
    raw = np.frombuffer(payload.ljust(groups * nbytes, b"\0"), np.uint8).reshape(groups, nbytes)
    symbols = np.zeros((groups, period), np.min_scalar_type((1 << bits) - 1))
    for place, byte, shift in moves:
        column = raw[:, byte].astype(symbols.dtype, copy=False)
        symbols[:, place] |= column << shift if shift >= 0 else column >> -shift
    symbols &= symbols.dtype.type((1 << bits) - 1)
    return symbols.reshape(-1)[:count]


def _period(bits: int) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Return after how many symbols, and bytes, a symbol starts at a byte again; and what lies where until then.

    That is, for each byte that holds bits of a symbol: which symbol, which byte, and where the lowest bit of the byte
    stands in the symbol.
    """
    period, nbytes = 8 // gcd(bits, 8), bits // gcd(bits, 8)
    shared = [(k, byte, 8 * byte - k * bits) for k in range(period) for byte in range(nbytes)]
    return period, nbytes, [(k, byte, shift) for k, byte, shift in shared if -8 < shift < bits]


def pack(*fields: Fields) -> bytes:
    """Return the values one after another, each in its width (0 to 32 bits); the last byte is padded with 0.

    >>> pack((np.array([1, 5]), np.array([1, 3]))).hex()  # 1 101, then padding
    'd0'
    """
    values = np.concatenate([values for values, _ in fields]).astype(np.uint64)
    widths = np.concatenate([widths for _, widths in fields]).astype(np.int64)
    ends = np.cumsum(widths)
    size = int(ends[-1]) if ends.size else 0
    starts = ends - widths
    aligned = values << (64 - widths - (starts & 31)).astype(np.uint64)
    word = starts >> 5
    length = size // 32 + 2
    # Fields do not overlap, so that sums of halves stay below 2**32: exact in the float64 of `bincount`.
    halves = np.bincount(word, aligned >> np.uint64(32), length)
    halves += np.bincount(word + 1, aligned & np.uint64(0xFFFFFFFF), length)
    return halves.astype(">u4").tobytes()[: (size + 7) // 8]


@dataclass(frozen=True)
class Bits:
    """A payload read as a bit string; positions count bits from its start."""

    payload: bytes

    @property
    def size(self) -> int:
        """Number of bits."""
        return 8 * len(self.payload)

    @cached_property
    def _windows(self) -> Array:
        """The 64 bits from every 32nd one on; zeros follow the payload."""
        padded = self.payload + bytes(8 + -len(self.payload) % 4)
        words = np.frombuffer(padded, ">u4").astype(np.uint64)
        return (words[:-1] << np.uint64(32)) | words[1:]

    def peek(self, positions: Array, widths: Array | int) -> Array:
        """Return the bits from each position on, so many (0 to 32) as its width says, as integers."""
        windows = np.take(self._windows, positions >> 5, mode="clip")
        windows <<= (positions & 31).astype(np.uint64)
        windows >>= np.asarray(64 - widths).astype(np.uint64)
        return windows


def integers(values: Array) -> Fields:
    """Return the fields of a list of integers below 2**31, whose length the reader must know.

    Five bits hold k. If k is 31 all values are zero and nothing follows. Otherwise each value v is an
    Exp-Golomb code of order k: with u = v + 2**k and e = bit_length(u) - k - 1, first come all e in unary
    (e zeros and a one), then the low e + k bits of every u.
    """
    order, widths = _best_order(values)
    head = (np.array([order]), np.array([5]))
    if order == _ALL_ZERO:
        return head
    u = values.astype(np.int64) + (1 << order)
    low = u - (np.int64(1) << widths)
    ones = np.ones(u.size, np.int64)
    return np.concatenate([head[0], ones, low]), np.concatenate([head[1], widths - order + 1, widths])


def integers_size(values: Array) -> int:
    """Return the bits of `integers(values)`."""
    order, widths = _best_order(values)
    return 5 if order == _ALL_ZERO else 5 + int((2 * widths - order + 1).sum())


def _best_order(values: Array) -> tuple[int, Array]:
    """Return the order k that gives the fewest bits (the lowest of equals), and the widths e + k."""
    most = int(values.max(initial=0))
    if most == 0:
        return _ALL_ZERO, np.zeros(0, np.int64)
    best, least = (0, np.zeros(0, np.int64)), 0
    for order in range(min(most.bit_length() + 1, _ALL_ZERO)):
        widths = np.frexp((values + (1 << order)).astype(np.float64))[1].astype(np.int64) - 1
        size = int((2 * widths - order + 1).sum())
        if not least or size < least:
            best, least = (order, widths), size
    return best


def read_integers(bits: Bits, start: int, count: int) -> tuple[Array, int]:
    """Undo `integers`: return `[count]` values and the position behind them; refuse bits that end too early."""
    if start + 5 > bits.size:
        raise IntegrityError("a list of integers is cut short")
    order = int(bits.peek(np.array([start]), 5)[0])
    start += 5
    if order == _ALL_ZERO or count == 0:
        return np.zeros(count, np.int64), start
    raw = np.frombuffer(bits.payload, np.uint8)[start >> 3 : (start >> 3) + 4 * count + 1]
    ones = np.flatnonzero(np.unpackbits(raw)[start & 7 :])[:count]
    widths = np.diff(ones, prepend=-1) - 1 + order
    if ones.size < count or int(widths.max()) > 31:
        raise IntegrityError("a list of integers is damaged")
    start += int(ones[-1]) + 1
    ends = start + np.cumsum(widths)
    if int(ends[-1]) > bits.size:
        raise IntegrityError("a list of integers is cut short")
    low = bits.peek(ends - widths, widths).astype(np.int64)
    return low + (np.int64(1) << widths) - (1 << order), int(ends[-1])


def varint(value: int) -> bytes:
    """Return `value` seven bits a byte, lowest first; all bytes but the last have their top bit set."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(payload: bytes, start: int) -> tuple[int, int]:
    """Return the integer at byte `start` and the byte behind it; refuse one longer than it need be, or than 9 bytes."""
    value = 0
    for index, byte in enumerate(payload[start : start + 9]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if byte == 0 and index:
                break
            return value, start + index + 1
    raise IntegrityError("not a length", where=f"byte {start}")
