"""A finding: one reason why a file is larger or slower than it could be, and what to do."""

from __future__ import annotations

from typing import Literal

import msgspec

SHOWN = 4


class Finding(msgspec.Struct, frozen=True):
    """One reason why a file is larger or slower than it could be.

    Attributes:
        kind: short name of the reason.
        about: what it costs: `size`, `speed`, or `measurement` (a comparison that misleads).
        where: layers or tensors.
        what: what is the case.
        hint: what to do.
    """

    kind: str
    about: Literal["size", "speed", "measurement"]
    where: list[str]
    what: str
    hint: str

    @property
    def places(self) -> str:
        """The first few of `where`."""
        more = len(self.where) - SHOWN
        return ", ".join(self.where[:SHOWN]) + (f" and {more} more" if more > 0 else "")
