"""Networks as they are published, as ONNX files: bytes, quality by their own measure, and speed, beside rivals.

`python -m reproduce.real_networks NAME ...` measures these alone again and puts them into the page.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from featherweight.artifact import Artifact, dumps, loads
from featherweight.capture.onnx_task import from_onnx
from featherweight.delivery.delivery import in_graph
from featherweight.delivery.preparation import graph_of
from featherweight.errors import ConfigError, FeatherweightError, UnsupportedError
from featherweight.events import Events, Message, default_events
from featherweight.export import integers_of, serialized, weights_of
from featherweight.packing import pack
from featherweight.recipe import Recipe, read_recipe
from featherweight.recipe.runner import execute
from featherweight.runtime.timing import interleaved
from featherweight.task import Task
from featherweight.workspace import Workspace
from reproduce.figure import new_figure, svg
from reproduce.real.measures import Call, Predict
from reproduce.real.networks import NETWORKS, Real
from reproduce.real.recipes import RECIPES
from reproduce.real.rivals import rivals
from reproduce.results import Cell, Check, Measured, Plot, Results, Sheet, write

Array = NDArray[Any]

ABOUT = (
    "Networks out of published packages, as ONNX files that nobody here wrote, or torch of their weights: in, smaller,"
    " out, and run."
)
QUALITY = (
    "Quality is each network's own measure against its float file, in ONNX Runtime, on inputs that neither calibrated"
    " nor chose: dB and boxes of nudenet's own float detections; characters and lines after CTC decoding; intersection"
    " over union of text above 0.3 and of notes above 0.3; shares of equal decisions; phonemes that both say, and the"
    " error of each by the dictionary; cosines of the vectors of utterances; pitches within 50 cents, where there is"
    " one."
)
RIVALS = (
    "ONNX Runtime's quantizers read the same file and the same calibration calls, scales by channel, with and without"
    " `quant_pre_process`: of what they made, the one that is best by that measure on validation."
)
SPEED = "Speed is that of the file over that of the float file: one call, one thread, all in turns."
DATA = (
    "Inputs: photographs of ImageNet; lines and pages drawn with DejaVu; files of this machine's Python; speech of"
    " Debian's pocketsphinx-testdata with noise, also slower and faster; synthesised notes; words of the CMU"
    " dictionary, which g2p-en may have learned from. `python -m reproduce.real.files` fetches the rest."
)
CHOICE = (
    "Ours: of the recipes of `reproduce/real/recipes.py` the first whose measure reaches the goal on validation; else"
    " the best by that measure. Recipes that run in integers come first, except of GRUs and"
    " LSTMs that are most of a network."
)
REMARKS = [QUALITY, CHOICE, RIVALS, SPEED, DATA]
BIG = 500_000  # bytes of a file from which on its ratio is a goal
RATIO = 3.7
RIVAL_CALLS = 64  # most that ONNX Runtime calibrates with: it keeps all activations
CHOSEN_BY = 400  # samples of validation that choose among files


@dataclass(frozen=True)
class File:
    """One file made of a network.

    Attributes:
        maker: what made it.
        nbytes: of the ONNX file; of ours `stored` is the `.fw` file.
        measures: on test, by name; empty if it does not run.
        speeds: by runtime, how many times as fast as the float file.
        said: recipe, or error.
    """

    maker: str
    nbytes: int = 0
    stored: int = 0
    measures: Mapping[str, float] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)
    said: str = ""


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every network; quick: the smallest on a few samples, one recipe."""
    chosen = [net for net in NETWORKS if net.name in ("PP-OCR orientation",)] if quick else NETWORKS
    return measured(chosen, quick, threads, events)


def measured(chosen: Sequence[Real], quick: bool, threads: int, events: Events) -> Measured:
    """Measure these networks."""
    found: dict[str, tuple[Real, list[File]]] = {}
    for net in chosen:
        events(Message(f"{net.name}: {net.origin}"))
        found[net.name] = net, files_of(net, quick, threads, events)
    checks = [check for net, files in found.values() for check in checks_of(net, files)]
    sheets = [quality(found), speed(found), recipes(found)]
    return Measured([], [] if quick else checks, sheets, [picture(*sheets[:2])])


