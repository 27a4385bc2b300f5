"""Coders: symbols to bytes without loss. `AnyCoder` is the union of the built-in ones and of plug-ins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.formats.coders.base import Coder, StreamSpec, tag
from featherweight.formats.coders.bitmask import Bitmask
from featherweight.formats.coders.fixed import Fixed
from featherweight.formats.coders.gaps import Gaps
from featherweight.formats.coders.huffman import Huffman
from featherweight.formats.coders.leaf import Leaf
from featherweight.formats.coders.rans import Rans
from featherweight.formats.coders.smallest import QUICK, smallest
from featherweight.formats.coders.zstd import Zstd
from featherweight.plugins import with_plugins

CODERS: tuple[type[Coder], ...] = with_plugins(
    "featherweight.coders", (Fixed, Bitmask, Gaps, Huffman, Rans, Zstd)
)

if TYPE_CHECKING:
    AnyCoder = Coder
else:
    AnyCoder: Any = Union[CODERS]  # noqa: UP007

__all__ = [
    "CODERS",
    "QUICK",
    "AnyCoder",
    "Bitmask",
    "Coder",
    "Fixed",
    "Gaps",
    "Huffman",
    "Leaf",
    "Rans",
    "StreamSpec",
    "Zstd",
    "smallest",
    "tag",
]
