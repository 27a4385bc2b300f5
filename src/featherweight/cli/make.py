"""Commands that make something: demo, train, compress, sensitivity."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.output import (
    ExecutorOption,
    JsonFlag,
    SeedOption,
    SensitivityOption,
    ThreadsOption,
    emit,
    folder,
    say,
    table,
    warn,
)
from featherweight.cli.source import (
    AxisOption,
    BgrOption,
    InputsOption,
    MeanOption,
    NamedTask,
    OnnxOption,
    OutputsOption,
    SizeOption,
    StdOption,
    TaskOption,
    source,
)
from featherweight.events import shown_events
from featherweight.executors import executor_of

if TYPE_CHECKING:
    from featherweight.search import Compressed

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", show_default=False)]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    json: JsonFlag = False,
    threads: ThreadsOption = None,
) -> None:
    """Compress a trained LeNet-5: choose a format for every layer, write the file, reload it, run it, report."""
    from featherweight.errors import UnsupportedError
    from featherweight.search import compress as compress_task

    folder(out)
    file = out / "model.fw"
    sys.stderr.write(f"Compressing LeNet-5 on MNIST into {file}: one to two minutes on two processors.\n")
    result = compress_task(
        source("lenet5-mnist", None, None), max_drop=0.1, threads=threads, events=shown_events()
    )
    _deliver(result, out, json)
    if result.artifact.graph is None:
        raise UnsupportedError("no runtime can run the file", where=str(file), got=_why_no_graph(result))
    report = out / "report.html"
    sys.stderr.write(f"\nOpen {report} in a browser. What the file holds: {_program()} inspect {file}\n")


def train(
    task: NamedTask,
    out: OutOption,
    json: JsonFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train the float network of a task and write it as a file."""
    from featherweight.search import compress as compress_task
    from featherweight.search.searcher import training_steps

    folder(out)
    chosen = source(task, None, None, trained=False)
    result = compress_task(chosen, training_steps(chosen), seed=seed, threads=threads, events=shown_events())
    _deliver(result, out, json)


def compress(
    recipe: Annotated[str, typer.Argument(help="auto, a recipe's name (list recipes), or a TOML file.")],
    out: OutOption,
    task: TaskOption = None,
    max_drop: Annotated[
        float | None, typer.Option(help="auto: points the metric may lose on validation.", min=0)
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="auto: bytes of the whole file.", min=1)] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="auto: which tensors; may be repeated. Default: weights.")
    ] = None,
    batches: Annotated[
        int | None, typer.Option(help="auto: validation batches for sensitivities. Default: 16.", min=1)
    ] = None,
    sensitivity: SensitivityOption = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Start from untrained weights, not the baseline of the zoo.")
    ] = False,
    onnx: OnnxOption = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    axis: AxisOption = None,
    image_size: SizeOption = None,
    mean: MeanOption = "0",
    std: StdOption = "1",
    bgr: BgrOption = False,
    json: JsonFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    executor: ExecutorOption = None,
) -> None:
    """Compress the network of a task, or of an ONNX file: write model.fw, report.json, .md, .html and recipe.toml."""
    from featherweight.search import compress as compress_task

    folder(out)
    chosen = source(
        task, onnx, inputs, outputs=outputs, axis=axis, size=image_size, mean=mean, std=std, bgr=bgr,
        trained=not untrained,
    )  # fmt: skip
    with nullcontext() if executor is None else executor_of(executor) as place:
        result = compress_task(
            chosen, recipe, max_drop=max_drop, max_bytes=max_bytes, where=where, batches=batches,
            sensitivity=sensitivity, seed=seed, threads=threads, events=shown_events(), executor=place,
        )  # fmt: skip
    _deliver(result, out, json)


def _deliver(result: Compressed, out: Path, json: bool) -> None:
    from featherweight.report import write_reports
    from featherweight.report.tables import headline

    result.save(out / "model.fw")
    write_reports(result.summary, out)
    if result.artifact.graph is None:
        warn(f"{out / 'model.fw'} holds weights only, no runtime can run it: {_why_no_graph(result)}")
    if json:
        emit(result.summary)
        return
    table(["", ""], [list(pair) for pair in headline(result.summary)])
    say(f"\n{out / 'model.fw'} and its report: {out / 'report.html'}")


def _why_no_graph(result: Compressed) -> str:
    reason = str(result.artifact.facts.get("graph", "written without a graph"))
    return reason.removeprefix("the file holds weights only: ")


def _program() -> str:
    """Return how this command was called, for a line to copy."""
    program = Path(sys.argv[0])
    return f"{sys.executable} -m featherweight" if program.name == "__main__.py" else str(program)


def sensitivity(
    task: TaskOption = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Which tensors; may be repeated. Default: weights.")
    ] = None,
    batches: Annotated[int, typer.Option(help="Validation batches.", min=1)] = 16,
    sensitivity: SensitivityOption = None,
    onnx: OnnxOption = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    axis: AxisOption = None,
    image_size: SizeOption = None,
    mean: MeanOption = "0",
    std: StdOption = "1",
    bgr: BgrOption = False,
    json: JsonFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    executor: ExecutorOption = None,
) -> None:
    """Measure each tensor under each option, alone: bytes, and what it does to the loss on validation."""
    from featherweight.processors import usable_processors
    from featherweight.recipe.runner import execute
    from featherweight.search.searcher import default_options, training_steps
    from featherweight.search.sensitivity import measure
    from featherweight.workspace import Workspace

    chosen = source(
        task, onnx, inputs, outputs=outputs, axis=axis, size=image_size, mean=mean, std=std, bgr=bgr
    )
    with nullcontext() if executor is None else executor_of(executor) as place:
        workspace = Workspace(
            chosen, seed, threads or usable_processors(), events=shown_events(), executor=place
        )
        found = measure(
            execute(training_steps(workspace.task), workspace)[-1].model, workspace, default_options(),
            by=sensitivity or "measured", where=where, batches=batches,
        )  # fmt: skip
    if json:
        emit(found)
        return
    head = ["tensor", "option", "bytes", "loss added", "relative error"]
    cells = found.cells
    table(
        head, [[c.tensor, c.option.label, f"{c.nbytes:,}", f"{c.loss:+.5f}", f"{c.error:.2e}"] for c in cells]
    )
    for note in found.skipped:
        say(f"{note.name}: {note.reason}")
