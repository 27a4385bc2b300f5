"""Context-adaptive binary arithmetic coding: the statistics are learned on the way, from the neighbours."""

from __future__ import annotations

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, nothing
from featherweight.formats.coders.bits import read_varint, varint

_SPLIT, _SLOW = 1, 2
_SAMPLE = 1 << 15  # symbols on which the rate of adaptation is chosen
Order = tuple[int, int, int]
"""Alphabet, the symbol of value 0, and the split with which values are smallest; -1: cyclic order."""


class Cabac(Coder, frozen=True, tag="cabac"):
    """DeepCABAC's binarisation and contexts; below the entropy of the symbols where zeros gather.

    A symbol is a signed integer v, 0 the zero symbol: is v != 0 (contexts: the previous value in the row is
    zero, negative or positive; and how dense the column was in the rows above, which DeepCABAC does not ask);
    is v < 0; is |v| > 1, 2, ... 10; then an Exp-Golomb code. Nothing is stored of the statistics, which costs
    a few bytes less than a table in small tensors and adapts in large ones.

    References: S. Wiedemann et al., "DeepCABAC: A universal compression algorithm for deep neural networks",
    2019, arXiv 1907.11900, section III; ISO/IEC 15938-17 (two rates of adaptation).
    """

    def choose(self, candidates: Array, costs: Array, spec: StreamSpec) -> Array:
        """Return the same by the bits of the contexts as they stand when the encoder comes to that place (DeepCABAC).

        The first candidate of each place settles order and rate of adaptation.
        """
        if spec.count == 0 or spec.alphabet == 1:
            return super().choose(candidates, costs, spec)
        from featherweight.formats.coders.kernels import RATES, cheapest

        order, slow, _ = _arrangement(candidates[0], spec)
        found = cheapest(candidates.astype(np.uint32), costs, spec.row_length, order, RATES[slow])
        return np.asarray(found.astype(spec.dtype))

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        if spec.count == 0 or spec.alphabet == 1:
            return b""
        order, slow, body = _arrangement(symbols, spec)
        _, centre, split = order
        head = (b"" if spec.zero is not None else varint(centre)) + (b"" if split < 0 else varint(split))
        body = body if spec.count <= _SAMPLE else _write(symbols, spec.row_length, order, slow)
        return bytes([_SPLIT * (split >= 0) | _SLOW * slow]) + head + body

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        if spec.count == 0 or spec.alphabet == 1:
            return nothing(payload, spec)
        if not payload or payload[0] > _SPLIT | _SLOW:
            raise IntegrityError("CABAC payload: no such arrangement", got=payload[:1].hex() or "nothing")
        centre, split, position = spec.zero, -1, 1
        if centre is None:
            centre, position = read_varint(payload, position)
        if payload[0] & _SPLIT:
            split, position = read_varint(payload, position)
        if (most := max(centre, split)) >= spec.alphabet:
            raise IntegrityError("CABAC payload: order", got=most, expected=f"below {spec.alphabet}")
        return _read(payload[position:], spec, (spec.alphabet, centre, split), payload[0] // _SLOW)


def _arrangement(symbols: Array, spec: StreamSpec) -> tuple[Order, int, bytes]:
    """Return the order, whether slow adaptation is better, and the code of the sample that told."""
    order = (spec.alphabet, *_centre_and_split(symbols, spec))
    tried = [_write(symbols[:_SAMPLE], spec.row_length, order, slow) for slow in (0, 1)]
    slow = int(len(tried[1]) < len(tried[0]))
    return order, slow, tried[slow]


def _centre_and_split(symbols: Array, spec: StreamSpec) -> tuple[int, int]:
    from featherweight.formats.coders.kernels import magnitude

    distinct, counts = np.unique(symbols, return_counts=True)
    distinct = distinct.astype(np.int64)
    centre = int(distinct[counts.argmax()]) if spec.zero is None else spec.zero
    others = distinct != centre
    ranks, below = distinct[others] - (distinct[others] > centre), np.cumsum(counts[others])
    if not ranks.size:
        return centre, -1
    median = int(ranks[np.searchsorted(below, below[-1] / 2)])
    cyclic, split = (magnitude(distinct, counts, spec.alphabet, centre, s) for s in (-1, median))
    return centre, median if split < cyclic else -1


def _write(symbols: Array, row_length: int, order: Order, slow: int) -> bytes:
    from featherweight.formats.coders.kernels import RATES, finished, walk

    wide, digits = symbols.astype(np.uint32), np.zeros(symbols.size // 2 + 1024, np.uint16)
    _, digits, interval = walk(wide, digits, wide.size, row_length, order, RATES[slow], False)
    return bytes(finished(digits, interval).tobytes())


def _read(body: bytes, spec: StreamSpec, order: Order, slow: int) -> Array:
    from featherweight.formats.coders.kernels import MARGIN, MOST_SYMBOLS_A_BYTE, RATES, walk

    if spec.count > MOST_SYMBOLS_A_BYTE * len(body):
        raise IntegrityError(f"CABAC payload: too few bytes for {spec.count} symbols", got=len(body))
    digits = np.frombuffer(body + bytes(MARGIN), np.uint8).astype(np.uint16)
    room, rest = np.zeros(min(spec.count, _SAMPLE), np.uint32), (spec.row_length, order, RATES[slow], True)
    symbols, _, (low, length, position) = walk(room, digits, spec.count, *rest)
    if length == 0 or position != len(body) + 4 or low >= 1 << 32:
        raise IntegrityError("CABAC payload: not what an encoder writes", got=f"{len(body)} bytes")
    return symbols.astype(spec.dtype)
