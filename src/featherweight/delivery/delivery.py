"""From a recipe to a file: run, measured, written, loaded again, compared with the decoded network, summed up."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from featherweight.artifact import Artifact, StoredGraph, dumps, loads
from featherweight.delivery.preparation import graph_of
from featherweight.delivery.summary import GIVEN, Searched, Stage, Summary, rows_of
from featherweight.errors import IntegrityError, TaskError
from featherweight.evaluation.metrics import (
    Evaluation,
    Evaluator,
    evaluated,
    parity,
    reloaded_predictor,
    remembered,
)
from featherweight.evaluation.paired_test import seen_before
from featherweight.evaluation.parity import agreement, check_parity
from featherweight.events import Finished, Message, Progress, Started
from featherweight.export import qdq_of, unknown_edges
from featherweight.files import write_whole
from featherweight.formats.coders import tag
from featherweight.model import Model, Note
from featherweight.packing import pack
from featherweight.recipe import Made, Recipe
from featherweight.recipe.runner import baseline, execute
from featherweight.runtime.saturation import PORTABLE, saturable
from featherweight.task import Split
from featherweight.techniques import Load, Train
from featherweight.workspace import NAMED, Workspace, versions

Metrics = Mapping[str, float]
SPLITS: tuple[Split, Split] = ("validation", "test")
CODED = ("payload", "parts")  # kinds of bytes in a file that are coded tensors

SEEN = Note(
    "chose", "validation",
    "a tenth of train=, held out; a network that was trained on all of train= has memorised it, so that its losses "
    "there look small: pass validation= that it has not seen",
)  # fmt: skip
UNPAIRED = Note(
    "skipped", "paired test", "the task knows no metric of each sample (scores) with the mean of its own"
)


@dataclass(frozen=True, eq=False)
class Compressed:
    """What `compress` made.

    Attributes:
        artifact: the file, as it was reloaded.
        summary: what the reports say, as data.
        recipe: the steps that made it; running them again gives the same bytes.
        content: the bytes of the file.
    """

    artifact: Artifact
    summary: Summary
    recipe: Recipe
    content: bytes

    def __repr__(self) -> str:
        return f"Compressed({self.summary})"

    def _repr_html_(self) -> str:
        """Return a line for a notebook."""
        return f"<p>{escape(repr(self))}</p>"

    def save(self, path: str | Path) -> Path:
        """Write the file (`model.fw`), whole or not at all."""
        return write_whole(path, self.content)


def deliver(recipe: Recipe, workspace: Workspace, searched: Searched | None = None) -> Compressed:
    """Run a recipe, write its file, reload it, check it against the decoded module, and measure it on test, once.

    Args:
        recipe: the steps.
        workspace: where they run.
        searched: what a search saw that chose the recipe.

    Raises:
        FeatherweightError: a step fails; the runtime computes another network; or activations are quantized and
            no runtime can run the network.
    """
    start, task = time.perf_counter(), workspace.task
    made = execute(recipe, workspace)
    if len(made) > 1 and isinstance(made[1].step, Load | Train):
        made = made[1:]  # nobody asks what the network does before it has its weights
    last, base = made[-1].model, baseline(made)
    with workspace.pinned():
        graph, reasons = graph_of(last, workspace)
        evaluator = Evaluator(workspace, last, graph)
        validation = measure(made, evaluator)
        before = {str(split): evaluator.evaluation(base, split) for split in SPLITS}
        facts = facts_of(recipe, workspace, before["validation"], reasons)
        model, content, stages = write(made, validation, graph, facts, reasons)
        artifact = loads(content)
        test, runtime, difference, checked = check(artifact, model, evaluator)
    searched, index, paired = searched or Searched(), artifact.index(), test.against(before["test"])
    parameters = sum(p.numel() for p in base.module.parameters())
    notes = [*getattr(task, "notes", ()), *model.notes, *checked, *memorised(before, workspace)]
    held_out = getattr(task, "held_out", False) and getattr(task, "training", None) is None
    summary = Summary(
        task=task.name, fingerprint=workspace.fingerprint, primary=task.primary, parameters=parameters,
        float_bytes=4 * parameters, file_bytes=artifact.nbytes,
        weight_bytes=sum(index.nbytes[kind] for kind in CODED),
        overhead={kind: n for kind, n in index.nbytes.items() if n and kind not in CODED},
        ratio=4 * parameters / artifact.nbytes, sha256=hashlib.sha256(content).hexdigest(),
        baseline={split: seen.metrics for split, seen in before.items()}, test=test.metrics, paired=paired,
        validation=dict(artifact.facts["validation"]), runtime=runtime, difference=difference,
        rows=rows_of(index.rows, notes, searched.floats), stages=stages,
        notes=[*notes, *searched.notes, *([] if paired else [UNPAIRED]), *([SEEN] if held_out else [])],
        points=searched.points, sensitivity=searched.sensitivity, recipe=recipe.toml(), seed=workspace.seed,
        threads=workspace.threads,
        environment={**versions(), "python": platform.python_version(), "system": platform.system()},
        seconds=time.perf_counter() - start,
    )  # fmt: skip
    return Compressed(artifact, summary, recipe, content)


def facts_of(
    recipe: Recipe, workspace: Workspace, before: Evaluation, notes: Sequence[Note]
) -> dict[str, Any]:
    """Return what a file says of its making, but for its own metrics.

    `before` is the float network on validation; a note on the `graph` says why there is none.
    """
    return {
        "task": workspace.task.name, "fingerprint": workspace.fingerprint, "seed": workspace.seed,
        "threads": workspace.threads,
        "versions": {name: known for name, known in versions().items() if name in NAMED},
        "recipe": msgspec.to_builtins(recipe), "baseline": before.metrics,
        **{note.name: note.reason for note in notes if note.name == "graph"},
    }  # fmt: skip


def measure(made: Sequence[Made], evaluator: Evaluator) -> list[Metrics]:
    """Return the metrics on validation after each step, the float network first; none where they are not finite."""
    events, name = evaluator.workspace.events, "steps on validation"
    events(Started(name, len(made)))
    found: list[Metrics] = []
    for entry in made:
        try:
            found.append(evaluator.evaluation(entry.model, "validation").metrics)
        except TaskError as error:  # not the end of the recipe: later steps may mend it
            if entry is made[-1]:
                raise
            events(Message(f"after {GIVEN if entry.step is None else tag(entry.step)}: {error}"))
            found.append({})
        events(Progress(name, len(found)))
    events(Finished(name, 0.0))
    return found


def write(
    made: Sequence[Made],
    validation: Sequence[Metrics],
    graph: StoredGraph | None,
    facts: Mapping[str, Any],
    notes: Sequence[Note],
) -> tuple[Model, bytes, list[Stage]]:
    """Return the last network as its file has it, the bytes of the file, and what each step did to bytes and metrics.

    The network is exported once, as it is at the end: where a step changed its structure (folding batch norm, for
    instance), the files before it are counted with the graph of the end.

    Args:
        made: what each step made, the float network first.
        validation: metrics after each step.
        graph: the float graph of the network after the last step; None: there is none.
        facts: about the run.
        notes: on the graph: which axes are free, or why there is none.
    """

    def file(count: int, model: Model, graph: StoredGraph | None) -> bytes:
        steps = [msgspec.to_builtins(entry.step) for entry in made[:count] if entry.step is not None]
        of_steps = {"recipe": facts["recipe"] | {"steps": steps}, "validation": validation[count - 1]}
        return dumps(pack(model, graph, {**facts, **of_steps}))

    last = in_graph(made[-1].model.with_notes(notes), graph)
    content = file(len(made), last, graph)
    of_graph = len(content) - len(file(len(made), last, None))
    stages = []
    for count, (entry, metrics) in enumerate(zip(made, validation, strict=True), start=1):
        options = {"step": GIVEN} if entry.step is None else msgspec.to_builtins(entry.step)
        name = options.pop("step")
        if entry is made[-1]:
            nbytes = len(content)
        elif entry.model.structure == last.structure:
            nbytes = len(file(count, in_graph(entry.model.with_notes(notes), graph), graph))
        else:
            nbytes = of_graph + len(file(count, entry.model, None))
        stages.append(Stage(name, options, entry.seconds, entry.cached, nbytes, dict(metrics)))
    return last, content, stages


def in_graph(model: Model, graph: StoredGraph | None) -> Model:
    """Return the model without the quantizers on edges that its graph does not have, with a note on each."""
    if graph is None or not model.activations:
        return model
    unknown = unknown_edges(graph, model.activations)
    kept = {edge: quantizer for edge, quantizer in model.activations.items() if edge not in unknown}
    reason = "its quantizer is left out: the runtime's graph has no such value"
    notes = [Note("skipped", edge, reason) for edge in unknown]
    return model.with_activations(kept, notes)


def check(
    artifact: Artifact, model: Model, evaluator: Evaluator
) -> tuple[Evaluation, str, float | None, list[Note]]:
    """Return what the reloaded file does on test, what ran it, its difference from the module, notes on its integers.

    `model` is the one that was written.
    """
    task, threads = evaluator.workspace.task, evaluator.workspace.threads
    predict, runtime = reloaded_predictor(artifact, task, threads)
    if artifact.graph is None:
        return evaluated(predict, task, "test"), runtime, None, []
    found = parity(artifact.session(threads=threads, integers=False), model.module, task)
    if not found.difference <= found.bound:
        got, expected = f"{found.difference:.2g}", f"{found.bound:.2g}"
        raise IntegrityError("runtime and decoded module differ", got=got, expected=expected)
    predict, notes = remembered(predict), list[Note]()
    if artifact.activations:
        layers = check_parity(model, artifact.graph, task)
        whole = agreement(evaluator.simulated, predict, task)
        notes += [layers, Note("chose", layers.name, f"against the simulation: {whole}")]
        made = qdq_of(artifact)
        if narrow := saturable(made.onnx):
            why = (
                f"8-bit products of {len(narrow)} layers saturate on x86 without VNNI: there ONNX Runtime is slower,"
                f" and OpenVINO refuses the file; {PORTABLE}"
            )
            notes.append(Note("chose", narrow[0], why))
        notes += [Note("skipped", layer, f"computes in float: {why}") for layer, why in made.floats.items()]
    return evaluated(predict, task, "test"), runtime, found.difference, notes


def memorised(before: Mapping[str, Evaluation], workspace: Workspace) -> list[Note]:
    """Return a note if the float network is better on validation than on test, beyond chance."""
    validation, test = before["validation"].scores, before["test"].scores
    if validation is None or test is None or not seen_before(validation, test):
        return []
    why = (
        f"the float network reaches {validation.mean():.1%} there and {test.mean():.1%} on test: it has probably been"
        " trained on these samples, where losses look smaller than they are; pass validation= with others"
    )
    workspace.events(Message(f"validation: {why}"))
    return [Note("chose", "validation", why)]
