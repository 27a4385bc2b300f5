"""What commands print: JSON or tables on standard output, errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from featherweight.errors import FeatherweightError

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


def emit(value: Any) -> None:
    """Print a value as one JSON object."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as aligned columns; numbers to the right."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    right = [all(_number(row[i]) for row in rows) and bool(rows) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(map(str, row), widths, right, strict=True)
        ]
        say("  ".join(cells).rstrip())


def report_error(error: FeatherweightError) -> int:
    """Print an error (as JSON too if `--json` was asked for); return the exit code."""
    message = str(error.args[0]) if error.args else str(error)
    sys.stderr.write(f"error: {message}\n")
    if "--json" in sys.argv:
        what, _, hint = message.partition("\nhint: ")
        emit({"error": {"kind": type(error).__name__, "message": what, "hint": hint}})
    return 1


def _number(text: str) -> bool:
    return text.strip() in ("", "-") or text.strip().lstrip("+-")[:1].isdigit()
