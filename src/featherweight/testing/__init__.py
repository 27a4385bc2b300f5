"""Conformance suites, for our own classes and for those of plug-ins."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "FormatSuite": "featherweight.testing.formats",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_HOMES[name]), name)
