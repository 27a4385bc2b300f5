"""The end of a compression: the file written, loaded again, compared with the decoded network, and measured on test."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

from featherweight.artifact import Artifact, loads
from featherweight.delivery.artifact_builder import Writer, recipe_of
from featherweight.delivery.summary import Searched, Summary, summarise
from featherweight.errors import IntegrityError
from featherweight.evaluation.agreement import agreement
from featherweight.evaluation.layer_parity import check_parity
from featherweight.evaluation.metrics import (
    comparable,
    measured,
    metrics,
    model_predictor,
    parity,
    reloaded_predictor,
    remembered,
    scored,
)
from featherweight.evaluation.paired_test import paired
from featherweight.events import Events
from featherweight.files import write_whole
from featherweight.model import Model, Note
from featherweight.recipe import Made, Recipe, Store
from featherweight.recipe.runner import baseline
from featherweight.runtime import qdq_of
from featherweight.task import Predict, Task
from featherweight.task.scores import scores
from featherweight.workspace import pinned

PARITY = 1e-5


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


def deliver(
    task: Task,
    made: list[Made],
    searched: Searched,
    about: str,
    seed: int,
    threads: int,
    store: Store,
    events: Events,
    start: float,
) -> Compressed:
    """Write, reload, check against the decoded module, and measure the reloaded file on test, once."""
    base = baseline(made)
    with pinned(threads):
        whole = remembered(model_predictor(base, task))
        before = {
            split: metrics(base, task, split, store, threads, whole) for split in ("validation", "test")
        }
        writer = Writer(task, about, before["validation"], seed, threads, store, events)
        model, content = writer.file(made, metrics(made[-1].model, task, "validation", store, threads))
        artifact = loads(content)
        difference = None
        if artifact.graph is not None:
            difference = parity(artifact.session(threads=threads, integers=False), model.module, task)
        if difference is not None and difference > PARITY:
            raise IntegrityError(
                "runtime and decoded module differ", got=f"{difference:.2g}", expected=f"{PARITY}"
            )
        predict, runtime = reloaded_predictor(artifact, task, threads)
        predict = remembered(predict)
        if artifact.graph is not None and artifact.activations:
            model = model.with_notes(integer_notes(model, artifact, predict, task))
        after = measured(task, predict, "test")
        stages = writer.stages(made)
        old = comparable(scored(base, task, "test", store, threads, whole), before["test"], task)
        new = None if old is None else comparable(scores(task, predict, "test"), after, task)
    summary = summarise(
        task=task,
        model=model,
        base=base,
        stages=stages,
        artifact=artifact,
        baseline=before,
        test=after,
        paired=None if old is None or new is None else paired(old, new),
        runtime=runtime,
        difference=difference,
        threads=threads,
        seed=seed,
        seconds=time.perf_counter() - start,
        searched=searched,
    )
    return Compressed(artifact, summary, recipe_of(made, about), content)


def integer_notes(model: Model, artifact: Artifact, run: Predict, task: Task) -> list[Note]:
    """Return how the integers of a file compare with the model's, and which of its layers compute in float.

    Raises:
        UnsupportedError: the runtime computes a layer otherwise than it was simulated.
    """
    if artifact.graph is None:
        return []
    layers = check_parity(model, artifact.graph, task)
    whole = agreement(model_predictor(model, task), run, task)
    floats = [
        Note("skipped", layer, f"computes in float: {reason}")
        for layer, reason in qdq_of(artifact).floats.items()
    ]
    return [layers, Note("chose", layers.name, f"against the simulation: {whole}"), *floats]
