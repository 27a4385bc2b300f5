"""Zeros apart from values: one bit a symbol says whether it is zero, and only the others are written."""

from __future__ import annotations

import numpy as np

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array, Coder, StreamSpec
from featherweight.formats.coders.bits import read_varint, varint
from featherweight.formats.coders.cabac import Cabac
from featherweight.formats.coders.fixed import Fixed
from featherweight.formats.coders.huffman import Huffman
from featherweight.formats.coders.rans import Rans
from featherweight.formats.coders.zstd import Zstd

Leaf = Fixed | Huffman | Rans | Zstd | Cabac
"""Coders that other coders may hold."""


class Bitmask(Coder, frozen=True, tag="bitmask"):
    """The mask (1: not zero) by one coder, the values that are not zero by another.

    Attributes:
        values: coder of the values; their alphabet lacks the zero symbol.
        mask: coder of the mask.
    """

    values: Leaf = Fixed()
    mask: Leaf = Fixed()

    def misfit(self, spec: StreamSpec) -> str:
        """Return why this coder cannot take such a stream, or an empty string if it can."""
        return values_misfit(self.values, spec)

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        nonzero = symbols != spec.zero
        values = without_zero(symbols[nonzero], spec)
        return join(
            self.mask.encode(nonzero, mask_spec(spec)),
            self.values.encode(values, values_spec(spec, values.size)),
        )

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        mask, values = split(payload)
        nonzero = self.mask.decode(mask, mask_spec(spec)).astype(bool)
        symbols = np.full(spec.count, spec.zero, spec.dtype)
        count = int(np.count_nonzero(nonzero))
        symbols[nonzero] = with_zero(self.values.decode(values, values_spec(spec, count)), spec)
        return symbols


def mask_spec(spec: StreamSpec) -> StreamSpec:
    """Return what is known of the mask of such a stream."""
    return StreamSpec(spec.count, 2, zero=0, row_length=spec.row_length)


def values_spec(spec: StreamSpec, count: int) -> StreamSpec:
    """Return what is known of the `count` values of such a stream that are not zero."""
    return StreamSpec(count, spec.alphabet - 1, row_length=max(count, 1))


def values_misfit(values: Coder, spec: StreamSpec) -> str:
    """Return why zeros cannot be taken out of such a stream, or an empty string if they can."""
    if spec.zero is None:
        return "no symbol means zero"
    return values.misfit(values_spec(spec, spec.count))


def without_zero(values: Array, spec: StreamSpec) -> Array:
    """Return `values`, none of them zero, as symbols of the alphabet without the zero symbol."""
    assert spec.zero is not None
    symbols: Array = values - (values > spec.zero).astype(spec.dtype)
    return symbols


def with_zero(values: Array, spec: StreamSpec) -> Array:
    """Undo `without_zero`."""
    assert spec.zero is not None
    symbols: Array = values.astype(spec.dtype) + (values >= spec.zero).astype(spec.dtype)
    return symbols


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
