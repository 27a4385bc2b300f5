"""Commands that make something: demo, train, compress, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.output import JsonFlag, SeedOption, TaskOption, ThreadsOption, emit, folder, say, table

if TYPE_CHECKING:
    from featherweight.search import Compressed
    from featherweight.task import Task

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", show_default=False)]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    json: JsonFlag = False,
    threads: ThreadsOption = None,
) -> None:
    """Train LeNet on MNIST, choose a format for every layer, write the file, reload it, run it, report."""
    compress(recipe="auto", task="lenet-mnist", out=out, max_drop=0.1, json=json, threads=threads)


def train(
    task: TaskOption,
    out: OutOption,
    json: JsonFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train the float network of a task and write it as a file."""
    from featherweight.search import compress as compress_task
    from featherweight.search.compressor import training_steps

    folder(out)
    chosen = _task(task, trained=False)
    result = compress_task(chosen, training_steps(chosen), seed=seed, threads=threads)
    _deliver(result, out, json)


def compress(
    recipe: Annotated[str, typer.Argument(help="auto, a recipe's name (list recipes), or a TOML file.")],
    task: TaskOption,
    out: OutOption,
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
    sensitivity: Annotated[
        str | None, typer.Option(help="auto: measured (default), fisher, empirical or hawq.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Start from untrained weights, not the baseline of the zoo.")
    ] = False,
    json: JsonFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Compress the network of a task: write model.fw, report.json, report.md, report.html and recipe.toml."""
    from featherweight.search import compress as compress_task

    folder(out)
    result = compress_task(
        _task(task, trained=not untrained),
        recipe,
        max_drop=max_drop,
        max_bytes=max_bytes,
        where=where,
        batches=batches,
        sensitivity=sensitivity,  # type: ignore[arg-type]  # checked where it is used
        seed=seed,
        threads=threads,
    )
    _deliver(result, out, json)


def _task(reference: str, *, trained: bool = True) -> Task:
    from featherweight.progress import default_events
    from featherweight.zoo.tasks import resolve

    return resolve(reference, default_events(), trained=trained)


def _deliver(result: Compressed, out: Path, json: bool) -> None:
    from featherweight.report import write_reports
    from featherweight.report.tables import headline

    write_reports(result.summary, out)
    result.save(out / "model.fw")
    if json:
        emit(result.summary)
        return
    table(["", ""], [list(pair) for pair in headline(result.summary)])
    say(f"\n{out / 'model.fw'} and its report: {out / 'report.html'}")


def sensitivity(
    task: TaskOption,
    where: Annotated[
        list[str] | None, typer.Option(help="Which tensors; may be repeated. Default: weights.")
    ] = None,
    batches: Annotated[int, typer.Option(help="Validation batches.", min=1)] = 16,
    by: Annotated[str, typer.Option(help="measured, fisher, empirical or hawq.")] = "measured",
    json: JsonFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Measure each tensor under each option, alone: bytes, and what it does to the loss on validation."""
    from featherweight.progress import default_events
    from featherweight.recipe import run
    from featherweight.search.compressor import default_options, training_steps
    from featherweight.search.sensitivity import measure

    chosen, events = _task(task), default_events()
    model = run(training_steps(chosen), chosen, seed=seed, threads=threads, events=events)[-1].model
    found = measure(
        model,
        chosen,
        default_options(),
        by=by,  # type: ignore[arg-type]  # checked where it is used
        where=where,
        batches=batches,
        seed=seed,
        threads=threads,
        events=events,
    )
    if json:
        emit(found)
        return
    rows = [
        [c.tensor, c.option.label, f"{c.nbytes:,}", f"{c.loss:+.5f}", f"{c.error:.2e}"] for c in found.cells
    ]
    table(["tensor", "option", "bytes", "loss added", "relative error"], rows)
    for note in found.skipped:
        say(f"{note.name}: {note.reason}")
