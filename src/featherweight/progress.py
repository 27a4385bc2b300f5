"""Progress for people: bars on standard error, on a terminal or in a notebook; nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from featherweight.events import Event, Events, Finished, Message, Progress, Started, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


def default_events() -> Events:
    """Return bars if someone is looking, else silence."""
    return Bars() if sys.stderr.isatty() or "ipykernel" in sys.modules else silent


class Bars:
    """Events as rich progress bars; a line stays for each piece of work that finished.

    Args:
        console: where to; default: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self.console = console or RichConsole(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.bars = RichProgress(*columns, console=self.console, transient=True)
        self.open: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Started(name, total):
                self.bars.start()
                self.open[name] = self.bars.add_task(name, total=total or None, figures="")
            case Progress(name, done, figures) if name in self.open:
                text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
                self.bars.update(self.open[name], completed=done, figures=text)
            case Finished(name, seconds, cached):
                self._close(name)
                took = "out of the store" if cached else f"{seconds:.1f} s" if seconds else "done"
                self.console.print(f"[green]✓[/green] {name}  [dim]{took}[/dim]", highlight=False)
            case Message(text):
                self.console.print(text, highlight=False, markup=False)
            case _:
                pass

    def _close(self, name: str) -> None:
        if name in self.open:
            self.bars.remove_task(self.open.pop(name))
        if not self.open:
            self.bars.stop()
