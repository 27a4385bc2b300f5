"""What commands print: JSON or tables on standard output, errors on standard error."""

from __future__ import annotations

import io
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from featherweight.errors import ConfigError, FeatherweightError, MissingExtraError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Compute threads (affects output bytes). Default: all processors.", min=1)
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor", help="Where independent work runs: processes:N, or dask://HOST:PORT. Default: here."
    ),
]
SensitivityOption = Annotated[
    Literal["measured", "fisher", "empirical", "hawq"] | None,
    typer.Option("--sensitivity", help="How sensitivities are found. Default: measured."),
]

NARROWEST = 12  # characters that a column keeps when a table is fitted to a terminal
LONGEST_CAUSE = 300  # characters


DATA: ContextVar[TextIO | None] = ContextVar("data", default=None)


@contextmanager
def results_alone() -> Iterator[None]:
    """Keep standard output for results: what else is printed there meanwhile goes to standard error.

    That holds for a task's `print`, and for libraries in C that write to descriptor 1 (HiGHS does).
    """
    with _descriptor_of(sys.stdout) as stream, redirect_stdout(sys.stderr):
        token = DATA.set(stream)
        try:
            yield
        finally:
            DATA.reset(token)


@contextmanager
def _descriptor_of(stream: TextIO) -> Iterator[TextIO]:
    """Yield a stream to where `stream` goes, while its descriptor goes to standard error; or itself if it has none."""
    try:
        number, errors = stream.fileno(), sys.stderr.fileno()
    except (OSError, io.UnsupportedOperation):
        yield stream
        return
    stream.flush()
    kept = os.dup(number)
    os.dup2(errors, number)
    try:
        with os.fdopen(kept, "w", encoding=stream.encoding, closefd=False) as copy:
            yield copy
    finally:
        os.dup2(kept, number)
        os.close(kept)


def emit(value: Any) -> None:
    """Print a value as one JSON object."""
    import msgspec

    say(msgspec.json.encode(value).decode())


def say(text: str) -> None:
    """Print a line of the result."""
    (DATA.get() or sys.stdout).write(text + "\n")


def warn(text: str) -> None:
    """Print a warning on standard error."""
    sys.stderr.write(f"warning: {text}\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as aligned columns, numbers to the right; a terminal is as wide as they get. Heads may be empty."""
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    right = [bool(rows) and all(_number(row[i]) for row in lines[1:]) for i in range(len(head))]
    widths = _fitted([max(map(len, column)) for column in zip(*lines, strict=True)], right, _room())
    lines.insert(1, ["-" * width for width in widths])
    for row in lines if any(head) else lines[2:]:
        cells = zip(row, widths, right, strict=True)
        shown = (
            cell.rjust(width) if number else _cut(cell, width).ljust(width) for cell, width, number in cells
        )
        say("  ".join(shown).rstrip())


def _room() -> int | None:
    """Return how many columns the terminal has; None if results go elsewhere."""
    return shutil.get_terminal_size().columns if (DATA.get() or sys.stdout).isatty() else None


def _fitted(widths: list[int], fixed: Sequence[bool], room: int | None) -> list[int]:
    """Return widths that fit into `room` with two spaces between; the widest of those not `fixed` give way."""
    while room is not None and sum(widths) + 2 * (len(widths) - 1) > room:
        wide = [i for i, width in enumerate(widths) if not fixed[i] and width > NARROWEST]
        if not wide:
            break
        widths[max(wide, key=lambda i: widths[i])] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters; the end stays, since names differ there."""
    start = width // 3
    return text if len(text) <= width else f"{text[:start]}…{text[len(text) - width + start + 1 :]}"


def report_error(error: FeatherweightError, code: int) -> int:
    """Print an error with one line of its cause, as JSON too if `--json` was asked for; return the exit code."""
    message = str(error.args[0]) if error.args else str(error)
    what, _, hint = message.partition("\nhint: ")
    cause = _cause(error)
    parts = {"error": what, "cause": cause, "hint": hint}
    sys.stderr.write("".join(f"{name}: {text}\n" for name, text in parts.items() if text))
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    if "--json" in sys.argv:
        emit({"error": {"kind": type(error).__name__, "message": what, "cause": cause, "hint": hint}})
    return code


def _cause(error: BaseException) -> str:
    """Return one line of the error at the root of this one, unless the message says it already."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    said = getattr(root, "strerror", None) or str(root)
    line = next((line.strip() for line in said.splitlines() if line.strip()), "")
    if root is error or isinstance(error, MissingExtraError) or (line and line in str(error)):
        return ""
    text = f"{type(root).__name__}: {line}".removesuffix(": ")
    return text if len(text) <= LONGEST_CAUSE else f"{text[:LONGEST_CAUSE]} ..."


def folder(path: Path) -> Path:
    """Return a folder that results can go to; nothing is made yet."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError("not a folder that can be written", where="--out", got=str(path))
    return path


def _number(text: str) -> bool:
    return text.strip() in ("", "-") or text.strip().lstrip("+-")[:1].isdigit()
