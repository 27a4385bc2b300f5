"""Integers of few bits, several to a byte, as ONNX Runtime's MatMulNBits reads them and as rows are gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.formats import Encoded, Int
from featherweight.formats.integer import grid

Array = NDArray[Any]

BITS = 8  # of a byte
LEAST_BLOCK, WHOLE = 16, 128  # weights that share a scale: at least, and where a whole row does


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight of unsigned integers: `(code - zero) * scale`.

    Attributes:
        codes: uint8 `[rows, blocks, block * bits / 8]`, the first of a byte in its lowest bits.
        scale: float32 `[rows, blocks]`.
        zero: uint8 `[rows, blocks]`; None: half the grid, `2 ** (bits - 1)`, everywhere.
        bits: of each integer: 2, 4 or 8.
        block: integers that share a scale; those behind the last column of the weight stand for 0.
    """

    codes: Array
    scale: Array
    zero: Array | None
    bits: int
    block: int

    @property
    def packed_zeros(self) -> Array | None:
        """The zero points as MatMulNBits reads them, packed like the codes: uint8 `[rows, bytes]`."""
        return None if self.zero is None else joined(self.zero, self.bits)


def packed(encoded: Encoded, whole: int = WHOLE, *, least: int = 1) -> Packed:
    """Return a weight of which `packing_obstacle` is empty.

    Args:
        encoded: the weight, its rows those of its tensor.
        whole: the block where a row has one scale; 0: the row.
        least: bits that an integer takes at least.
    """
    view, per, own = encoded.view, encoded.format.per, encoded.format.bits  # type: ignore[attr-defined]
    bits = max(storage(own), storage(least))
    if isinstance(per, int):  # a group that is longer than a row is as long as it has to be
        block = min(per, max(LEAST_BLOCK, 1 << (view.cols - 1).bit_length()))
        bits = bits if block * bits % BITS == 0 else BITS
    else:
        block = whole or -(-view.cols * bits // BITS) * BITS // bits
    blocks = -(-view.cols // block)
    half = 1 << bits - 1
    steps: Array = encoded.symbols.astype(np.int16).reshape(view.rows, view.cols)
    filled: Array = np.pad(steps, [(0, 0), (0, blocks * block - view.cols)])
    steps, scale = (
        filled.reshape(view.rows, blocks, block),
        _by_block(encoded, encoded.parts["scale"], blocks),
    )
    point = encoded.parts.get("zero_point", np.zeros(1))
    zero = _by_block(encoded, point, blocks).astype(np.int16)
    steps = np.where(steps > grid(own)[1] - zero[..., None], steps - (1 << own), steps)
    codes = joined((steps + zero[..., None] + half).astype(np.uint8), bits)
    return Packed(
        codes, scale.astype(np.float32), (zero + half).astype(np.uint8) if zero.any() else None, bits, block
    )


def packing_obstacle(encoded: Encoded) -> str:
    """Return why the integers of a matrix cannot be packed row by row, or an empty string."""
    if not isinstance(encoded.format, Int):
        return "its weight is not encoded as integers"
    if encoded.format.bits > BITS:
        return f"its weight has {encoded.format.bits} bits, more than {BITS}"
    if encoded.view.permutation != tuple(range(len(encoded.view.shape))):
        return "its rows are not its outputs"
    return ""


def storage(bits: int) -> int:
    """Return in how many bits an integer of `bits` bits is stored.

    >>> [storage(bits) for bits in range(1, 9)]
    [2, 2, 4, 4, 8, 8, 8, 8]
    """
    return 2 if bits <= 2 else 4 if bits <= 4 else BITS


def joined(codes: Array, bits: int) -> Array:
    """Return bytes of unsigned integers along the last axis, the first in the lowest bits; the last byte is filled.

    >>> joined(np.uint8([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    share = BITS // bits
    padding = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % share)]
    parts = np.pad(codes, padding).reshape(*codes.shape[:-1], -1, share)
    made: Array = np.bitwise_or.reduce(parts << (bits * np.arange(share, dtype=np.uint8)), axis=-1)
    return made


def _by_block(encoded: Encoded, values: Array, blocks: int) -> Array:
    """Return scales or zero points, one a block `[rows, blocks]`."""
    view, each = encoded.view, isinstance(encoded.format.per, int)  # type: ignore[attr-defined]
    values = values.reshape((view.rows, -1) if each and values.size > 1 else (-1, 1))
    return np.broadcast_to(np.repeat(values, view.rows // len(values), 0), (view.rows, blocks))
