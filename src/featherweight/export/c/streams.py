"""Streams of symbols for the decoders in C: what describes one, and the memory that reading it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featherweight.artifact import Artifact
from featherweight.artifact.artifact import LazyEncoded
from featherweight.errors import UnsupportedError
from featherweight.formats import Encoded
from featherweight.formats.coders import Bitmask, Cabac, Coder, Fixed, Gaps, Huffman, Rans, StreamSpec, tag
from featherweight.formats.coders.bits import Bits, read_varint
from featherweight.formats.coders.huffman import MOST_LEAVES
from featherweight.formats.coders.static import read_frequencies
from featherweight.formats.view import Array

LEAVES: tuple[type[Coder], ...] = (Fixed, Rans, Huffman, Cabac)  # in the order of their numbers in stream.h
MOST_ALPHABET = 1 << 16
NO_ZERO = 0xFFFFFFFF
_GREATER_CONTEXTS = 41  # of Cabac, before those of remainders


@dataclass(frozen=True, eq=False)
class Code:
    """A stream as its decoder in C gets it.

    Attributes:
        payload: the bytes, as the file has them.
        spec: what is known of the stream.
        coder: how it is coded.
        work: bytes of memory that decoding takes.
    """

    payload: bytes
    spec: StreamSpec
    coder: Coder
    work: int

    @property
    def parts(self) -> set[str]:
        """The decoders that it needs, by the names of their files."""
        return {
            *map(tag, leaves(self.coder)),
            *({"sparse"} if isinstance(self.coder, Bitmask | Gaps) else ()),
        }

    @property
    def fields(self) -> list[int]:
        """The fields of `fw_code` behind the payload."""
        spec, coder = self.spec, self.coder
        zero = NO_ZERO if spec.zero is None else spec.zero
        known = [len(self.payload), spec.count, spec.alphabet, zero, spec.row_length]
        numbers = [LEAVES.index(type(leaf)) for leaf in leaves(coder)]
        if isinstance(coder, Gaps):
            return [*known, 2, *numbers, coder.bits]
        return [*known, 1, *numbers, 1] if isinstance(coder, Bitmask) else [*known, 0, *numbers, 0, 1]


def leaves(coder: Coder) -> list[Coder]:
    """Return the coders that write bytes: of values, and of their places if they are apart."""
    if isinstance(coder, Bitmask):
        return [coder.values, coder.mask]
    return [coder.values, coder.gaps] if isinstance(coder, Gaps) else [coder]


def misfit(coder: Coder, spec: StreamSpec) -> str:
    """Return why there is no decoder in C for such a stream, or an empty string."""
    if missing := [tag(leaf) for leaf in leaves(coder) if type(leaf) not in LEAVES]:
        return f"coder {missing[0]}"
    return f"{spec.alphabet} symbols" if spec.alphabet > MOST_ALPHABET else ""


def code_of(payload: bytes, symbols: Array, coder: Coder, spec: StreamSpec) -> Code:
    """Return what reads a stream; `misfit` is empty, `symbols: [count]` are those that `payload` holds."""
    if isinstance(coder, Bitmask | Gaps):
        position, gaps = 0, 0
        if isinstance(coder, Gaps):
            gaps, position = read_varint(payload, 0)
        size, start = read_varint(payload, position)
        where, behind = payload[start : start + size], payload[start + size :]
        values = int(np.count_nonzero(symbols != spec.zero))
        if isinstance(coder, Gaps):
            kept, peak = _work(coder.gaps, where, StreamSpec(gaps, 1 << coder.bits, None, max(gaps, 1)))
        else:
            kept, peak = _work(coder.mask, where, StreamSpec(spec.count, 2, 0, spec.row_length))
        of_values = StreamSpec(values, spec.alphabet - 1, None, max(values, 1))
        work = max(peak, kept + _work(coder.values, behind, of_values)[1])
    else:
        work = _work(coder, payload, spec)[1]
    return Code(payload, spec, coder, work)


def _work(coder: Coder, payload: bytes, spec: StreamSpec) -> tuple[int, int]:
    """Return the bytes that one coder keeps while symbols are read, and the most that it takes before."""
    if isinstance(coder, Fixed) or spec.count == 0:
        return 0, 0
    if isinstance(coder, Cabac):
        most = spec.alphabet.bit_length() - 1
        models = _GREATER_CONTEXTS + most + 1 + most * (most + 1) // 2
        size = _room(3 * models, 4) + _room(min(spec.row_length, spec.count), 2) if spec.alphabet > 1 else 0
        return size, size
    distinct = int(read_frequencies(Bits(payload), spec)[0].symbols.size)
    if isinstance(coder, Rans):
        size = _room(distinct + 1, 4) + _room(distinct, 2) + _room(256, 2)
        return size, size
    if distinct == 1:
        return 8, 8
    inner = max(-(-min(MOST_LEAVES, spec.count) // (distinct - 1)) - 1, 1)
    kept = _room(distinct, 2) + _room(inner * distinct, 2) + 2 * _room(inner, 2)
    return kept, kept + _room(distinct, 4) + _room(inner * distinct, 4) + _room(inner * distinct, 1)


def _room(count: int, size: int) -> int:
    """Return the bytes of `count` things, aligned to 8."""
    return -(-count * size // 8) * 8


def codes_of(artifact: Artifact, encoded: Mapping[str, Encoded]) -> dict[str, Code]:
    """Return the streams of tensors, by name, as the file has them; of those in another format now, coded again."""
    reasons = {name: misfit(tensor.coder, tensor.spec) for name, tensor in encoded.items()}
    if refused := [f"{name} ({reason})" for name, reason in reasons.items() if reason]:
        what = f"tensors whose coder has no decoder in C: {', '.join(refused)}"
        hint = 'choose rans, cabac, huffman or fixed in the recipe: coder = { coder = "rans" }'
        raise UnsupportedError(what, hint=hint)
    found = {}
    for name, tensor in encoded.items():
        lazy = artifact.lazy[name]
        assert isinstance(lazy, LazyEncoded)
        payload = bytes(lazy.payload) if lazy.entry.format == tensor.format else tensor.payload
        found[name] = code_of(payload, tensor.symbols, tensor.coder, tensor.spec)
    return found
