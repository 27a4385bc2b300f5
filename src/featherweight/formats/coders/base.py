"""The interface of coders: symbols to bytes and back, without loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.checked import check_fields
from featherweight.errors import IntegrityError, UnsupportedError

Array = NDArray[Any]

_TURNS = 8
_BLOCK = 1 << 16  # symbols chosen at once: temporaries stay in cache


@dataclass(frozen=True)
class StreamSpec:
    """What both sides know about a symbol stream before a byte is read.

    Attributes:
        count: number of symbols.
        alphabet: symbols are integers in `0 .. alphabet - 1`; at most 2**32.
        zero: the symbol whose value is exactly 0.0, if the format has one.
        row_length: symbols in a row of the tensor's matrix (contexts restart there).
    """

    count: int
    alphabet: int
    zero: int | None = None
    row_length: int = 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest unsigned integer type that holds every symbol."""
        return np.min_scalar_type(max(self.alphabet - 1, 0))

    @property
    def bits(self) -> int:
        """Bits of a symbol at fixed rate: 0 for an alphabet of one."""
        return max(self.alphabet - 1, 0).bit_length()


class Coder(msgspec.Struct, frozen=True, tag_field="coder", forbid_unknown_fields=True):
    """Symbols to bytes, losslessly, on every stream: empty, one symbol, all equal.

    A subclass implements `_encode` and `_decode`, and `misfit` if it cannot take every stream. Its payload is
    self-contained given the `StreamSpec`; the container keeps its length.
    """

    def __post_init__(self) -> None:
        """Check every field against its annotation, in code as in a recipe."""
        check_fields(self, tag(self))

    def misfit(self, spec: StreamSpec) -> str:
        """Return why this coder cannot take such a stream, or an empty string if it can."""
        return ""

    def encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        """Return the payload of `symbols: [count]`.

        Raises:
            UnsupportedError: the coder cannot take such a stream.
        """
        if reason := self.misfit(spec):
            raise UnsupportedError(f"coder {tag(self)} cannot take this stream: {reason}")
        if symbols.shape != (spec.count,):
            raise ValueError(f"stream of shape {symbols.shape} against a count of {spec.count}")
        return self._encode(np.ascontiguousarray(symbols, dtype=spec.dtype), spec)

    def decode(self, payload: bytes, spec: StreamSpec) -> Array:
        """Return the symbols `[count]`, of `spec.dtype`, each below the alphabet.

        Raises:
            IntegrityError: the payload is not one that `encode` writes.
        """
        if reason := self.misfit(spec):
            raise IntegrityError(f"coder {tag(self)} cannot hold this stream: {reason}")
        symbols = self._decode(bytes(payload), spec)
        if symbols.shape != (spec.count,) or (spec.count and int(symbols.max()) >= spec.alphabet):
            raise IntegrityError(f"coder {tag(self)}: the payload does not hold {spec.count} symbols")
        return symbols.astype(spec.dtype, copy=False)

    def choose(self, candidates: Array, costs: Array, spec: StreamSpec) -> Array:
        """Return for each place of a stream the candidate of least cost and bits; of equals, the first.

        Here the bits are those of an ideal static coder, `log2(count / max(n, 1))` for a symbol that occurs n
        times in what was chosen before, at first in `candidates[0]`; until nothing changes, or `_TURNS` times.

        Args:
            candidates: symbols, `[k, count]`.
            costs: of each, in bits, float32 `[k, count]`.
            spec: of the stream.
        """
        chosen: Array = candidates[0].astype(spec.dtype)
        for _ in range(_TURNS):
            counts = np.bincount(chosen, minlength=spec.alphabet)
            before, chosen = chosen, cheapest(candidates, costs, np.maximum(counts, 1) / max(spec.count, 1))
            if np.array_equal(chosen, before):
                break
        return chosen

    def _encode(self, symbols: Array, spec: StreamSpec) -> bytes:
        raise NotImplementedError

    def _decode(self, payload: bytes, spec: StreamSpec) -> Array:
        raise NotImplementedError


def cheapest(candidates: Array, costs: Array, shares: Array) -> Array:
    """Return the candidates of least sum of cost and `-log2(share)`, `[count]`; `shares: [alphabet]`."""
    bits, chosen = -np.log2(shares).astype(np.float32), np.empty(candidates.shape[1], candidates.dtype)
    for start in range(0, chosen.size, _BLOCK):
        place = slice(start, start + _BLOCK)
        best = (costs[:, place] + bits[candidates[:, place]]).argmin(axis=0)
        chosen[place] = np.take_along_axis(candidates[:, place], best[None], axis=0)[0]
    return chosen


def nothing(payload: bytes, spec: StreamSpec) -> Array:
    """Return the symbols of a stream that takes no bytes: none, or all the one there is; refuse bytes."""
    if payload:
        raise IntegrityError("bytes behind the end of an empty stream", got=len(payload), expected=0)
    return np.zeros(spec.count, spec.dtype)


def tag(thing: msgspec.Struct) -> str:
    """Return the name by which a format, coder or step is written in a recipe or a file."""
    return str(thing.__struct_config__.tag)
