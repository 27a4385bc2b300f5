"""Layers treated one after the other, each with its inputs before and after all that was changed earlier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from featherweight.capture.execution import Execution, Tensors
from featherweight.capture.pytree import flatten_inputs
from featherweight.curvature.linear_ops import LinearOp, Pairs, linear_ops
from featherweight.errors import TaskError, UnsupportedError
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.model import Model, Note
from featherweight.task import Task
from featherweight.task.samples import size_of
from featherweight.task.sampling import drawn_inputs

LIMIT = 1 << 28  # bytes of activations that are kept between layers
CACHED = 1 << 25  # bytes of activations that are worked on at once: beyond, torch's convolutions slow down

Treat = Callable[[LinearOp, Pairs], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Prefix:
    """A captured network and the inputs that run through it.

    Attributes:
        execution: the network.
        linear_ops: its layers that can be treated, in order of execution, by their weights.
        without: why the other tensors have none.
        inputs: the network's inputs, by name, batch by batch.
    """

    execution: Execution
    linear_ops: Mapping[str, LinearOp]
    without: Mapping[str, str]
    inputs: tuple[Mapping[str, Tensor], ...]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(size_of(batch) for batch in self.inputs)

    def notes(self, others: Iterable[str], instead: str, asked: int) -> list[Note]:
        """Return why tensors of no such layer are treated otherwise, and whether samples are fewer than asked for."""
        reasons = {name: self.without.get(name, "no operator reads it") for name in others}
        notes = [Note("chose", name, f"{instead}: {reason}") for name, reason in reasons.items()]
        if self.samples < asked:
            notes.append(Note("chose", "calibration", f"only {self.samples} inputs of the {asked} asked for"))
        return notes


def prefix(model: Model, task: Task, samples: int, *, seed: int = 0) -> Prefix:
    """Return the network of `model` with so many inputs of the calibration split, or as many as there are.

    They come in batches small enough for the caches of a processor; to a network of a fixed batch in whole ones.

    Raises:
        TaskError: the split is empty.
        UnsupportedError: the network cannot be traced.
    """
    program = model.program(task.example())
    execution = Execution(program)
    found, without = linear_ops(program.graph)
    size = execution.batch or max(1, int(CACHED / max(*execution.nbytes, 1)))
    parts = drawn_inputs(task, "calibration", samples=samples, at_once=size, seed=seed)
    named = (flatten_inputs(model.module, part) for part in parts)
    inputs = tuple(part for part in named if execution.batch in (None, size_of(part)))
    if not inputs:
        raise TaskError("the calibration split has no whole batch", where=task.name)
    return Prefix(execution, found, without, inputs)


def layerwise(
    prefix: Prefix,
    weights: Sequence[str],
    treat: Treat,
    *,
    changed: Tensors | None = None,
    sequential: bool = True,
    limit: int = LIMIT,
    events: Events = silent,
    name: str = "layers",
) -> None:
    """Treat the layers that have these weights, in order of execution.

    A layer's inputs are computed from the last position before it at which few enough bytes are alive to be
    kept for all samples: no operator runs more often than there are layers between two such positions. A tensor that
    nothing behind that position reads is let go.

    Args:
        prefix: the network and its inputs.
        weights: of the layers to treat; each is in `prefix.linear_ops`.
        treat: given a layer and its inputs (computed each time they are iterated), what replaces its
            tensors from then on, by canonical name.
        changed: tensors that are changed from the start.
        sequential: whether the second of each pair sees what was treated; else only `changed`.
        limit: bytes of activations to keep.
        events: where progress goes.
        name: what progress calls it.
    """
    walk, seen, last = _Walk(prefix, limit), dict(changed or {}), prefix.execution.read
    chosen = [layer for weight, layer in prefix.linear_ops.items() if weight in set(weights)]
    events(Started(name, len(chosen)))
    for number, layer in enumerate(chosen):
        walk.to(layer, seen)
        for behind in [known for known in seen if last.get(known, -1) < walk.at]:
            del seen[behind]
        made = treat(layer, walk)
        if sequential:
            seen |= made
        del made
        events(Progress(name, number + 1))
    events(Finished(name, 0.0))


class _Walk:
    """The inputs of the layer that it stands at, computed from what is kept each time they are iterated.

    Kept are the activations at one position, of the network as it was and as it is, of each batch.
    """

    def __init__(self, prefix: Prefix, limit: int) -> None:
        self.execution = prefix.execution
        self.limit = limit / (2 * max(prefix.samples, 1))  # bytes a sample
        self.at = 0
        self.sizes = [size_of(batch) for batch in prefix.inputs]
        self.before = [self.execution.start(batch) for batch in prefix.inputs]
        self.after = list(self.before)

    def to(self, layer: LinearOp, tensors: Tensors) -> None:
        """Go on to a layer of the network with these tensors, and as far as can be kept."""
        self.weight, self.position, self.tensors = layer.weight, self.execution.position(layer.edge), tensors
        keep = [p for p in range(self.at, self.position + 1) if self.execution.nbytes[p] <= self.limit]
        stop = keep[-1] if keep else self.at
        for i, (old, new) in enumerate(zip(self.before, self.after, strict=True)):
            self.before[i] = self.execution.run(old, self.at, stop)
            same = old is new and not tensors
            self.after[i] = self.before[i] if same else self.execution.run(new, self.at, stop, tensors)
        self.at = stop

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        run, operand, position, seen = self.execution.run, self.execution.operand, self.position, 0
        for old, new, size in zip(self.before, self.after, self.sizes, strict=True):
            first = second = operand(run(old, self.at, position), position)
            if old is not new or self.tensors:
                second = operand(run(new, self.at, position, self.tensors), position)
            for value in (first,) if second is first else (first, second):
                if not bool(torch.linalg.vector_norm(value, inf).isfinite()):
                    got = f"on calibration inputs {seen} to {seen + size - 1}, from 0"
                    raise UnsupportedError("its inputs hold NaN or infinity", where=self.weight, got=got)
            seen += size
            yield first, second
