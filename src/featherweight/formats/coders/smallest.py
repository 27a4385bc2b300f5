"""The coder with the fewest bytes among candidates."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.errors import UnsupportedError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, tag
from featherweight.formats.coders.bitmask import Bitmask
from featherweight.formats.coders.fixed import Fixed
from featherweight.formats.coders.gaps import Gaps
from featherweight.formats.coders.rans import Rans

# What `smallest` stands for in a recipe: tens of millions of symbols a second, and within 0.01 % of the entropy of
# independent symbols. Huffman and zstd are slower to write and seldom smaller; name them where they are wanted.
QUICK: tuple[Coder, ...] = (
    Fixed(),
    Rans(),
    Bitmask(values=Rans(), mask=Rans()),
    Gaps(bits=8, values=Rans(), gaps=Rans()),
)


def smallest(symbols: Array, spec: StreamSpec, candidates: Sequence[Coder]) -> Coder:
    """Return the candidate that writes `symbols: [count]` in the fewest bytes; the earlier of equals.

    Raises:
        UnsupportedError: no candidate can take such a stream.
    """
    fitting = [coder for coder in candidates if not coder.misfit(spec)]
    if not fitting:
        reasons = "; ".join(f"{tag(coder)}: {coder.misfit(spec)}" for coder in candidates)
        raise UnsupportedError(f"no coder can take this stream: {reasons or 'no candidates'}")
    return min(fitting, key=lambda coder: len(coder.encode(symbols, spec)))
