"""The stages of a network: what each is taught, how it trains, and how far the network has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from featherweight.activations import Quantizer, ends
from featherweight.capture.execution import Execution
from featherweight.capture.program import Program
from featherweight.errors import ConfigError
from featherweight.events import Note
from featherweight.graph.graph import Edge
from featherweight.graph.quantizable import tied
from featherweight.graph.stages import stages_of
from featherweight.model import Model, share
from featherweight.simulation import fake_quantize
from featherweight.task.samples import size_of
from featherweight.techniques.corrections import batch_norms
from featherweight.techniques.encode import nearest
from featherweight.techniques.stages import Stages
from featherweight.techniques.training import trainable
from featherweight.training.gradients import isolated
from featherweight.training.loop import minimise
from featherweight.training.methods.base import RangeSurrogate
from featherweight.training.quantizers import rounding
from featherweight.training.reconstruction import (
    Lesson,
    Stretch,
    batches_of,
    blocks_of,
    counterpart,
    seen_by,
    targets_of,
    walk,
)
from featherweight.work import Subject
from featherweight.workspace import Workspace


class Question(msgspec.Struct, frozen=True):
    """What becomes of one stage of a model, by a teacher.

    Attributes:
        step: how stages are trained.
        place: which of them, in order of execution.
        cost: multiply-accumulates of a sample in it.
    """

    step: Stages
    place: int
    cost: int


def trained_stage(subject: Subject, question: Question) -> Model:
    """Return a model, the first of the subject's, with a stage trained to compute what the second one does there.

    Its notes are those of the stage. Stages before it are as the model has them; quantizers behind it are not asked.
    A walk through a network does not go back: workers, who are asked in any order, begin another one.
    """

    def staged() -> Staged:
        return Staged(question.step, subject.models, subject.workspace, subject.scratch)

    key = known_as(question.step)
    with isolated():
        if subject.once(key, staged).reached >= question.place:
            subject.known[key] = staged()
        return subject.once(key, staged).trained(question.place, subject.scratch)


def known_as(step: Stages) -> bytes:
    """Return what a process knows the stages of a step by."""
    return msgspec.json.encode(step)


class Staged:
    """A network beside its teacher, on the way through its stages."""

    def __init__(
        self, step: Stages, models: Sequence[Model], workspace: Workspace, folder: Path | None
    ) -> None:
        self.step, self.workspace, (self.model, teacher), self.reached = step, workspace, models, -1
        task, model = workspace.task, self.model
        self.program = model.program(task.example())
        graph = self.program.graph
        blocks = blocks_of(model.module) if step.by == "block" else ()
        self.stages = stages_of(
            graph, step.by, blocks, partial(known, self.program, teacher.program(task.example()))
        )
        self.groups = tied(graph, model.activations)
        self.owners = {edge: self._owner(group) for group in self.groups for edge in group}
        inputs = batches_of(model, task, step.samples, step.batch, workspace.seed)
        held = min(len(inputs) - 1, max(1, round(step.held * len(inputs)))) if step.held else 0
        self.held = held * size_of(inputs[0])
        self.live = {edge: model.activations[edge] for edge, place in self.owners.items() if place is None}
        self.own = walk(model, task, inputs, self.rounded, folder)
        self.theirs = walk(teacher, task, inputs, None, folder)
        nodes = {node.name: node for node in graph.nodes}
        self.costs = [sum(nodes[edge].macs or 0 for edge in stage.nodes) for stage in self.stages]

    def rounded(self, edge: Edge, x: Tensor) -> Tensor:
        """Return an activation, rounded if its stage is one that the network has now."""
        quantizer = self.live.get(edge)
        return x if quantizer is None else fake_quantize(x, quantizer)

    def _owner(self, group: Sequence[Edge]) -> int | None:
        """Return the place of the stage that a quantizer belongs to: the first that computes an edge of its group."""
        nodes = {ends(part)[1] or part for part in group}
        return next((place for place, stage in enumerate(self.stages) if nodes & {*stage.nodes}), None)

    def fresh(self, place: int) -> list[str]:
        """Return the tensors that a stage reads, and none before it."""
        before = {name for stage in self.stages[:place] for name in stage.tensors}
        return [name for name in self.stages[place].tensors if name not in before]

    def take(self, place: int, model: Model) -> None:
        """Let the network go on with the tensors and quantizers of a stage that has been trained."""
        names = self.fresh(place)
        edges = [edge for edge, owner in self.owners.items() if owner == place]
        encoded = {name: model.weights[name] for name in names if name in model.weights}
        floats = {name: model.tensors[name] for name in names if name not in encoded}
        activations = {**self.model.activations, **{edge: model.activations[edge] for edge in edges}}
        merged = (
            self.model.with_tensors(floats).with_encoded(encoded).with_activations(activations, model.notes)
        )
        self.model = merged
        self.own.tensors.update({name: merged.tensors[name].detach() for name in names})
        self.live |= {edge: activations[edge] for edge in edges}

    def lesson(self, place: int) -> Lesson:
        """Return what a stage is taught."""
        own, theirs, stage, step = self.own, self.theirs, self.stages[place], self.step
        last = stage.targets == self.program.graph.outputs
        stretch = Stretch.of(own.execution, stage, last)
        before = (edge for edge, owner in self.owners.items() if owner is not None and owner < place)
        self.live |= {edge: self.model.activations[edge] for edge in before}
        own.to(stretch.start)
        inputs = own.features.only(own.execution.kept(own.features.values, stretch.start, stretch.stop))
        taught = seen_by(inputs, own, theirs) if step.inputs == "float" or step.drop else None
        if step.inputs == "float" and taught is not None:
            inputs, taught = taught, None
        return Lesson(stretch, inputs, taught, targets_of(stage, last, own, theirs), self.held, step.drop)

    def so_far(self, place: int) -> tuple[Tensor, ...]:
        """Return the answers to the samples held out, with the stages up to a place trained."""
        self.own.to(Stretch.of(self.own.execution, self.stages[place], False).start)
        return self.own.outputs(self.held)

    def execution(
        self,
        activations: Mapping[Edge, Quantizer],
        ranges: Mapping[Edge, RangeSurrogate],
        drop: float = 0.0,
        *,
        learns: bool = False,
    ) -> Execution:
        """Return the network with these quantizers, of which `ranges` train; `drop` of all numbers they leave alone."""
        visit, reads = rounding(activations, ranges, {}), [edge for edge in activations if ends(edge)[1]]

        def dropping(edge: Edge, x: Tensor) -> Tensor:
            rounded = visit(edge, x)
            return rounded if rounded is x else torch.where(torch.rand_like(x) < drop, x, rounded)

        program = self.learning if learns else self.program
        return Execution(program, dropping if drop else visit, reads=reads, grad=True)

    @cached_property
    def learning(self) -> Program:
        """The network with batch norms in the mode of training, if it has some, and all else as at inference."""
        norms = batch_norms(self.model.module)
        module = share(self.model.module).eval()
        for path in norms:
            module.get_submodule(path).train()
        return self.program.training(module) if norms else self.program

    def trained(self, place: int, scratch: Path | None) -> Model:
        """Return the model with a stage trained, and notes of that alone."""
        step, model, stage, lesson = self.step, self.model, self.stages[place], self.lesson(place)
        self.reached = place
        options, task, seed = step.options(self.workspace.task), self.workspace.task, self.workspace.seed
        moves, _ = trainable(model)
        names = [name for name in self.fresh(place) if name in moves]
        groups = [group for group in self.groups if self.owners[group[0]] == place]
        wanted, _ = step.selected(model, moves, options.keep_zeros)
        chosen = [name for name in names if name in wanted]
        floats = [name for name in names if name not in chosen and name not in model.weights]

        def error(found: Model) -> float:
            part = replace(lesson.stretch, execution=self.execution(found.activations, {}))
            return replace(lesson, stretch=part).error(found.tensors)

        best = model.with_encoded({name: nearest(model, name, wanted[name]) for name in chosen})
        before = least = error(best)
        tries = step.again + 1 if floats or chosen else 0
        for number in range(tries):
            surrogates = step.surrogates(model, {name: wanted[name] for name in chosen})
            parts = (
                {group: step.method.range(model.activations[group[0]]) for group in groups}
                if step.method
                else {}
            )
            ranges = {edge: part for group, part in parts.items() if part is not None for edge in group}
            execution = self.execution(model.activations, ranges, step.drop, learns=True)
            source = lesson.stretch.execution if self.learning is not self.program else None
            last = stage.targets == self.program.graph.outputs
            taught = replace(lesson, stretch=Stretch.of(execution, stage, last, source))
            values = minimise(
                model, floats, surrogates, taught.objective(f"{task.name}, {stage.name}", ranges, seed),
                msgspec.structs.replace(options, epochs=options.epochs * 2**number), events=self.workspace.events,
                scratch=scratch and scratch / str(number), name=stage.name,
            )  # fmt: skip
            found = step.frozen(model, values, surrogates, ranges)
            if (reached := error(found)) < least:
                best, least = found, reached
            if step.tolerance is None or least <= step.tolerance:
                break
        said = (
            f"error {before:.3g} rounded, {least:.3g} trained"
            if tries
            else f"error {before:.3g}, nothing trains"
        )
        return replace(best, notes=(Note("chose", stage.name, said),))


def known(own: Program, other: Program, edge: Edge) -> bool:
    """Return whether another network has the activation of an edge, in the same shape."""
    try:
        theirs = other.graph.node(counterpart(edge, own, other))
    except ConfigError:
        return False
    return theirs.shape == own.graph.node(edge).shape
