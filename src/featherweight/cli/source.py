"""What a command works on: a task by its name, or an ONNX file with inputs for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featherweight.errors import ConfigError
from featherweight.events import shown_events

if TYPE_CHECKING:
    from featherweight.task import Task

PANEL = "An ONNX file"
NAMED = typer.Option(
    "--task", "-t", help="A named task (list tasks), FILE.py:NAME or MODULE:NAME.", show_default=False
)
NamedTask = Annotated[str, NAMED]
TaskOption = Annotated[str | None, NAMED]
OnnxOption = Annotated[
    Path | None,
    typer.Option("--onnx", help="A network as an ONNX file, instead of a task.", rich_help_panel=PANEL),
]
InputsOption = Annotated[
    Path | None,
    typer.Option(
        "--inputs", rich_help_panel=PANEL,
        help="Inputs for it: an .npz of arrays by input, a folder of .npz or .npy (each one call), or of images.",
    ),
]  # fmt: skip
OutputsOption = Annotated[
    Literal["classes", "values"] | None,
    typer.Option(
        "--outputs", rich_help_panel=PANEL,
        help="What it returns: decides what agreement means. Default: by its look.",
    ),
]  # fmt: skip
AxisOption = Annotated[
    int | None, typer.Option("--axis", rich_help_panel=PANEL, help="Of the classes. Default: by its look.")
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size", rich_help_panel=PANEL, help="Images, where it takes any size: 224 or 480x640."
    ),
]
MeanOption = Annotated[
    str,
    typer.Option(
        "--mean", rich_help_panel=PANEL, help="Images are (pixels / 255 - mean) / std: 0.5 or R,G,B."
    ),
]
StdOption = Annotated[str, typer.Option("--std", rich_help_panel=PANEL, help="See --mean.")]
BgrOption = Annotated[bool, typer.Option("--bgr", rich_help_panel=PANEL, help="Images as blue, green, red.")]


def source(
    task: str | None, onnx: Path | None, inputs: Path | None, *, trained: bool = True, outputs: Any = None,
    axis: int | None = None, size: str | None = None, mean: str = "0", std: str = "1", bgr: bool = False,
) -> Task:  # fmt: skip
    """Return the task that options name.

    Raises:
        ConfigError: not one of `--task` and `--onnx`, or options of the one with the other.
    """
    given = {
        "--inputs": inputs, "--outputs": outputs, "--axis": axis, "--image-size": size,
        "--mean": mean if mean != "0" else None, "--std": std if std != "1" else None, "--bgr": bgr or None,
    }  # fmt: skip
    if (task is None) == (onnx is None):
        got = "both" if task else "neither"
        raise ConfigError("one of --task and --onnx says what to work on", got=got)
    if task is not None:
        if stray := [name for name, value in given.items() if value is not None]:
            raise ConfigError("belongs to --onnx", where=stray[0], got=f"--task {task}")
        from featherweight.zoo.tasks import resolve

        return resolve(task, shown_events(), trained=trained)
    if inputs is None:
        hint = "--inputs calibration.npz, or a folder of .npz, .npy or image files"
        raise ConfigError("inputs are missing", where=f"--onnx {onnx}", hint=hint)
    if not trained:
        raise ConfigError("an ONNX file comes trained", where="--untrained", got=f"--onnx {onnx}")
    assert onnx is not None
    from featherweight.capture.onnx_task import from_onnx

    return from_onnx(
        onnx, inputs, outputs=outputs, axis=axis, size=_size(size), mean=_numbers("--mean", mean),
        std=_numbers("--std", std), bgr=bgr,
    )  # fmt: skip


def _size(text: str | None) -> tuple[int, int] | None:
    """Return height and width of `224` or `480x640`."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise ConfigError(
            "not a size", where="--image-size", got=text, expected="224, or 480x640: height x width"
        )
    return int(sides[0]), int(sides[-1])


def _numbers(name: str, text: str) -> list[float]:
    """Return numbers with commas between."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError("not numbers", where=name, got=text, expected="0.5, or 0.485,0.456,0.406") from None
