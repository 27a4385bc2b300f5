"""Which coder writes a tensor's symbols: the one asked for, or the one of `QUICK` that takes fewest bytes."""

from __future__ import annotations

from typing import Literal

from featherweight.errors import UnsupportedError
from featherweight.formats import Coder, Encoded, tag
from featherweight.formats.coders import QUICK, smallest

CoderChoice = Coder | Literal["smallest"]


def recoded(encoded: Encoded, coder: CoderChoice, where: str) -> Encoded:
    """Return the same numbers under `coder`, or under the one of `QUICK` that takes fewest bytes.

    Raises:
        UnsupportedError: the coder cannot take the stream of the tensor named `where`.
    """
    spec = encoded.spec
    if coder == "smallest":
        return encoded.recoded(smallest(encoded.symbols, spec, QUICK))
    if reason := coder.misfit(spec):
        raise UnsupportedError(f"coder {tag(coder)} cannot take its symbols: {reason}", where=where)
    return encoded.recoded(coder)
