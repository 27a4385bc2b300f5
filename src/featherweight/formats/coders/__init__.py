"""Coders: symbols to bytes without loss. `AnyCoder` is the union of the built-in ones and of plug-ins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.formats.coders.base import Coder, StreamSpec, tag
from featherweight.formats.coders.fixed import Fixed
from featherweight.plugins import with_plugins

CODERS: tuple[type[Coder], ...] = with_plugins("featherweight.coders", (Fixed,))

if TYPE_CHECKING:
    AnyCoder = Coder
else:
    AnyCoder: Any = Union[CODERS]

__all__ = ["CODERS", "AnyCoder", "Coder", "Fixed", "StreamSpec", "tag"]
