"""Plug-ins by entry points: a package that declares a class in one of our groups has it in every recipe."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any


def with_plugins(group: str, built_in: tuple[type[Any], ...]) -> tuple[type[Any], ...]:
    """Return the built-in classes and those that installed packages declare under `group`."""
    return built_in + tuple(point.load() for point in entry_points(group=group))
