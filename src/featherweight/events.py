"""What long work tells its watchers, plain values to one callback; shown as bars on a terminal, as lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


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


class Note(msgspec.Struct, frozen=True):
    """What a step left alone, dropped or decided, and why; it stands in every report.

    Attributes:
        kind: `skipped` (left as it was), `thawed` (its encoding dropped), `chose`.
        name: tensor or layer.
        reason: one line for a person.
    """

    kind: Literal["skipped", "thawed", "chose"]
    name: str
    reason: str


@dataclass(frozen=True)
class Message:
    """One line for a person."""

    text: str


Event = Started | Progress | Finished | Message
Events = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing."""


def default_events() -> Events:
    """Return progress for whoever is looking: bars on a terminal, lines in a notebook, else silence."""
    return shown_events() if sys.stderr.isatty() or "ipykernel" in sys.modules else silent


def shown_events() -> Events:
    """Return bars on a terminal, and lines where there is none: in logs, pipes and notebooks."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """Events as lines of text: one for each piece of work that finished, and how far a long one is.

    Args:
        every: seconds between two lines of progress.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every, self.last = every, time.monotonic()
        self.totals: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Print one event, or none of a crowd."""
        match event:
            case Started(name, total):
                self.totals[name] = total
            case Progress(name, done, figures) if time.monotonic() - self.last >= self.every:
                of = f"/{self.totals[name]}" if self.totals.get(name) else ""
                self._print("  ".join([f"  {name} {done}{of}", *_figures(figures)]))
            case Finished(name, seconds, cached):
                self._print(f"{name}: {_took(seconds, cached)}")
            case Message(text):
                self._print(text)
            case _:
                pass

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _took(seconds: float, cached: bool) -> str:
    return "out of the store" if cached else f"{seconds:.1f} s" if seconds else "done"


def _figures(figures: Mapping[str, float]) -> list[str]:
    return [f"{key} {value:.4g}" for key, value in figures.items()]


class Bars:
    """Events as rich progress bars; a line stays for each piece of work that finished.

    Args:
        console: where to; default: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich import console as consoles
        from rich import progress as bars

        self.console = console or consoles.Console(stderr=True)
        measures = bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeElapsedColumn()
        columns = "{task.description}", *measures, "{task.fields[figures]}"
        self.bars = bars.Progress(*columns, console=self.console, transient=True)
        self.open: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Started(name, total):
                self.bars.start()
                if name in self.open:  # the same piece of work, its total now known
                    self.bars.remove_task(self.open[name])
                self.open[name] = self.bars.add_task(name, total=total or None, figures="")
            case Progress(name, done, figures) if name in self.open:
                self.bars.update(self.open[name], completed=done, figures="  ".join(_figures(figures)))
            case Finished(name, seconds, cached):
                if name in self.open:
                    self.bars.remove_task(self.open.pop(name))
                if not self.open:
                    self.bars.stop()
                took = _took(seconds, cached)
                self.console.print(f"[green]✓[/green] {name}  [dim]{took}[/dim]", highlight=False)
            case Message(text):
                self.console.print(text, highlight=False, markup=False)
            case _:
                pass
