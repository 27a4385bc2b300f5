"""From a recipe to a file: written, loaded again, compared with the decoded network, and measured on test."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

from featherweight.artifact import Artifact, loads
from featherweight.delivery.artifact_builder import ArtifactBuilder
from featherweight.delivery.runtime_graph import graph_of
from featherweight.delivery.summary import Searched, Summary, summarise
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.evaluation.agreement import agreement
from featherweight.evaluation.layer_parity import check_parity
from featherweight.evaluation.metrics import (
    Evaluation,
    evaluated,
    parity,
    reloaded_predictor,
    remembered,
)
from featherweight.evaluation.paired_test import Paired, paired, seen_before
from featherweight.events import Message
from featherweight.files import write_whole
from featherweight.model import Note
from featherweight.recipe import Recipe
from featherweight.recipe.runner import baseline, execute
from featherweight.runtime import qdq_of
from featherweight.runtime.saturation import PORTABLE, saturable
from featherweight.task import Predict
from featherweight.workspace import Workspace


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
        s = self.summary
        return (
            f"Compressed({s.task}: {s.file_bytes:,} bytes, {s.ratio:.1f}x smaller; "
            f"{s.primary} on test {s.test[s.primary]:.4f}, float {s.baseline['test'][s.primary]:.4f})"
        )

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
    start = time.perf_counter()
    made = execute(recipe, workspace)
    base, last = baseline(made), made[-1].model
    with workspace.pinned():
        graph, notes = graph_of(last, workspace)
        if graph is None and last.activations:
            raise UnsupportedError(
                "activations are quantized, and no runtime can run the network",
                where=workspace.task.name,
                got=notes[0].reason,
                hint="a recipe without calibrate makes a file of weights alone",
            )
        builder = ArtifactBuilder(made, recipe.about, workspace, graph, notes)
        stages = builder.stages()
        artifact = loads(builder.content)
        before = {split: builder.evaluation(base, split) for split in ("validation", "test")}
        after, runtime, found, difference = _checked(artifact, builder)
        model = builder.model.with_notes([*found, *_memorised(before, workspace)])
    summary = summarise(
        workspace=workspace,
        model=model,
        base=base,
        stages=stages,
        artifact=artifact,
        sha256=hashlib.sha256(builder.content).hexdigest(),
        baseline={split: seen.metrics for split, seen in before.items()},
        test=after.metrics,
        paired=_paired(before["test"], after),
        runtime=runtime,
        difference=difference,
        seconds=time.perf_counter() - start,
        searched=searched or Searched(),
    )
    return Compressed(artifact, summary, recipe, builder.content)


def _checked(
    artifact: Artifact, builder: ArtifactBuilder
) -> tuple[Evaluation, str, list[Note], float | None]:
    """Return the reloaded file on test, what ran it, notes on its integers, and its difference from the module."""
    task, threads, graph = builder.workspace.task, builder.workspace.threads, builder.graph
    predict, runtime = reloaded_predictor(artifact, task, threads)
    if graph is None:
        return evaluated(predict, task, "test"), runtime, [], None
    found = parity(artifact.session(threads=threads, integers=False), builder.model.module, task)
    if not found.difference <= found.bound:
        raise IntegrityError(
            "runtime and decoded module differ", got=f"{found.difference:.2g}", expected=f"{found.bound:.2g}"
        )
    predict = remembered(predict)
    notes = _integer_notes(artifact, builder, predict) if artifact.activations else []
    return evaluated(predict, task, "test"), runtime, notes, found.difference


def _integer_notes(artifact: Artifact, builder: ArtifactBuilder, run: Predict) -> list[Note]:
    """Return how the integers of a file compare with the model's, and which of its layers compute in float.

    Raises:
        UnsupportedError: the runtime computes a layer otherwise than it was simulated.
    """
    assert builder.graph is not None
    task = builder.workspace.task
    layers = check_parity(builder.model, builder.graph, task)
    whole = agreement(builder.simulated, run, task)
    made = qdq_of(artifact)
    notes = [layers, Note("chose", layers.name, f"against the simulation: {whole}")]
    if narrow := saturable(made.onnx):
        saturate = f"products of {len(narrow)} layers saturate on x86 without VNNI, where ONNX Runtime is slower for it"
        notes.append(Note("chose", narrow[0], f"8-bit {saturate} and OpenVINO refuses the file; {PORTABLE}"))
    floats = made.floats.items()
    return [*notes, *(Note("skipped", layer, f"computes in float: {reason}") for layer, reason in floats)]


def _paired(before: Evaluation, after: Evaluation) -> Paired | None:
    if before.scores is None or after.scores is None:
        return None
    return paired(before.scores, after.scores)


def _memorised(before: dict[str, Evaluation], workspace: Workspace) -> list[Note]:
    """Return a note if the float network is better on validation than on test, beyond chance."""
    validation, test = before["validation"].scores, before["test"].scores
    if validation is None or test is None or not seen_before(validation, test):
        return []
    note = Note(
        "chose",
        "validation",
        f"the float network reaches {validation.mean():.1%} there and {test.mean():.1%} on test: it has probably been"
        " trained on these samples, where losses look smaller than they are; pass validation= with others",
    )
    workspace.events(Message(f"validation: {note.reason}"))
    return [note]
