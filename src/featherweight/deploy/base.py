"""What another runtime gets of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Sequence[Array]], list[Array]]  # inputs in order to outputs in order


@dataclass(frozen=True, eq=False)
class Made:
    """A graph as files of another runtime, which ran there and was compared.

    Attributes:
        files: their bytes, by suffix.
        floats: layers that compute in float where integers were asked for, with the reason.
        checked: in words, what was compared and how near it is.
        run: what the runtime computes of the files, on one thread, of numbers; LiteRT takes images channels last.
    """

    files: Mapping[str, bytes]
    floats: Mapping[str, str]
    checked: str
    run: Run
