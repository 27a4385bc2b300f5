"""Which coder writes a tensor's symbols: the one asked for, or the one that takes fewest bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from featherweight.errors import UnsupportedError
from featherweight.formats import CODERS, Coder, Encoded, tag
from featherweight.formats.coders import smallest

CoderChoice = Coder | Literal["smallest"]


def recoded(encoded: Encoded, coder: CoderChoice, where: str) -> Encoded:
    """Return the same numbers under `coder`, or under the candidate that takes fewest bytes.

    Raises:
        UnsupportedError: the coder cannot take the stream of the tensor named `where`.
    """
    spec = encoded.spec
    if coder == "smallest":
        return encoded.recoded(smallest(encoded.symbols, spec, list(candidates())))
    if reason := coder.misfit(spec):
        raise UnsupportedError(f"coder {tag(coder)} cannot take its symbols: {reason}", where=where)
    return encoded.recoded(coder)


def candidates() -> Iterator[Coder]:
    """Yield every coder as it is by default, and those that hold others with each of these throughout."""
    holds = {kind: [f.name for f in msgspec.structs.fields(kind) if isinstance(f.default, Coder)] for kind in CODERS}
    leaves = [kind() for kind, names in holds.items() if not names]
    yield from leaves
    for kind, names in holds.items():
        if names:
            yield from (kind(**dict.fromkeys(names, leaf)) for leaf in leaves)
