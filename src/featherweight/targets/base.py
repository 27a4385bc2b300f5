"""What a target makes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Made:
    """A graph as files of another runtime, which ran there and was compared.

    Attributes:
        files: their bytes, by suffix.
        floats: layers that compute in float where integers were asked for, with the reason.
        checked: in words, what was compared and how near it is.
    """

    files: Mapping[str, bytes]
    floats: Mapping[str, str]
    checked: str
