"""Coders: symbols to bytes without loss. `AnyCoder` is the union of the built-in ones and of plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

from featherweight.checked import with_plugins
from featherweight.errors import UnsupportedError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, tag
from featherweight.formats.coders.bits import Fixed
from featherweight.formats.coders.cabac import Cabac
from featherweight.formats.coders.huffman import Huffman
from featherweight.formats.coders.sparse import Bitmask, Gaps, Leaf
from featherweight.formats.coders.static import Rans
from featherweight.formats.coders.zstd import Zstd

CODERS: tuple[type[Coder], ...] = with_plugins(
    "featherweight.coders", (Fixed, Bitmask, Gaps, Huffman, Rans, Zstd, Cabac)
)

if TYPE_CHECKING:
    AnyCoder = Coder
else:
    AnyCoder: Any = Union[CODERS]  # noqa: UP007

# What `smallest` stands for in a recipe: tens of millions of symbols a second, and within 0.01 % of the entropy of
# independent symbols. Huffman and zstd are slower to write and seldom smaller; name them where they are wanted.
_SPARSE = Bitmask(values=Rans(), mask=Rans()), Gaps(bits=8, values=Rans(), gaps=Rans())
QUICK: tuple[Coder, ...] = (Fixed(), Rans(), *_SPARSE)


def smallest(symbols: Array, spec: StreamSpec, candidates: Sequence[Coder]) -> Coder:
    """Return the candidate that writes `symbols: [count]` in the fewest bytes; `UnsupportedError` if none can."""
    fitting = [coder for coder in candidates if not coder.misfit(spec)]
    if not fitting:
        reasons = "; ".join(f"{tag(coder)}: {coder.misfit(spec)}" for coder in candidates)
        raise UnsupportedError(f"no coder can take this stream: {reasons or 'no candidates'}")
    return min(fitting, key=lambda coder: len(coder.encode(symbols, spec)))


__all__ = [
    "CODERS", "QUICK", "AnyCoder", "Bitmask", "Cabac", "Coder", "Fixed", "Gaps", "Huffman", "Leaf", "Rans",
    "StreamSpec", "Zstd", "smallest", "tag",
]  # fmt: skip
