"""Formats: how the numbers of one tensor are written. `AnyFormat` is the union of built-ins and plug-ins.

A format turns numbers into symbols (lossy); a coder turns symbols into bytes (lossless). Any coder goes with
any format whose symbol stream it fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.checked import with_plugins
from featherweight.formats.astc import Astc
from featherweight.formats.base import Encoded, Format, Importance, Part
from featherweight.formats.basis import Basis
from featherweight.formats.clustered import Clustered
from featherweight.formats.coders import CODERS, AnyCoder, Coder, Fixed, StreamSpec, tag
from featherweight.formats.floating import Float, Log2
from featherweight.formats.integer import Int
from featherweight.formats.view import View

FORMATS: tuple[type[Format], ...] = with_plugins(
    "featherweight.formats", (Float, Int, Log2, Clustered, Basis, Astc)
)

if TYPE_CHECKING:
    AnyFormat = Format
else:
    AnyFormat: Any = Union[FORMATS]  # noqa: UP007

__all__ = [
    "CODERS", "FORMATS", "AnyCoder", "AnyFormat", "Astc", "Basis", "Clustered", "Coder", "Encoded", "Fixed", "Float",
    "Format", "Importance", "Int", "Log2", "Part", "StreamSpec", "View", "tag",
]  # fmt: skip
