"""The step `calibrate`: quantizers for the activations, from unlabelled inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from featherweight.errors import ConfigError, TaskError
from featherweight.task import Inputs, Needs, Task
from featherweight.techniques.base import Context, Item, Step
from featherweight.techniques.calibration.joins import (
    MASK,
    OUTLYING,
    USUAL,
    Observed,
    lost,
    masks,
    quantizers,
)
from featherweight.techniques.calibration.ranges import Grid, Ranges, Scheme, quantizer

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.capture.program import Program
    from featherweight.graph.graph import Edge, Graph
    from featherweight.graph.quantizable import Plan
    from featherweight.model import Model, Note
    from featherweight.techniques.calibration.histograms import Histogram

AT_ONCE = 16  # samples that run together: oneDNN is quicker on 1x1 convolutions of as many


class Calibrate(Step, frozen=True, omit_defaults=True, tag="calibrate"):
    """Put a quantizer on every activation that integer hardware needs one on, its range from inputs.

    Which activations those are follows from the graph: see `featherweight.graph.quantizable`. The edges of a
    sum or a concatenation share one where their ranges are alike, and have one each elsewhere. Masks, a
    concatenation that would lose one of its parts, and a layer that would lose most of its input's channels stay
    in float, with a note. Fold batch norms before, or their layers stay float. The weights are
    as they were encoded; a layer runs in integers if they are `Int` of at most 8 bits. Batch, layout and
    statistics of the inputs are looked at, and what is strange about them is noted.

    Attributes:
        bits: width of the integers, 2 to 8; runtimes compute with 8, narrower ones are simulated.
        signed: int8 instead of uint8, which ONNX Runtime computes with more quickly.
        scheme: `affine`, or `symmetric`: the zero point in the middle where an activation can be negative.
        ranges: `minmax`, `mse` (least squared error), `entropy` (least Kullback-Leibler divergence), or a
            percentile.
        samples: inputs to see.
        split: where they come from.
        keep_float: layers to leave out, globs over paths of modules (`fc`, `blocks.0.*`): the first and the
            last, say. What matches no layer may match operators, by their edges (`add_3`, `cat*`).
    """

    needs: ClassVar[Needs] = "unlabelled"
    bits: Annotated[int, Meta(ge=2, le=8)] = 8
    signed: bool = False
    scheme: Scheme = "affine"
    ranges: Ranges = "mse"
    samples: Annotated[int, Meta(ge=1)] = 100
    split: Literal["train", "calibration"] = "calibration"
    keep_float: tuple[Item, ...] = ()

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with quantizers on its activations, instead of any that it had."""
        from featherweight.graph.quantizable import quantizable
        from featherweight.model import Note
        from featherweight.task.samples import leaves
        from featherweight.techniques.calibration.diagnosis import diagnosed

        program = model.program(task.example())
        graph = program.graph
        skip = matching(graph, self.keep_float)
        floats: dict[Edge, str] = {}
        plan = quantizable(graph, skip)
        inputs = list(taken(task, self.split, context.seed, self.samples))
        if not inputs:
            raise TaskError(f"the {self.split} split has no batches", where=task.name)
        seen = observed(model, program, plan, inputs)
        choose = partial(quantizer, ranges=self.ranges, grid=Grid(self.bits, self.signed, self.scheme))
        notes = outlying(seen, plan)
        found = masks(seen)
        if isinstance(self.ranges, str) and self.ranges != "minmax":
            given = [edge for edge in seen if graph.node(edge).op == "input" and edge not in found]
            seen |= {edge: seen[edge].within(OUTLYING) for edge in given}
        while True:
            floats |= found
            plan = quantizable(graph, skip, floats)
            chosen, unlike = quantizers(plan, seen, choose)
            found = lost(plan, seen, chosen)
            if not found:
                break
        count = sum(len(next(leaves(item))) for item in inputs)
        notes += [Note("skipped", edge, f"computes in float: {reason}") for edge, reason in floats.items()]
        notes += [*skipped(plan), *unlike]
        notes += diagnosed(model, context.baseline, inputs, count, self.samples)
        return model.with_activations(chosen, notes)


