"""Models as the files they make: the file of a whole recipe, and what each of its steps did to bytes and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from featherweight.artifact import StoredGraph, dumps
from featherweight.delivery.summary import GIVEN, Stage
from featherweight.errors import TaskError
from featherweight.evaluation.metrics import Evaluation, evaluate, model_predictor, remembered
from featherweight.events import Finished, Message, Progress, Started
from featherweight.model import Model, Note
from featherweight.packing import pack
from featherweight.recipe import Made, Recipe
from featherweight.recipe.runner import baseline
from featherweight.runtime import values_of
from featherweight.task import Predict, Split
from featherweight.techniques import Load, Train
from featherweight.workspace import NAMED, Workspace, versions

Metrics = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class ArtifactBuilder:
    """What the files of one run have in common.

    Attributes:
        made: what each step made, the task's own network first.
        about: one line of the recipe, for a person.
        workspace: of the run.
        graph: the float graph of the network after the last step; None: there is none.
        notes: why there is none.
    """

    made: Sequence[Made]
    about: str
    workspace: Workspace
    graph: StoredGraph | None
    notes: Sequence[Note] = ()

    @cached_property
    def model(self) -> Model:
        """The network after the last step, as the file has it."""
        return _in_graph(self.made[-1].model.with_notes(self.notes), self.graph)

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            TaskError: a metric on validation is no finite number.
        """
        return self._file(self.made, self.model, self.graph)

    def stages(self) -> list[Stage]:
        """Return a stage for each step: bytes of the file, had the recipe ended there, and metrics on validation.

        The first is the float network; stages before a first `load` or `train` are left out. The network is
        exported once, as it is at the end: where a step changed its structure (folding batch norm, for instance),
        the files before it are counted with the graph of the end.
        """
        first = 1 if len(self.made) > 1 and isinstance(self.made[1].step, Load | Train) else 0
        events, name = self.workspace.events, "files of the steps"
        events(Started(name, len(self.made) - first))
        stages = []
        for last in range(first, len(self.made)):
            stages.append(self._stage(self.made[: last + 1]))
            events(Progress(name, len(stages)))
        events(Finished(name, 0.0))
        return stages

    def _stage(self, made: Sequence[Made]) -> Stage:
        entry = made[-1]
        options = {"step": GIVEN} if entry.step is None else msgspec.to_builtins(entry.step)
        name = options.pop("step")
        try:
            found = self.validation(entry.model)
        except TaskError as error:  # not the end of the recipe: later steps may mend it
            self.workspace.events(Message(f"after {name}: {error}"))
            found = {}
        return Stage(name, options, entry.seconds, entry.cached, self._nbytes(made, found), dict(found))

    def _nbytes(self, made: Sequence[Made], found: Metrics) -> int:
        if made[-1] is self.made[-1]:
            return len(self.content)
        model = made[-1].model
        if self._same_structure(model):
            model = _in_graph(model.with_notes(self.notes), self.graph)
            return len(self._file(made, model, self.graph, found))
        graph = len(self.content) - len(self._file(self.made, self.model, None))
        return graph + len(self._file(made, model, None, found))

    @cached_property
    def simulated(self) -> Predict:
        """The network after the last step as integer hardware computes it; outputs are remembered."""
        return remembered(model_predictor(self.made[-1].model, self.workspace.task))

    def validation(self, model: Model) -> Metrics:
        """Return the metrics of one of the models on validation."""
        return self.evaluation(model, "validation").metrics

    def evaluation(self, model: Model, split: Split) -> Evaluation:
        """Return what one of the models does on a split; in a runtime where it has the graph and is float."""
        graph = self.graph if self._same_structure(model) else None
        last = model is self.made[-1].model and model.activations
        return evaluate(model, split, self.workspace, graph, self.simulated if last else None)

    def _same_structure(self, model: Model) -> bool:
        return model.structure == self.made[-1].model.structure

    def _file(
        self, made: Sequence[Made], model: Model, graph: StoredGraph | None, found: Metrics | None = None
    ) -> bytes:
        """Return the file of the first steps; `found`: the metrics of `model`, where they are known to be none."""
        steps = Recipe([entry.step for entry in made if entry.step is not None], self.about)
        facts: dict[str, Any] = {
            "task": self.workspace.task.name,
            "fingerprint": self.workspace.fingerprint,
            "seed": self.workspace.seed,
            "threads": self.workspace.threads,
            "versions": {name: known for name, known in versions().items() if name in NAMED},
            "recipe": msgspec.to_builtins(steps),
            "validation": self.validation(made[-1].model) if found is None else found,
            "baseline": self.validation(baseline(self.made)),
        }
        if self.graph is None:
            facts["graph"] = self.notes[0].reason
        return dumps(pack(model, graph, facts))


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
