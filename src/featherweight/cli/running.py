"""Commands about how a file runs: bench and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.output import JsonFlag, ThreadsOption, emit, say, table

RuntimeOption = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="Which, see list runtimes; may be repeated. Default: all that run here."),
]


def doctor(
    file: Annotated[Path, typer.Argument(help="A .fw file, or an .onnx file.", show_default=False)],
    runtime: RuntimeOption = None,
    threads: ThreadsOption = 1,
    json: JsonFlag = False,
) -> None:
    """Say why a file is not smaller and not faster, and what to do about it."""
    from featherweight.doctor import diagnose

    found = diagnose(file, chosen(runtime), threads=threads or 1)
    if json:
        emit({"file": str(file), "findings": found})
        return
    for finding in found:
        say(f"{finding.about}: {finding.what}\n  where: {finding.places}\n  hint:  {finding.hint}\n")
    say({0: "nothing found", 1: "1 finding"}.get(len(found), f"{len(found)} findings"))


def chosen(names: list[str] | None) -> list[str]:
    """Return the runtimes that were asked for; without any, those that run any ONNX graph on this machine."""
    from featherweight.runtime import BACKENDS, OnnxBackend

    return names or [
        name for name, used in BACKENDS.items() if isinstance(used, OnnxBackend) and not used.missing()
    ]


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(help="A .fw file; more of its kind, or ONNX files, to compare.", show_default=False),
    ],
    runtime: RuntimeOption = None,
    threads: ThreadsOption = 1,
    batch: Annotated[int, typer.Option(help="Samples in a call.", min=1)] = 1,
    size: Annotated[
        list[str] | None, typer.Option(help="Size of another free axis, NAME=N; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of measurement for each.", min=0.01)] = 2.0,
    json: JsonFlag = False,
) -> None:
    """Time files against the float network: one run, in turns, medians, threads pinned, float32 pinned."""
    from featherweight.runtime.bench import bench as measure

    found = measure(
        files, runtimes=chosen(runtime), threads=threads or 1, batch=batch, sizes=sizes(size or []),
        seconds=seconds,
    )  # fmt: skip
    if json:
        emit({"threads": threads or 1, "speeds": found})
        return
    rows = [
        [
            s.runtime,
            s.name,
            f"{s.timing.milliseconds:.3f}",
            f"{s.timing.low:.3f} to {s.timing.high:.3f}",
            f"{s.frames:,.0f}",
            f"{s.gain:.2f}x",
            "yes" if s.timing.quiet else "no",
        ]
        for s in found
    ]
    table(["runtime", "file", "ms", "10 to 90 %", "a second", "float32", "quiet"], rows)
    if not all(s.timing.quiet for s in found):
        say("\nnot quiet: others had the processor meanwhile; take the ratios with care, or measure again")


def sizes(given: list[str]) -> dict[str, int]:
    """Return `NAME=N` as a mapping.

    Raises:
        ConfigError: one is not of that form.
    """
    from featherweight.errors import ConfigError

    found = {}
    for text in given:
        name, _, number = text.partition("=")
        if not (name and number.isdigit() and int(number)):
            raise ConfigError("not a size", where="--size", got=text, expected="NAME=N")
        found[name] = int(number)
    return found
