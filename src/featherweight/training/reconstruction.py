"""A network trained stage by stage to compute what a float network computes there, on inputs without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from featherweight.activations import ends
from featherweight.capture.execution import Execution, Values, Visit
from featherweight.capture.program import Program
from featherweight.capture.pytree import flatten_inputs
from featherweight.data.indexed import number
from featherweight.errors import ConfigError, TaskError
from featherweight.graph.folding import foldable
from featherweight.graph.graph import Edge
from featherweight.graph.stages import Stage
from featherweight.model import Model
from featherweight.task import Task
from featherweight.task.outputs import distance, outputs_of, scores_of
from featherweight.task.samples import size_of
from featherweight.task.sampling import check_finite, drawn_inputs
from featherweight.training.features import Features, collected
from featherweight.training.loop import Objective, of_ranges
from featherweight.training.methods.base import RangeSurrogate

Tensors = Mapping[str, Tensor]

MOST_LAYERS = 12  # of a module that is one block


@dataclass(eq=False)
class Walk:
    """A network on its way through the samples: at a position, with what is alive there.

    Attributes:
        program: the network, captured.
        execution: the same, to be run.
        features: what is alive at the position.
        tensors: what has replaced the network's own so far.
        at: the position.
        folder: where large activations may lie.
    """

    program: Program
    execution: Execution
    features: Features
    tensors: dict[str, Tensor] = field(default_factory=dict)
    at: int = 0
    folder: Path | None = None

    def to(self, position: int) -> None:
        """Go on to a position."""
        if position > self.at:
            run, start = self.execution.run, self.at
            self.features = self.features.after(
                lambda values: run(values, start, position, self.tensors), self.folder
            )
            self.at = position

    def edge(self, node: fx.Node) -> Edge | None:
        """Return the edge whose activation a node makes."""
        return self.program.edges.get(node.name)

    def outputs(self, count: int) -> tuple[Tensor, ...]:
        """Return the outputs of the last so many samples, of all if that is 0, computed from here."""
        run, stop = self.execution.run, len(self.execution)
        features = self.features.last(count or self.features.samples)
        found = [
            self.execution.outputs(run(values, self.at, stop, self.tensors), self.tensors)
            for _, values in features.batches()
        ]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def walk(
    model: Model, task: Task, inputs: Sequence[Mapping[str, Tensor]], visit: Visit | None, folder: Path | None
) -> Walk:
    """Return the network of `model` at its start, with inputs by name in batches of one size."""
    program = model.program(task.example())
    reads = [edge for edge in model.activations if ends(edge)[1]]
    execution = Execution(program, visit, reads=reads)
    size = size_of(inputs[0])
    starts = (execution.start(batch) for batch in inputs)
    features = collected(starts, size, size * len(inputs), execution.batch is not None, folder)
    return Walk(program, execution, features, folder=folder)


def batches_of(model: Model, task: Task, samples: int, size: int, seed: int) -> list[dict[str, Tensor]]:
    """Return about so many inputs of the calibration split, by name, in batches of one size.

    Raises:
        TaskError: the split has not enough inputs for one batch, or they hold NaN or infinity.
    """
    fixed = Execution(model.program(task.example())).batch
    found = list(drawn_inputs(task, "calibration", samples=samples, at_once=fixed or size, seed=seed))
    most = max((size_of(part) for part in found), default=0) if fixed is None else fixed
    kept = [flatten_inputs(model.module, part) for part in found if size_of(part) == most]
    if not kept:
        raise TaskError("the calibration split has no whole batch", where=task.name)
    for place, part in enumerate(kept):
        floats = [value for value in part.values() if value.is_floating_point()]
        check_finite(floats, "inputs", where=f"{task.name}, calibration split", batch=place, inputs=part)
    return kept


@dataclass(frozen=True, eq=False)
class Stretch:
    """A stage of a network as it is computed: from a position to another, where its targets are alive.

    Attributes:
        execution: the network.
        start: where the stage begins.
        stop: where it ends.
        targets: what it ends in.
        source: what values at the start are of, another program of the network; None: `execution` itself.
    """

    execution: Execution
    start: int
    stop: int
    targets: tuple[Edge, ...]
    source: Execution | None = None

    @classmethod
    def of(cls, execution: Execution, stage: Stage, last: bool, source: Execution | None = None) -> Stretch:
        """Return a stage of a network; the `last` one goes on to the end, and its targets are the outputs."""
        if not last and (gone := [edge for edge in stage.targets if not execution.makes(edge)]):
            raise ConfigError("is not computed in training", where=gone[0], hint="cut elsewhere")
        places = [execution.position(edge) for edge in stage.nodes if execution.makes(edge)]
        stop = len(execution) if last else max(execution.position(edge) for edge in stage.targets) + 1
        return cls(execution, min(places), stop, stage.targets, source)

    def __call__(self, values: Values, tensors: Tensors) -> tuple[Tensor, ...]:
        """Return the targets, given the values at the start."""
        given = self.execution.carried(values, self.source) if self.source else values
        ended = self.execution.run(given, self.start, self.stop, tensors)
        if self.stop == len(self.execution):
            return self.execution.outputs(ended, tensors)
        return tuple(self.execution.value(ended, edge) for edge in self.targets)


def blocks_of(module: nn.Module) -> list[str]:
    """Return the paths of the modules of 2 to `MOST_LAYERS` layers that are in no other such, and no sequence."""

    def layers(part: nn.Module) -> int:
        return sum(1 for m in part.modules() if (w := getattr(m, "weight", None)) is not None and w.dim() > 1)

    found: list[str] = []
    for path, part in module.named_modules():
        if (
            not path
            or isinstance(part, nn.Sequential | nn.ModuleList)
            or any(path.startswith(f"{p}.") for p in found)
        ):
            continue
        if 2 <= layers(part) <= MOST_LAYERS:
            found.append(path)
    return found


def counterpart(edge: Edge, own: Program, other: Program) -> Edge:
    """Return the edge of another network that stands for an edge of one: behind a batch norm that is folded in one.

    Raises:
        ConfigError: it has none.
    """
    if not any(node.name == edge for node in other.graph.nodes):
        raise ConfigError(
            "the teacher has no such activation", where=edge, hint="cut elsewhere, or name another teacher"
        )
    theirs, ours = foldable(other.graph, other.graph.node(edge)), foldable(own.graph, own.graph.node(edge))
    return theirs.name if theirs is not None and ours is None else edge


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a stage is taught: its inputs, what a teacher computes of them, and a share of both that is held out.

    Attributes:
        stretch: the stage.
        inputs: at its start, as they reach it.
        floats: the same in the teacher; None: not asked for.
        targets: what the teacher computes there, each `[samples, ...]`.
        held: samples at the end that do not train.
        drop: probability with which a number of the inputs is the teacher's.
    """

    stretch: Stretch
    inputs: Features
    floats: Features | None
    targets: tuple[Tensor, ...]
    held: int
    drop: float = 0.0

    @property
    def scales(self) -> list[float]:
        """What squared errors are compared with: the variance of each target."""
        return [max(float(target.float().var(correction=0)), 1e-12) for target in self.targets]

    def objective(self, name: str, ranges: Mapping[Edge, RangeSurrogate], seed: int) -> Objective:
        """Return the error of the stage on the samples that train, as what training minimises."""
        train = self.inputs.first(self.inputs.samples - self.held)
        scales = self.scales

        def forward(values: dict[str, Tensor], numbers: Tensor) -> tuple[Tensor, ...]:
            given = train.part(numbers)
            if self.drop and self.floats is not None:
                given = mixed(given, self.floats.part(numbers), train, self.drop)
            return self.stretch(given, values)

        def loss(outputs: tuple[Tensor, ...], numbers: Tensor) -> Tensor:
            return sum_of(outputs, [target[numbers] for target in self.targets], scales)

        return Objective(
            name, lambda epoch: train.order(number(seed, epoch)), forward, loss, seed, of_ranges(ranges)
        )

    def error(self, tensors: Tensors) -> float:
        """Return the error on the samples that are held out, or on all where none are."""
        seen, total = 0, 0.0
        with torch.no_grad():
            for numbers, values in self.inputs.last(self.held or self.inputs.samples).batches():
                places = numbers + (self.inputs.samples - self.held if self.held else 0)
                outputs = self.stretch(values, tensors)
                total += float(sum_of(outputs, [target[places] for target in self.targets], self.scales))
                seen += 1
        return total / seen