def files_of(net: Real, quick: bool, threads: int, events: Events) -> list[File]:
    """Return the float file, ours, and what ONNX Runtime's quantizers make of it."""
    plain = net.path.read_bytes()
    run = remembered(opened(plain))
    parts = net.parts(net.quick if quick else net.samples)
    calls = [[call for sample in part for call in net.calls(sample, run)] for part in parts]
    validation = parts[1][:CHOSEN_BY]
    files = {"float": plain}
    made = [File("float", len(plain), measures=net.judge(run, run, parts[2][:1]))]

    def score(content: bytes) -> float:
        try:
            return net.judge(run, opened(content), validation)[net.goal.measure]
        except Exception:  # a runtime that refuses a file, in whatever way
            return -np.inf

    task = from_onnx(
        net.path, packed(calls[0]), validation=packed(calls[1]), test=packed(calls[2]), name=net.name
    )
    own = best_of_ours(net, task, score, quick, threads, events)
    if own.content:
        files["featherweight"] = own.content
    made.append(File("featherweight", len(own.content), own.stored, said=own.said))
    with tempfile.TemporaryDirectory() as scratch:
        for maker, error, candidates in rivals(net.path, calls[0][:RIVAL_CALLS], Path(scratch)):
            scored = sorted(
                ((score(content), len(content), content) for content in candidates), key=lambda c: c[0]
            )
            if scored and scored[-1][0] > -np.inf:
                files[maker] = scored[-1][2]
                made.append(File(maker, scored[-1][1]))
            else:
                made.append(File(maker, said=error or "ONNX Runtime refuses the file that it made"))
    speeds = timed(files, calls[2][0], 0.2 if quick else 0.8)
    return [
        File(
            entry.maker, entry.nbytes, entry.stored, speeds=speeds.get(entry.maker, {}), said=entry.said,
            measures=net.judge(run, opened(files[entry.maker]), parts[2]) if entry.maker in files else {},
        )
        for entry in made
    ]  # fmt: skip


@dataclass(frozen=True)
class Ours:
    """The best of our files: its ONNX export, the bytes of the `.fw` file, and the recipe or what went wrong."""

    content: bytes
    stored: int
    said: str


def best_of_ours(
    net: Real, task: Task, score: Callable[[bytes], float], quick: bool, threads: int, events: Events
) -> Ours:
    """Return the first file that reaches the goal on validation; else the one of the best measure."""
    best: tuple[tuple[bool, float], Ours] | None = None
    errors: list[str] = []
    for name, recipe in list(RECIPES[net.name].items())[: 1 if quick else None]:
        try:
            artifact = made(task, recipe, threads, events)
            content = exported(artifact)
        except FeatherweightError as error:
            errors.append(f"{name}: {error}".splitlines()[0])
            continue
        reached = score(content)
        good = reached >= net.goal.least
        rank = (good, -artifact.nbytes if good else reached)
        events(Message(f"{net.name}, {name}: {net.goal.measure} {reached:.4f} on validation"))
        if best is None or rank > best[0]:
            best = rank, Ours(content, artifact.nbytes, name)
        if good:
            break
    return best[1] if best else Ours(b"", 0, "; ".join(errors))


def made(task: Task, recipe: str | Recipe, threads: int, events: Events) -> Artifact:
    """Return the file that a recipe makes, reloaded; what it does is measured by its export, not by the task."""
    steps = read_recipe(recipe) if isinstance(recipe, str) else recipe
    workspace = Workspace(task, 0, threads, events=events)
    model = execute(steps, workspace)[-1].model
    with workspace.pinned():
        graph, notes = graph_of(model, workspace)
        if graph is None:
            raise UnsupportedError("no graph", where=task.name, got=notes[0].reason)
        return loads(dumps(pack(in_graph(model, graph), graph, {})))


def exported(artifact: Artifact) -> bytes:
    """Return a file as ONNX: in integers where it has quantizers, else with weights as they are stored."""
    if artifact.activations:
        return serialized(integers_of(artifact).onnx)
    return serialized(weights_of(artifact)[0])


