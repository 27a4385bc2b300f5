"""What commands print: JSON or tables on standard output, errors on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from featherweight.errors import ConfigError, FeatherweightError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task", "-t", help="A named task (list tasks), FILE.py:NAME or MODULE:NAME.", show_default=False
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(help="Threads of the arithmetic; they decide bytes. Default: all processors.", min=1),
]


DATA: ContextVar[TextIO | None] = ContextVar("data", default=None)


@contextmanager
def data_to(stream: TextIO) -> Iterator[None]:
    """Send results to `stream`, whatever a user's code may print to standard output meanwhile."""
    token = DATA.set(stream)
    try:
        yield
    finally:
        DATA.reset(token)


def emit(value: Any) -> None:
    """Print a value as one JSON object."""
    import msgspec

    say(msgspec.json.encode(value).decode())


def say(text: str) -> None:
    """Print a line of the result."""
    (DATA.get() or sys.stdout).write(text + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as aligned columns; numbers to the right."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    right = [all(_number(row[i]) for row in rows) and bool(rows) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(map(str, row), widths, right, strict=True)
        ]
        say("  ".join(cells).rstrip())


def report_error(error: FeatherweightError, code: int) -> int:
    """Print an error, as JSON too if `--json` was asked for; return the exit code."""
    message = str(error.args[0]) if error.args else str(error)
    sys.stderr.write(f"error: {message}\n")
    if "--json" in sys.argv:
        what, _, hint = message.partition("\nhint: ")
        emit({"error": {"kind": type(error).__name__, "message": what, "hint": hint}})
    return code


def folder(path: Path) -> Path:
    """Return a folder that results can go to; nothing is made yet.

    Raises:
        ConfigError: it is a file, or cannot be written.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError("no folder that can be written", where="--out", got=str(path))
    return path


def _number(text: str) -> bool:
    return text.strip() in ("", "-") or text.strip().lstrip("+-")[:1].isdigit()
