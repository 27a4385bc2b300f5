"""Commands that read and run files: inspect, eval, diff, export, list, bench, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featherweight.cli.output import JsonFlag, ThreadsOption, emit, folder, say, table, warn
from featherweight.cli.source import (
    AxisOption,
    BgrOption,
    InputsOption,
    MeanOption,
    OnnxOption,
    OutputsOption,
    SizeOption,
    StdOption,
    TaskOption,
    source,
)

if TYPE_CHECKING:
    from featherweight.artifact import Artifact
    from featherweight.task import Task

FileArgument = Annotated[Path, typer.Argument(help="A .fw file.", show_default=False)]
Listed = Literal["formats", "coders", "steps", "tasks", "recipes", "runtimes"]
Target = Literal[
    "onnx", "onnx-weights", "onnx-int8", "onnx-dynamic", "onnx-nbits", "openvino", "openvino-int8", "litert",
    "litert-int8", "litert-integer", "litert-16x8", "executorch", "executorch-int8", "compressed-tensors", "gguf",
    "astc", "c",
]  # fmt: skip
_SUFFIXES = (".xml", ".bin", ".tflite", ".pte")
RuntimeOption = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="Which, see list runtimes; may be repeated. Default: all that run here."),
]


def inspect(file: FileArgument, json: JsonFlag = False) -> None:
    """Show what a file holds: tensors, formats, coders, bytes; every byte is accounted for."""
    from featherweight.units import nbytes, percent

    artifact = _load(file)
    index = artifact.index()
    if json:
        known = {"sha256": artifact.sha256, "bytes": artifact.nbytes, "kinds": index.nbytes}
        emit({"file": str(file), **known, "tensors": index.rows, "facts": artifact.facts})
        return
    rows = []
    for t in index.rows:
        sizes = [f"{t.nbytes:,}", f"{t.bits_per_weight:.2f}", percent(t.sparsity)]
        rows.append([t.name, str(list(t.shape)), t.label, t.coder or "-", *sizes])
    table(["tensor", "shape", "format", "coder", "bytes", "bits", "zeros"], rows)
    say("")
    kinds = {**index.nbytes, "whole file": artifact.nbytes}
    table(["kind", "bytes"], [[kind, f"{n:,}"] for kind, n in kinds.items()])
    say(f"\n{nbytes(artifact.nbytes)}, content hash {artifact.sha256}")


def evaluate(
    file: FileArgument,
    task: TaskOption = None,
    split: Annotated[Literal["validation", "test"], typer.Option(help="Which data.")] = "test",
    runtime: Annotated[str, typer.Option(help="What runs it, see list runtimes.")] = "onnxruntime",
    onnx: OnnxOption = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    axis: AxisOption = None,
    image_size: SizeOption = None,
    mean: MeanOption = "0",
    std: StdOption = "1",
    bgr: BgrOption = False,
    json: JsonFlag = False,
    threads: ThreadsOption = None,
) -> None:
    """Run a file in its runtime on the data of a task, or on inputs of an ONNX file, and print the metrics."""
    from featherweight.evaluation.metrics import metrics, reloaded_predictor
    from featherweight.processors import usable_processors

    artifact = _load(file)
    chosen = source(
        task, onnx, inputs, outputs=outputs, axis=axis, size=image_size, mean=mean, std=std, bgr=bgr
    )
    _warn_of_another_task(artifact, chosen)
    predict, used = reloaded_predictor(artifact, chosen, threads or usable_processors(), runtime)
    found = metrics(predict, chosen, split)
    if json:
        emit({"file": str(file), "task": chosen.name, "split": split, "runtime": used, "metrics": found})
        return
    table(["metric", split], [[name, f"{value:.4f}"] for name, value in found.items()])


def _warn_of_another_task(artifact: Artifact, task: Task) -> None:
    """Warn if a file was made for another task, or for other data, network or loss under the same name."""
    facts = artifact.facts
    if (made_for := facts.get("task")) not in (None, task.name):
        warn(f"the file was made for the task {made_for!r}, not for {task.name!r}")
    elif facts.get("fingerprint") not in (None, task.fingerprint()):
        warn("the network, data or loss of the task have changed since the file was made")


def diff(a: FileArgument, b: FileArgument, json: JsonFlag = False) -> int:
    """Show what differs between two files, tensor by tensor; exit 1 if anything does."""
    from featherweight.artifact import diff as compare

    old, new = _load(a), _load(b)
    rows = compare(old, new)
    if json:
        emit({"a": str(a), "b": str(b), "equal": not rows, "rows": rows})
    elif not rows:
        say("the tensors are equal, bit for bit")
    else:
        before, after = ({row.name: row for row in file.index().rows} for file in (old, new))
        cells = []
        for row in rows:
            sides = before.get(row.name), after.get(row.name)
            kept = (f"{side.label} {side.coder}".strip() if side else "-" for side in sides)
            sizes = " -> ".join(f"{side.nbytes:,}" if side else "-" for side in (row.before, row.after))
            apart = "" if row.difference is None else f"{row.difference:.3g}"
            cells.append([row.name, row.kind, *kept, sizes, apart])
        table(["tensor", "what", "before", "after", "bytes", "difference"], cells)
    return int(bool(rows))


def export(
    file: FileArgument,
    to: Annotated[Target, typer.Option(help="What to write.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File or folder to write. Default: beside FILE.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size", help="Files for other runtimes: size of a free axis, NAME=N; may be repeated."
        ),
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="gguf: a GGUF file of the same network, for names, sizes and vocabulary.", show_default=False
        ),
    ] = None,
    reduce_range: Annotated[bool, typer.Option("--reduce-range", hidden=True)] = False,
    json: JsonFlag = False,
) -> None:
    """Write a file for another system.

    onnx: a float model.

    onnx-weights: a float model that stores weights as integers, codebooks or float16, widened when it is loaded.

    onnx-int8: a model in integers; the file has to be calibrated.

    onnx-dynamic: linear layers in integers, with ranges that are found at run time.

    onnx-nbits: linear layers with weights of 2, 4 or 8 bits, multiplied as integers by activations of 8.

    openvino, openvino-int8: OpenVINO IR, float or in integers.

    litert, litert-int8, litert-16x8: a LiteRT file, float, in integers, or with activations of 16 bits.

    litert-integer: a LiteRT file of integers alone, as microcontrollers and Edge TPUs take (calibrate: outputs = true).

    executorch, executorch-int8: an ExecuTorch program for XNNPACK, float or in integers.

    compressed-tensors: packed weights of 1 to 8 bits and a config, for servers of language models.

    gguf: weights in blocks of 32 with scales of float16, for llama.cpp and its kin.

    astc: textures for GPUs.

    c: a header in C99 for microcontrollers, with all that runs it; without quantizers of activations, decoders alone.
    """
    from featherweight.errors import ConfigError
    from featherweight.runtime.saturation import PORTABLE

    if reduce_range:
        what = "rounding weights to 7 bits afterwards loses too much"
        raise ConfigError(what, where="--reduce-range", hint=PORTABLE)
    if metadata and to != "gguf":
        raise ConfigError("means nothing here", where="--metadata", got=to, expected="--to gguf")
    artifact = _load(file)
    if to.startswith("onnx"):
        _export_onnx(artifact, to, file, out, json)
    elif to == "astc":
        _export_textures(artifact, out or file.with_suffix(".textures"), json)
    elif to == "c":
        _export_c(artifact, folder(out or file.with_name(f"{file.stem}-c")), json)
    elif to == "compressed-tensors":
        from featherweight.deploy.packed_weights import write_packed

        _say_written(write_packed(artifact, folder(out or file.with_suffix(".compressed-tensors"))), json)
    elif to == "gguf":
        from featherweight.deploy.gguf import write_gguf

        _say_written(write_gguf(artifact, _beside(file.with_suffix(".gguf"), out), metadata), json)
    else:
        _export_target(artifact, to, file, out, _sizes(size or []), json)


def _beside(path: Path, out: Path | None) -> Path:
    """Return where a file goes whose usual place is `path`: into a folder by its name, or where it is asked for."""
    return path if out is None else out / path.name if out.is_dir() else out


def _export_onnx(artifact: Artifact, to: Target, file: Path, out: Path | None, json: bool) -> None:
    from featherweight.export import write_onnx
    from featherweight.runtime.saturation import PORTABLE, saturable

    model, floats = _graph(artifact, file, to)
    kind = to.removeprefix("onnx").replace("-", ".")
    written = write_onnx(model, _beside(file.with_suffix(f"{kind}.onnx"), out))
    total, narrow = sum(part.stat().st_size for part in written), saturable(model)
    if json:
        beside = [str(part) for part in written[1:]]
        emit(
            {"file": str(written[0]), "beside": beside, "bytes": total, "float": floats, "saturable": narrow}
        )
        return
    say(f"{', '.join(map(str, written))}: {total:,} bytes")
    if written[1:]:
        say("the weights lie beside the model, which finds them there by name: keep the two together")
    if narrow:
        what = f"8-bit products of {len(narrow)} layers can saturate on x86 without VNNI (first {narrow[0]})"
        say(f"{what}: {PORTABLE}; or set session.x64quantprecision=1 in ONNX Runtime")
    for layer, reason in floats.items():
        say(f"{layer} {'stays float32' if to == 'onnx-weights' else 'computes in float'}: {reason}")


def _export_target(
    artifact: Artifact, to: Any, file: Path, out: Path | None, sizes: dict[str, int], json: bool
) -> None:
    from featherweight.deploy import write

    kind = to.partition("-")[2]
    name = f"{file.stem}.{kind}" if kind else file.stem
    base = file.with_name(name)
    if out:
        base = out / name if out.is_dir() else out.with_suffix("") if out.suffix in _SUFFIXES else out
    _say_written(write(artifact, to, base, sizes=sizes), json)


def _say_written(made: Any, json: bool) -> None:
    if json:
        paths = [str(path) for path in made.paths]
        emit({"files": paths, "bytes": made.nbytes, "float": made.floats, "checked": made.checked})
        return
    say(f"{', '.join(map(str, made.paths))}: {made.nbytes:,} bytes")
    say(made.checked)
    for layer, reason in made.floats.items():
        say(f"{layer} computes in float: {reason}")


def _graph(artifact: Artifact, file: Path, to: Target) -> tuple[Any, dict[str, str]]:
    """The ONNX model to write, and its layers that compute in float, with the reasons."""
    from featherweight.errors import UnsupportedError
    from featherweight.export import integers_of, linear_of, onnx_of, weights_of

    if artifact.graph is None:
        hint = "its report says why; it fills a module"
        raise UnsupportedError("the file holds no graph", where=str(file), hint=hint)
    if to == "onnx":
        return onnx_of(artifact), {}
    if to == "onnx-weights":
        return weights_of(artifact)
    if to == "onnx-int8":
        if not artifact.activations:
            hint = "add the step calibrate to its recipe, or export --to onnx-dynamic"
            raise UnsupportedError("no quantizers of activations", where=str(file), hint=hint)
        made = integers_of(artifact)
    else:
        made = linear_of(artifact, "dynamic" if to == "onnx-dynamic" else "nbits")
    return made.onnx, made.floats


def _export_textures(artifact: Artifact, folder: Path, json: bool) -> None:
    from featherweight.export.textures import SIDECAR, write_textures

    said = write_textures(artifact, folder)
    if json:
        emit({"folder": str(folder), **said})
        return
    rows = [[t["tensor"], t["file"], t["footprint"]] for t in said["textures"]]
    table(["tensor", "texture", "blocks"], rows)
    say(f"\n{folder / SIDECAR} says what they mean")
    if said["elsewhere"]:
        say(f"not in ASTC blocks, left in the .fw file: {', '.join(said['elsewhere'])}")


def _export_c(artifact: Artifact, folder: Path, json: bool) -> None:
    from featherweight.export.c import c_of
    from featherweight.files import write_whole

    made = c_of(artifact)
    for name, text in reversed([*made.files.items()]):  # the header comes last
        write_whole(folder / name, text)
    header = folder / next(iter(made.files))
    if json:
        said = {"kind": made.kind, "files": list(made.files), "flash": made.flash, "ram": made.ram}
        emit({"folder": str(folder), **said, "notes": made.notes})
        return
    what = "decoders of tensors; no quantizers of activations, so it does not run (add the step calibrate)"
    say(f"{header}: " + (what if made.kind == "weights" else f"a network that runs: make -C {folder}"))
    rows = [["flash", name, f"{size:,}"] for name, size in made.flash.items()]
    table(["memory", "of", "bytes"], rows + [["RAM", name, f"{size:,}"] for name, size in made.ram.items()])
    for note in made.notes:
        say(note)


def list_(what: Annotated[Listed, typer.Argument(help="Which list.")], json: JsonFlag = False) -> None:
    """List what there is: name and one line each."""
    entries = _entries(what)
    if json:
        emit({what: [dict(zip(("name", "about", "needs"), entry, strict=False)) for entry in entries]})
        return
    table(["name", "about", "needs"][: len(entries[0])], entries)


def _entries(what: Listed) -> list[list[str]]:
    if what == "tasks":
        from featherweight.zoo.tasks import TASKS

        return [[name, named.about] for name, named in TASKS.items()]
    if what == "recipes":
        from importlib import resources

        from msgspec import toml

        folder = resources.files("featherweight").joinpath("recipes")
        files = {file.name.removesuffix(".toml"): toml.decode(file.read_bytes()) for file in folder.iterdir()}
        auto = ["auto", "formats chosen for each tensor, under a demand"]
        return [auto, *([name, files[name]["about"]] for name in sorted(files))]
    if what == "steps":
        from featherweight.techniques import STEPS
        from featherweight.techniques.base import said_needs

        return [[*_described(step), said_needs(step)] for step in STEPS]
    if what == "runtimes":
        from featherweight.runtime import BACKENDS

        return [[name, used.missing() or f"{used.title}, installed"] for name, used in BACKENDS.items()]
    from featherweight.formats import CODERS, FORMATS

    return [_described(kind) for kind in (FORMATS if what == "formats" else CODERS)]


def _described(kind: type[Any]) -> list[str]:
    return [str(kind.__struct_config__.tag), (kind.__doc__ or "").strip().split("\n")[0]]


def _load(file: Path) -> Artifact:
    from featherweight.artifact import load

    return load(file)


def doctor(
    file: Annotated[
        Path, typer.Argument(help="A .fw, .onnx, .xml (OpenVINO) or .tflite file.", show_default=False)
    ],
    runtime: RuntimeOption = None,
    threads: Annotated[int, typer.Option(help="Compute threads.", min=1)] = 1,
    json: JsonFlag = False,
) -> None:
    """Say why a file is not smaller and not faster, and what to do about it."""
    from featherweight.doctor import diagnose

    found = diagnose(file, _runtimes(runtime), threads=threads)
    if json:
        emit({"file": str(file), "findings": found})
        return
    for finding in found:
        say(f"{finding.about}: {finding.what}\n  where: {finding.places}\n  hint:  {finding.hint}\n")
    say({0: "nothing found", 1: "1 finding"}.get(len(found), f"{len(found)} findings"))


def _runtimes(names: list[str] | None) -> list[str]:
    """Return the runtimes that were asked for; without any, those that run any ONNX graph on this machine."""
    from featherweight.runtime import BACKENDS, OnnxBackend

    here = [name for name, used in BACKENDS.items() if isinstance(used, OnnxBackend) and not used.missing()]
    return names or here


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(help="A .fw file; more of its kind, or ONNX files, to compare.", show_default=False),
    ],
    runtime: RuntimeOption = None,
    threads: Annotated[int, typer.Option(help="Compute threads.", min=1)] = 1,
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
        files, runtimes=_runtimes(runtime), threads=threads, batch=batch, sizes=_sizes(size or []),
        seconds=seconds,
    )  # fmt: skip
    if json:
        emit({"threads": threads, "speeds": found})
        return
    rows = []
    for s in found:
        times = [f"{s.timing.milliseconds:.3f}", f"{s.timing.low:.3f} to {s.timing.high:.3f}"]
        rates = [f"{s.frames:,.0f}", f"{s.gain:.2f}x", "yes" if s.timing.quiet else "no"]
        rows.append([s.runtime, s.name, *times, *rates])
    table(["runtime", "file", "ms", "10 to 90 %", "a second", "float32", "quiet"], rows)
    if not all(s.timing.quiet for s in found):
        say("\nnot quiet: others had the processor meanwhile; take the ratios with care, or measure again")


def _sizes(given: list[str]) -> dict[str, int]:
    """Return `NAME=N` as a mapping."""
    from featherweight.errors import ConfigError

    found = {}
    for text in given:
        name, _, number = text.partition("=")
        if not (name and number.isdigit() and int(number)):
            raise ConfigError("not a size", where="--size", got=text, expected="NAME=N")
        found[name] = int(number)
    return found