def matching(graph: Graph, patterns: Iterable[str]) -> set[str]:
    """Return the paths of layers that any of `patterns` matches; of operators, where one matches no layer.

    Raises:
        ConfigError: one matches no layer and no operator.
    """
    layers = list(dict.fromkeys(node.module for node in graph.nodes if node.tensors))
    operators = [*(node.module for node in graph.nodes if node.module), *(node.name for node in graph.nodes)]
    found: set[str] = set()
    for pattern in patterns:
        matched = {layer for layer in layers if fnmatchcase(layer, pattern)}
        matched = matched or {name for name in operators if fnmatchcase(name, pattern)}
        if not matched:
            some = ", ".join(layers[:6])
            raise ConfigError("matches no layer", where="calibrate.keep_float", got=pattern, expected=some)
        found |= matched
    return found


def taken(task: Task, split: Literal["train", "calibration"], seed: int, samples: int) -> Iterator[Inputs]:
    """Yield `samples` inputs of a split, or all there are, a few at a time."""
    from featherweight.task.samples import leaves, mapped

    left = samples
    for batch in task.batches(split, seed=seed, epoch=0):
        inputs = task.inputs(batch)
        count = min(len(next(leaves(inputs))), left)
        for start in range(0, count, AT_ONCE):
            few = slice(start, min(start + AT_ONCE, count))
            yield mapped(itemgetter(few), inputs)
        left -= count
        if left <= 0:
            return


def observed(model: Model, program: Program, plan: Plan, inputs: Iterable[Inputs]) -> dict[Edge, Observed]:
    """Return what passed over every edge of `plan` while the network computed `inputs`."""
    from torch import cat

    from featherweight.capture.execution import Execution
    from featherweight.capture.pytree import flatten_inputs
    from featherweight.techniques.calibration.histograms import histogram

    seen: dict[Edge, Histogram] = {}
    powers: dict[Edge, list[Tensor]] = {}
    wanted = {edge for group in plan.shared for edge in group}

    def visit(edge: Edge, value: Tensor) -> Tensor:
        if edge in wanted:
            found = histogram(value)
            seen[edge] = seen[edge] + found if edge in seen else found
        if edge in plan.readers and value.numel():
            channels = (value.dim() if plan.readers[edge] == "linear" else 2) - 1
            places = [axis for axis in range(1, value.dim()) if axis != channels]
            squares = value.square() if not places else value.square().mean(places)
            powers.setdefault(edge, []).append(squares[squares > 0])
        return value

    run = Execution(program, visit)
    for item in inputs:
        flat = flatten_inputs(model.module, item)
        shapes = {name: list(tensor.shape) for name, tensor in flat.items()}
        try:
            run(flat)
        except RuntimeError as error:
            raise TaskError(
                f"the network fails on calibration data: {str(error).splitlines()[0]}", got=shapes,
                expected=f"as the example: {[list(t.shape) for t in program.example.values()]}",
                hint="images are channels first, [n, c, h, w]: permute(0, 3, 1, 2) makes them so",
            ) from error  # fmt: skip
    medians = {
        edge: float(cat(found).median()) if cat(found).numel() else 0.0 for edge, found in powers.items()
    }
    return {edge: Observed(found, medians.get(edge, 0.0)) for edge, found in seen.items()}


def skipped(plan: Plan) -> list[Note]:
    """Return a note on each layer that computes in float."""
    from featherweight.model import Note

    return [Note("skipped", name, f"computes in float: {reason}") for name, reason in plan.skipped.items()]


def outlying(seen: Mapping[Edge, Observed], plan: Plan) -> list[Note]:
    """Return a note on each edge with a number that is far from all others.

    In the inputs of the network such a number is a fault of the data, and the searches for a range look past it; inside
    it may be what the network works by.
    """
    from featherweight.model import Note

    found = []
    for edge in (group[0] for group in plan.shared):
        histogram = seen[edge].histogram
        most, usual = max(-histogram.low, histogram.high), histogram.magnitude(USUAL)
        if usual and OUTLYING * usual < most < MASK:
            reason = (
                f"{USUAL:g} % of its numbers are within {usual:.3g}, and one is {most:.3g}: "
                f"look for wrong numbers in the data, or give a percentile for ranges"
            )
            found.append(Note("chose", edge, reason))
    return found
