"""Commands about running a file: doctor."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.output import JsonFlag, ThreadsOption, emit, say

if TYPE_CHECKING:
    from featherweight.doctor import Runtime


class RuntimeName(StrEnum):
    """What runs a graph."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"


RuntimeOption = Annotated[
    list[RuntimeName] | None,
    typer.Option("--runtime", help="Which runtime; may be repeated. Default: all that are installed."),
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
    say(f"{len(found)} findings" if found else "nothing found")


def chosen(names: list[RuntimeName] | None) -> list[Runtime]:
    """Return the runtimes that were asked for; without any, those that are installed."""
    from importlib.util import find_spec

    wanted: list[Runtime] = [name.value for name in names or RuntimeName]
    return wanted if names else [name for name in wanted if find_spec(name)]
