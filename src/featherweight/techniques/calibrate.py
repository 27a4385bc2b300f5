"""The step `calibrate`: quantizers for the activations, from unlabelled inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from featherweight.errors import ConfigError, TaskError
from featherweight.task import Inputs, Needs, Task
from featherweight.techniques.base import Context, Item, Step
from featherweight.techniques.calibration.ranges import Grid, Ranges, Scheme, quantizer

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.activations import Quantizer
    from featherweight.graph.graph import Edge, Graph
    from featherweight.graph.program import Program
    from featherweight.graph.quantizable import Plan
    from featherweight.model import Model, Note
    from featherweight.techniques.calibration.histograms import Histogram

AT_ONCE = 16  # samples that run together: oneDNN is quicker on 1x1 convolutions of as many


class Calibrate(Step, frozen=True, omit_defaults=True, tag="calibrate"):
    """Put a quantizer on every activation that integer hardware needs one on, its range from inputs.

    Which activations those are, and which share one, follows from the graph alone: see
    `featherweight.graph.quantizable`. Fold batch norms before, or their layers stay float. The weights are
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
            last, say.
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
        from featherweight.graph.trace import graph_of
        from featherweight.task.samples import leaves
        from featherweight.techniques.calibration.diagnosis import diagnosed

        program = model.program(task.example())
        graph = graph_of(model.module, program)
        plan = quantizable(graph, matching(graph, self.keep_float))
        inputs = list(taken(task, self.split, context.seed, self.samples))
        if not inputs:
            raise TaskError(f"the {self.split} split has no batches", where=task.name)
        seen = observed(model, program, plan, inputs)
        grid = Grid(self.bits, self.signed, self.scheme)
        chosen: dict[Edge, Quantizer] = {}
        for group in plan.shared:
            total = sum((seen[edge] for edge in group[1:]), seen[group[0]])
            chosen |= dict.fromkeys(group, quantizer(total, self.ranges, grid))
        count = sum(len(next(leaves(item))) for item in inputs)
        notes = [*skipped(plan), *diagnosed(model, context.baseline, inputs, count, self.samples)]
        return model.with_activations(chosen, notes)


def matching(graph: Graph, patterns: Iterable[str]) -> set[str]:
    """Return the paths of layers that any of `patterns` matches.

    Raises:
        ConfigError: one matches no layer.
    """
    layers = list(dict.fromkeys(node.module for node in graph.nodes if node.tensors))
    found: set[str] = set()
    for pattern in patterns:
        matched = {layer for layer in layers if fnmatchcase(layer, pattern)}
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


def observed(model: Model, program: Program, plan: Plan, inputs: Iterable[Inputs]) -> dict[Edge, Histogram]:
    """Return what passed over every edge of `plan` while the network computed `inputs`."""
    from featherweight.graph.interpret import Interpreter
    from featherweight.graph.program import eval_mode
    from featherweight.graph.pytree import flatten_inputs
    from featherweight.techniques.calibration.histograms import histogram

    seen: dict[Edge, Histogram] = {}
    wanted = {edge for group in plan.shared for edge in group}

    def visit(edge: Edge, value: Tensor) -> Tensor:
        if edge in wanted:
            found = histogram(value)
            seen[edge] = seen[edge] + found if edge in seen else found
        return value

    run = Interpreter(model.module, program, visit)
    with eval_mode(model.module):
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
                ) from None  # fmt: skip
    return seen


def skipped(plan: Plan) -> list[Note]:
    """Return a note on each layer that computes in float."""
    from featherweight.model import Note

    return [Note("skipped", name, f"computes in float: {reason}") for name, reason in plan.skipped.items()]
