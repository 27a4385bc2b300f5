"""A file as C99 for microcontrollers: `c_of`."""

from featherweight.export.c.source import c_of
from featherweight.export.c.text import CSource

__all__ = ["CSource", "c_of"]
