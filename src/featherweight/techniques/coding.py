"""Which coder writes a tensor's symbols: the one asked for, or the one that takes fewest bytes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal

import msgspec

from featherweight.errors import UnsupportedError
from featherweight.formats import CODERS, Coder, Encoded

CoderChoice = Coder | Literal["smallest"]


def recoded(encoded: Encoded, coder: CoderChoice, where: str) -> Encoded:
    """Return the same numbers under `coder`, or under the candidate that takes fewest bytes.

    Raises:
        UnsupportedError: the coder cannot take the stream of the tensor named `where`.
    """
    if coder == "smallest":
        fitting = [encoded.recoded(one) for one in candidates() if not one.misfit(encoded.spec)]
        return min(fitting, key=lambda entry: entry.nbytes)
    if reason := coder.misfit(encoded.spec):
        raise UnsupportedError(f"coder {coder.__struct_config__.tag} cannot take its symbols: {reason}", where=where)
    return encoded if coder == encoded.coder else encoded.recoded(coder)


def candidates() -> Iterator[Coder]:
    """Yield every coder as it is by default, and those made of others with every choice of these."""
    holds = {kind: [f.name for f in msgspec.structs.fields(kind) if isinstance(f.default, Coder)] for kind in CODERS}
    leaves = [kind() for kind, names in holds.items() if not names]
    yield from leaves
    for kind, names in holds.items():
        if names:
            for chosen in product(leaves, repeat=len(names)):
                yield kind(**dict(zip(names, chosen, strict=True)))
