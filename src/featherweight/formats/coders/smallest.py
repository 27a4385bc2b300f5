"""The coder with the fewest bytes among candidates."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.errors import UnsupportedError
from featherweight.formats.coders.base import Array, Coder, StreamSpec, tag


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
