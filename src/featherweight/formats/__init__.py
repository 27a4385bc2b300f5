"""Formats: how the numbers of one tensor are written. `AnyFormat` is the union of built-ins and plug-ins.

A format turns numbers into symbols (lossy); a coder turns symbols into bytes (lossless). Any coder goes with any
format whose symbol stream it fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.formats.base import Encoded, Format, Importance, Part
from featherweight.formats.coders import CODERS, AnyCoder, Coder, Fixed, StreamSpec, tag
from featherweight.formats.view import View
from featherweight.plugins import with_plugins

FORMATS: tuple[type[Format], ...] = with_plugins("featherweight.formats", ())

if TYPE_CHECKING:
    AnyFormat = Format
else:
    AnyFormat: Any = Union[FORMATS] if FORMATS else Format

__all__ = [
    "CODERS", "FORMATS", "AnyCoder", "AnyFormat", "Coder", "Encoded", "Fixed", "Format", "Importance", "Part",
    "StreamSpec", "View", "tag",
]
