"""What long work tells its watchers: plain values to one callback; the command line and reports render them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """A piece of work began; `total` counts its units (0: unknown)."""

    name: str
    total: int = 0


@dataclass(frozen=True)
class Progress:
    """`done` units of `name` are finished; `figures` are what is worth showing beside the bar."""

    name: str
    done: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A piece of work ended; `cached` says that its result came out of the store."""

    name: str
    seconds: float
    cached: bool = False


@dataclass(frozen=True)
class Message:
    """One line for a person."""

    text: str


Event = Started | Progress | Finished | Message
Events = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing."""