def sum_of(outputs: Sequence[Tensor], targets: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Return the mean squared errors over their scales, summed over targets."""
    errors = [
        (output.float() - target.float()).square().mean() / scale
        for output, target, scale in zip(outputs, targets, scales, strict=True)
    ]
    return torch.stack(errors).sum()


def mixed(given: Values, floats: Values, features: Features, drop: float) -> dict[fx.Node, Any]:
    """Return inputs in which each number is the teacher's with a probability.

    References: Wei, Gong, Li, Liu, Yu, QDrop: randomly dropping quantization for extremely low-bit post-training
    quantization, 2022, arXiv 2203.05740.
    """
    found = dict(given)
    for node in features.rows:
        value = found[node]
        if isinstance(value, Tensor) and value.is_floating_point() and node in floats:
            found[node] = torch.where(torch.rand_like(value) < drop, floats[node], value)
    return found


def seen_by(inputs: Features, own: Walk, theirs: Walk) -> Features:
    """Return features of a network as its teacher has them: activations of the same edges, everything else as it is.

    The teacher goes on to where these are alive.
    """
    edges = {node: own.edge(node) for node in inputs.rows if node in inputs.values}
    known = {node: counterpart(edge, own.program, theirs.program) for node, edge in edges.items() if edge}
    makes = theirs.execution.makes
    theirs.to(max((theirs.execution.position(edge) + 1 for edge in known.values() if makes(edge)), default=0))
    found = {node: theirs.execution.value(theirs.features.values, edge) for node, edge in known.items()}
    return replace(inputs, values={**inputs.values, **found})


def targets_of(stage: Stage, last: bool, own: Walk, theirs: Walk) -> tuple[Tensor, ...]:
    """Return what a teacher computes where a stage ends, of all samples; it goes on to there."""
    if last:
        return theirs.outputs(0)
    edges = [counterpart(edge, own.program, theirs.program) for edge in stage.targets]
    theirs.to(max(theirs.execution.position(edge) for edge in edges) + 1)
    return tuple(theirs.execution.value(theirs.features.values, edge) for edge in edges)


def apart(task: Task, outputs: tuple[Tensor, ...], answers: tuple[Tensor, ...]) -> tuple[float, float | None]:
    """Return the `distance` of outputs from answers, and of classes the share of samples of the same one."""
    far = float(distance(outputs, answers))
    single = outputs[0] if len(outputs) == 1 else outputs
    if outputs_of(task, single) != "classes":
        return far, None
    ours, theirs = (scores_of(task, found[0]).argmax(1) for found in (outputs, answers))
    return far, float((ours == theirs).float().mean())
