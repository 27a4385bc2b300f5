"""Conformance suites for plug-ins: subclass one, name your class, and inherit its laws as tests."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_SUITES = {"CoderSuite": "coders", "FormatSuite": "formats", "StepSuite": "steps"}

__all__ = ["CoderSuite", "FormatSuite", "StepSuite"]


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_SUITES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_SUITES)
