"""The end of a compression: the file written, loaded again, compared with the decoded network, and measured on test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from featherweight.artifact import Artifact, dumps, loads
from featherweight.errors import IntegrityError
from featherweight.events import Events
from featherweight.files import write_whole
from featherweight.model import Model
from featherweight.recipe import Made, Recipe, Store
from featherweight.recipe.packing import pack
from featherweight.recipe.runner import pinned, versions
from featherweight.search.evaluate import comparable, measured, metrics, parity, reloaded_predictor, scored
from featherweight.search.front import Trial
from featherweight.search.graphs import graph_of
from featherweight.search.paired import paired
from featherweight.search.sensitivity import Sensitivity
from featherweight.search.summary import Summary, summarise
from featherweight.task import Task
from featherweight.task.scores import scores
from featherweight.techniques import Train

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

    def save(self, path: str | Path) -> Path:
        """Write the file (`model.fw`), whole or not at all."""
        return write_whole(path, self.content)


@dataclass(frozen=True)
class Found:
    """What a search saw on its way."""

    table: Sensitivity
    trials: list[Trial]
    chosen: Trial


def finish(
    task: Task,
    made: list[Made],
    found: Found | None,
    about: str,
    seed: int,
    threads: int,
    store: Store,
    events: Events,
    start: float,
) -> Compressed:
    """Write, reload, check against the decoded module, and measure the reloaded file on test, once."""
    model, base = made[-1].model, baseline(made)
    recipe = Recipe([entry.step for entry in made if entry.step is not None], about)
    graph, notes = graph_of(model, task, store, events)
    model = model.with_notes(notes)
    with pinned(threads):
        before = {split: metrics(base, task, split, store, threads) for split in ("validation", "test")}
        facts: dict[str, Any] = {
            "task": task.name,
            "fingerprint": task.fingerprint(),
            "seed": seed,
            "threads": threads,
            "versions": versions(),
            "recipe": msgspec.to_builtins(recipe),
            "validation": metrics(model, task, "validation", store, threads),
            "baseline": before["validation"],
        }
        if graph is None:
            facts["graph"] = notes[0].reason
        content = dumps(pack(model, graph, facts))
        artifact = loads(content)
        difference = None if graph is None else parity(artifact.session(threads=threads), model.module, task)
        if difference is not None and difference > PARITY:
            raise IntegrityError(
                "runtime and decoded module differ", got=f"{difference:.2g}", expected=f"{PARITY}"
            )
        predict, runtime = reloaded_predictor(artifact, task, threads)
        after = measured(task, predict, "test")
        old = comparable(scored(base, task, "test", store, threads), before["test"], task)
        new = None if old is None else comparable(scores(task, predict, "test"), after, task)
    summary = summarise(
        task=task,
        model=model,
        base=base,
        made=made,
        artifact=artifact,
        baseline=before,
        test=after,
        paired=None if old is None or new is None else paired(old, new),
        runtime=runtime,
        difference=difference,
        threads=threads,
        seed=seed,
        seconds=time.perf_counter() - start,
        table=found.table if found else None,
        trials=found.trials if found else [],
        chosen=found.chosen if found else None,
    )
    return Compressed(artifact, summary, recipe, content)


def baseline(made: Sequence[Made]) -> Model:
    """Return the model that a result is compared with: after the last of the `train` steps that come first."""
    base = made[0].model
    for entry in made[1:]:
        if not isinstance(entry.step, Train):
            break
        base = entry.model
    return base
