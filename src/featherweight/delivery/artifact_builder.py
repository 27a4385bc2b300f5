"""Models as the files they make: the file of a whole recipe, and what each of its steps did to bytes and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from featherweight.artifact import StoredGraph, dumps
from featherweight.delivery.runtime_graph import graph_of
from featherweight.delivery.summary import GIVEN, Stage
from featherweight.errors import TaskError
from featherweight.evaluation.metrics import metrics
from featherweight.events import Events, Finished, Message, Progress, Started
from featherweight.model import Model, Note
from featherweight.packing import pack
from featherweight.recipe import Made, Recipe, Store
from featherweight.runtime import values_of
from featherweight.store import key_of
from featherweight.task import Task
from featherweight.techniques import Load, Train
from featherweight.workspace import versions


@dataclass(frozen=True, eq=False)
class Writer:
    """What the files of one run have in common: the facts about their making, and their graphs.

    `graphs` holds those that were exported already, or why there is none, by structure.
    """

    task: Task
    about: str
    baseline: Mapping[str, float]
    seed: int
    threads: int
    store: Store
    events: Events
    graphs: dict[str, tuple[StoredGraph | None, list[Note]]] = field(default_factory=dict)

    def file(self, made: Sequence[Made], validation: Mapping[str, float]) -> tuple[Model, bytes]:
        """Return the model that these steps made, with a note if it has no graph, and the bytes of its file."""
        graph, notes = self._graph(made[-1].model)
        model = _in_graph(made[-1].model.with_notes(notes), graph)
        facts: dict[str, Any] = {
            "task": self.task.name,
            "fingerprint": self.task.fingerprint(),
            "seed": self.seed,
            "threads": self.threads,
            "versions": versions(),
            "recipe": msgspec.to_builtins(recipe_of(made, self.about)),
            "validation": validation,
            "baseline": self.baseline,
        }
        if graph is None:
            facts["graph"] = notes[0].reason
        return model, dumps(pack(model, graph, facts))

    def stages(self, made: Sequence[Made]) -> list[Stage]:
        """Return what stood after each step: the bytes of the file it would be, and its metrics on validation.

        The first is the float network; before a first `load` or `train` there is none worth a line.
        """
        first = 1 if len(made) > 1 and isinstance(made[1].step, Load | Train) else 0
        self.events(Started("files of the steps", len(made) - first))
        stages = []
        for last in range(first, len(made)):
            stages.append(self._stage(made[: last + 1]))
            self.events(Progress("files of the steps", len(stages)))
        self.events(Finished("files of the steps", 0.0))
        return stages

    def _stage(self, made: Sequence[Made]) -> Stage:
        entry = made[-1]
        options = {"step": GIVEN} if entry.step is None else msgspec.to_builtins(entry.step)
        name = options.pop("step")
        try:
            found = metrics(entry.model, self.task, "validation", self.store, self.threads)
        except TaskError as error:  # not the end of the recipe: later steps may mend it
            self.events(Message(f"after {name}: {error}"))
            found = {}
        _, content = self.file(made, found)
        return Stage(name, options, entry.seconds, entry.cached, len(content), found)

    def _graph(self, model: Model) -> tuple[StoredGraph | None, list[Note]]:
        key = key_of(model.structure, model.aliases)
        if key not in self.graphs:
            self.graphs[key] = graph_of(model, self.task, self.store, self.events)
        return self.graphs[key]


def _in_graph(model: Model, graph: StoredGraph | None) -> Model:
    """Return the model without the quantizers on edges that its graph does not have, with a note on each."""
    if graph is None or not model.activations:
        return model
    known = values_of(graph)
    kept = {edge: quantizer for edge, quantizer in model.activations.items() if edge in known}
    notes = [
        Note("skipped", edge, "its quantizer is left out: the runtime's graph has no such value")
        for edge in model.activations
        if edge not in kept
    ]
    return model.with_activations(kept, notes)


def recipe_of(made: Sequence[Made], about: str) -> Recipe:
    """Return the steps that were made as a recipe."""
    return Recipe([entry.step for entry in made if entry.step is not None], about)