def opened(content: bytes) -> Predict:
    """Return what ONNX Runtime computes with a file, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return lambda call: cast(list[Array], session.run(None, {k: v for k, v in call.items() if k in names}))


def remembered(run: Predict) -> Predict:
    """Return a computation that answers the same call once."""
    known: dict[bytes, list[Array]] = {}

    def asked(call: Call) -> list[Array]:
        found = hashlib.sha256()
        for value in call.values():
            found.update(np.ascontiguousarray(value).data)
        key = found.digest()
        if key not in known:
            known[key] = run(call)
        return known[key]

    return asked


def openvino(content: bytes, call: Call) -> Callable[[], object]:
    """Return a call of OpenVINO with a file, on one thread, float in float32."""
    import openvino as ov

    core = ov.Core()
    model = core.compile_model(
        core.read_model(content),
        "CPU",
        {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"},
    )
    names = {name for port in model.inputs for name in port.names}
    fed = {name: value for name, value in call.items() if name in names}
    request = model.create_infer_request()
    return lambda: request.infer(fed)


def timed(files: Mapping[str, bytes], call: Call, seconds: float) -> dict[str, dict[str, float]]:
    """Return how many times as fast as the float file each file is, by maker and runtime."""
    found: dict[str, dict[str, float]] = {maker: {} for maker in files}
    for runtime in ("ONNX Runtime", "OpenVINO"):
        calls: dict[str, Callable[[], object]] = {}
        for maker, content in files.items():
            with suppress(Exception):  # a runtime that refuses a file
                once = openvino(content, call) if runtime == "OpenVINO" else partial(opened(content), call)
                once()
                calls[maker] = once
        if "float" not in calls:
            continue
        times = {timing.name: timing for timing in interleaved(calls, seconds=seconds, patience=2)}
        for maker, timing in times.items():
            found[maker][runtime] = times["float"].milliseconds / timing.milliseconds
        found["float"][f"{runtime}, ms"] = times["float"].milliseconds
    return found


def packed(calls: Sequence[Call]) -> Any:
    """Return calls as rows of arrays where they are samples of one size, else as they are."""
    shapes = [{name: value.shape for name, value in call.items()} for call in calls]
    single = all(len(shape) == 1 and next(iter(shape.values()))[0] == 1 for shape in shapes)
    if not calls or not single or any(shape != shapes[0] for shape in shapes):
        return list(calls)
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}


# ---------------------------------------------------------------- tables

Found = Mapping[str, tuple[Real, list[File]]]
MAKERS = ("featherweight", "quantize_dynamic", "quantize_static")


def quality(found: Found) -> Sheet:
    """Return bytes and measures of every file."""
    rows: list[list[Cell]] = []
    for name, (_, files) in found.items():
        whole = files[0].nbytes
        for entry in files[1:]:
            measures = ", ".join(f"{key} {_number(value)}" for key, value in entry.measures.items())
            rows.append([
                name, f"{whole / 1e6:.2f} MB", entry.maker,
                f"{whole / entry.stored:.2f}x" if entry.stored else "",
                f"{whole / entry.nbytes:.2f}x" if entry.nbytes and entry.measures else "",
                measures or entry.said,
            ])  # fmt: skip
    head = ["network", "float file", "made by", ".fw", "ONNX", "on test"]
    return Sheet("Bytes and quality", head, rows)


def speed(found: Found) -> Sheet:
    """Return speeds of every file."""
    rows: list[list[Cell]] = []
    for name, (_, files) in found.items():
        plain = files[0].speeds
        for runtime in ("ONNX Runtime", "OpenVINO"):
            milliseconds = plain.get(f"{runtime}, ms")
            cells = [entry.speeds.get(runtime) for entry in files[1:]]
            rows.append([
                name, runtime, "not measured" if milliseconds is None else f"{milliseconds:.2f}",
                *(None if cell is None else f"{cell:.2f}x" for cell in cells),
            ])  # fmt: skip
    return Sheet(
        f"Speed against the float file: {processor()}", ["network", "runtime", "float, ms", *MAKERS], rows
    )


def processor() -> str:
    """Return the processor, and whether it multiplies 8-bit integers without 16-bit sums (VNNI)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), ""
    )
    return f"{name or platform.machine()}, {'with' if 'vnni' in text else 'without'} VNNI"


def picture(sizes: Sheet, speeds: Sheet) -> Plot:
    """Return bytes and speed of every file as bars."""
    names = list(dict.fromkeys(str(row[0]) for row in sizes.rows))
    smaller = {(row[0], row[2]): row[4] for row in sizes.rows}
    own = [row for row in speeds.rows if row[1] == "ONNX Runtime"]
    faster = {(row[0], maker): cell for row in own for maker, cell in zip(MAKERS, row[3:], strict=True)}
    figure = new_figure(9.0, 0.5 * len(names) + 1.4)
    titles = ("times smaller, ONNX file", "times as fast, ONNX Runtime")
    bars: tuple[Mapping[Any, Cell], ...] = (smaller, faster)
    for ax, title, cells in zip(figure.subplots(1, 2, sharey=True), titles, bars, strict=True):
        for number, maker in enumerate(MAKERS):
            lengths = [float(str(cells.get((name, maker)) or "0").rstrip("x")) for name in names]
            places = [place + 0.26 * (number - 1) for place in range(len(names))]
            ax.barh(places, lengths, 0.24, color=f"C{number}", label=maker)
        ax.axvline(1, color="#4d4d4d", linestyle="--", linewidth=1)
        ax.set_xlabel(title)
        ax.set_yticks(range(len(names)), names)
    figure.axes[0].invert_yaxis()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8)
    return Plot("files.svg", svg(figure))


def recipes(found: Found) -> Sheet:
    """Return the recipe that made each of our files."""
    rows: list[list[Cell]] = [
        [name, net.origin, files[1].said, f"{net.goal.measure} {_number(net.goal.least)}"]
        for name, (net, files) in found.items()
    ]
    return Sheet("Networks and recipes", ["network", "origin", "recipe", "chosen for"], rows)


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) > 1 else f"{value:.4g}"


def checks_of(net: Real, files: Sequence[File]) -> list[Check]:
    """Return what is asked of our file and whether it holds."""
    whole, ours = files[0].nbytes, files[1]
    checks = []
    for measure, least in ((net.goal.measure, net.goal.least), *net.goal.also):
        reached = ours.measures.get(measure, -np.inf)
        checks.append(
            Check(f"{net.name}: {measure} on test", _number(least), _number(reached), reached >= least)
        )
    if whole > BIG:
        ratio = whole / ours.stored if ours.stored else 0.0
        checks.append(Check(f"{net.name}: bytes, .fw", f"{RATIO}x", f"{ratio:.2f}x", ratio >= RATIO))
    others = [entry.speeds["ONNX Runtime"] for entry in files[2:] if "ONNX Runtime" in entry.speeds]
    fastest, own = max([net.goal.faster, *others]), ours.speeds.get("ONNX Runtime", 0.0)
    asked = f"{fastest:.2f}x, as after ONNX Runtime's own" if others else f"{fastest:.2f}x"
    checks.append(Check(f"{net.name}: speed in ONNX Runtime", asked, f"{own:.2f}x", own >= fastest))
    return checks


def joined(before: Results, more: Measured, names: Sequence[str]) -> Results:
    """Return a page with what was measured of networks of these names alone in the place of what it had of them.

    Raises:
        ConfigError: it was measured on another processor.
    """
    sheets = []
    for old, new in zip(before.sheets, more.sheets, strict=True):
        if old.title != new.title:
            raise ConfigError("measured on another machine than the page", got=new.title, expected=old.title)
        rows = [*(row for row in old.rows if row[0] not in names), *new.rows]
        sheets.append(Sheet(old.title, old.head, sorted(rows, key=lambda row: _place(str(row[0])))))
    checks = [check for check in before.checks if check.name.partition(": ")[0] not in names]
    checks = sorted([*checks, *more.checks], key=lambda check: _place(check.name.partition(": ")[0]))
    said = f"Measured in a run of their own: {', '.join(names)}."
    kept = [remark for remark in before.remarks if remark.startswith(said.partition(":")[0])]
    remarks = [*REMARKS, *kept, said]
    return msgspec.structs.replace(before, about=ABOUT, sheets=sheets, checks=checks, remarks=remarks)


def _place(name: str) -> int:
    return [net.name for net in NETWORKS].index(name)


def main(names: Sequence[str], folder: Path = Path("docs/results/real-networks")) -> int:
    """Measure networks of these names alone, on one thread, and put them into the page; return the exit code."""
    chosen = [net for net in NETWORKS if net.name in names]
    if not names or len(chosen) < len(names):
        sys.stderr.write(f"error: name some of {', '.join(net.name for net in NETWORKS)}\n")
        return 1
    more = measured(chosen, False, 1, default_events())
    before = msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)
    results = joined(before, more, names)
    write(results, [picture(*results.sheets[:2])], folder)
    return 0


def needs() -> list[str]:
    """Return the assets whose files are not in the cache."""
    from reproduce.real.files import ASSETS

    names = {net.asset for net in NETWORKS} | {"speech", "texts", "cmudict"}
    return [name for name in sorted(names) if ASSETS[name].missing()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
