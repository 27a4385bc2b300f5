"""The step `calibrate`: quantizers for the activations, from unlabelled inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from featherweight.activations import Affine, FloatingPoint, FloatKind, Quantizer, Scaled, ends, read_by
from featherweight.errors import ConfigError, TaskError
from featherweight.events import Note
from featherweight.graph.folding import foldable
from featherweight.graph.quantizable import absorbable, kind, quantizable, read_at_peaks
from featherweight.structure import to_call
from featherweight.task import Inputs, Needs, Task
from featherweight.techniques.activation_quantizers import (
    MASK,
    OUTLYING,
    USUAL,
    Grid,
    Histogram,
    Observed,
    Ranges,
    Scheme,
    histogram,
    lost,
    masks,
    quantizer,
    quantizers,
)
from featherweight.techniques.base import Context, Item, Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.capture.program import Program
    from featherweight.graph.graph import Edge, Graph
    from featherweight.graph.quantizable import Others, Plan
    from featherweight.model import Model

Bits = Annotated[int, Meta(ge=1, le=16)]

AT_ONCE = 16  # samples that run together: oneDNN is quicker on 1x1 convolutions of as many
FEW = 32  # samples; ranges of fewer are often too narrow
LOOKED_AT = 8  # samples that are run to compare statistics of batch norm
_OF_INTEGERS = {
    "bits": 8,
    "widths": {},
    "others": None,
    "signed": False,
    "scheme": "affine",
    "ranges": "mse",
}  # options, and what is usual
NO_INTEGERS = (
    "layers read integers and write floats: runtimes compute in float; others = 8 makes all of it integers"
)
FAR = 0.75  # standard deviations, or factors of two of a variance; see `distance`


class Calibrate(Step, frozen=True, omit_defaults=True, tag="calibrate"):
    """Put a quantizer on every activation that integer hardware needs one on, its range from inputs.

    Which activations those are follows from the graph: see `featherweight.graph.quantizable`. The edges of a
    sum or a concatenation share one where their ranges are alike, and have one each elsewhere. Masks, a
    concatenation that would lose one of its parts, and a layer that would lose most of its input's channels stay
    in float, with a note. What a maximum over all places reads, and what becomes scores of many places, is not
    clipped above: its peaks are what is looked for. A batch norm that can be folded is part of its layer: fold it
    before this step, or before export where training comes between. The weights are as they were encoded; a layer
    runs in integers if they are `Int` of at most 8 bits. Batch, layout and statistics of the inputs are
    looked at, and what is strange about them is noted.

    Attributes:
        bits: width of the integers, 1 to 16; runtimes multiply 8, and round to others.
        widths: other widths of what some layers read, by globs as in `keep_float`: 8 for the first and the last.
        others: width of activations that not only layers read: what a skip connection carries, the operands of a
            sum; a layer that reads such a one rounds it to `bits` for itself. `float`: they stay in float, as papers
            on fewer bits leave them; runtimes then multiply in float. None: all are rounded alike.
        signed: int8 instead of uint8, which ONNX Runtime computes with more quickly.
        scheme: `affine`, or `symmetric`: the zero point in the middle where an activation can be negative.
        ranges: `minmax`, `mse` (least squared error), `entropy` (least Kullback-Leibler divergence), or a
            percentile.
        samples: inputs to see.
        split: where they come from.
        keep_float: layers to leave out, globs over paths of modules (`fc`, `blocks.0.*`): the first and the
            last, say. What matches no layer may match operators, by their edges (`add_3`, `cat*`).
        numbers: `integers`, or a type of floating point that the activations are rounded to, by torch's name;
            ONNX Runtime rounds to it, and multiplies in float32.
        outputs: quantize what the last layers write too: microcontrollers and Edge TPUs want integers alone, and
            LiteRT and ExecuTorch compute a layer in integers only where it writes some. It costs up to half a step of
            each score.
        carry: activations that have integers already keep their range, in other steps: what was learned with more bits
            is where fewer begin.
    """

    needs: ClassVar[Needs] = "unlabelled"
    bits: Bits = 8
    widths: dict[Item, Bits] = field(default_factory=dict)
    others: Bits | Literal["float"] | None = None
    signed: bool = False
    scheme: Scheme = "affine"
    ranges: Ranges = "mse"
    samples: Annotated[int, Meta(ge=1)] = 100
    split: Literal["train", "calibration"] = "calibration"
    keep_float: tuple[Item, ...] = ()
    numbers: Literal["integers"] | FloatKind = "integers"
    outputs: bool = False
    carry: bool = False

    def __post_init__(self) -> None:
        """Refuse options of integers beside floating point."""
        super().__post_init__()
        given = [name for name, usual in _OF_INTEGERS.items() if getattr(self, name) != usual]
        if self.numbers != "integers" and given:
            where, got = f"calibrate, {given[0]}", f"numbers: {self.numbers}"
            raise ConfigError("belongs to integers", where=where, got=got, hint="leave it out")
        if self.signed and 1 in (self.bits, self.others, *self.widths.values()):
            raise ConfigError("one bit has no sign", where="calibrate.signed", got=True, hint="leave it out")
        if self.others == "float" and self.outputs:
            what = "in float, and in integers"
            raise ConfigError(
                f"what the last layers write is to be {what}", where="calibrate.others", got="float"
            )

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with quantizers on its activations, instead of any that it had."""
        from featherweight.task.sampling import drawn_inputs

        program = model.program(task.example())
        graph = program.graph
        skip = matching(graph, self.keep_float)
        floats: dict[Edge, str] = {}
        others = self.apart
        plan = quantizable(graph, skip, outputs=self.outputs, others=others)
        drawn = drawn_inputs(task, self.split, samples=self.samples, at_once=AT_ONCE, seed=context.seed)
        inputs = list(drawn)
        seen = self.marked(
            observed(model, program, plan, inputs, f"{task.name}, {self.split} split"), graph, plan
        )
        ranges: Ranges = self.ranges if self.numbers == "integers" else "minmax"

        def choose(seen: Histogram) -> Scaled:
            return quantizer(seen, ranges, self.grid(seen.width or self.bits))

        notes, found = outlying(seen, plan), masks(seen)
        if isinstance(self.ranges, str) and self.ranges != "minmax":
            given = [edge for edge in seen if graph.node(edge).op == "input" and edge not in found]
            seen |= {edge: seen[edge].within(OUTLYING) for edge in given}
        seen |= self.read_alone(seen, graph, plan)
        while True:
            floats |= found
            plan = quantizable(graph, skip, floats, outputs=self.outputs, others=others)
            chosen, unlike = quantizers(plan, seen, choose)
            found = lost(plan, seen, chosen)
            if not found:
                break
        if self.carry:
            chosen |= {
                edge: self.carried(model.activations[edge], new)
                for edge, new in chosen.items() if edge in model.activations
            }  # fmt: skip
        for place, reason in (*floats.items(), *plan.skipped.items()):
            notes.append(Note("skipped", place, f"computes in float: {reason}"))
        notes += [
            *unlike,
            *([Note("chose", "activations", NO_INTEGERS)] if others == "float" else []),
            *remarks(graph, chosen),
            *diagnosed(model, context.baseline, inputs, self.samples),
        ]
        return model.with_activations(chosen, notes)

    def carried(self, old: Quantizer, new: Scaled) -> Scaled:
        """Return integers like `new` on the range of `old`; `new` itself where either is something else."""
        if not isinstance(old, Affine) or not isinstance(new, Affine):
            return new
        alike = (old.bits, old.signed) == (new.bits, new.signed)
        return old if alike else self.grid(new.bits)(*old.range)

    @property
    def apart(self) -> Others:
        """How activations are rounded that not only layers read."""
        if self.others == "float":
            return "float"
        return "alike" if self.others is None else "apart"

    def marked(self, seen: Mapping[Edge, Observed], graph: Graph, plan: Plan) -> dict[Edge, Observed]:
        """Return what was seen with what is asked of its range: the greatest number, another width."""
        widths, peaks = self.widths_of(graph), read_at_peaks(graph)
        if self.others is not None and self.others != "float":
            widths |= dict.fromkeys(plan.wide, self.others)
        return {
            edge: replace(
                found,
                histogram=replace(found.histogram, topped=edge in peaks, width=widths.get(edge, 0)),
            )
            for edge, found in seen.items()
        }

    def read_alone(self, seen: Mapping[Edge, Observed], graph: Graph, plan: Plan) -> dict[Edge, Observed]:
        """Return what was seen on the edges to single readers, each with the width that its layer asks for."""
        widths, found = self.widths_of(graph), {}
        for edge in plan.reads:
            of_all = seen[ends(edge)[0]]
            found[edge] = replace(of_all, histogram=replace(of_all.histogram, width=widths.get(edge, 0)))
        return found

    def grid(self, bits: int) -> Grid:
        """Return what makes a quantizer of a range; `bits`: width of integers."""
        if self.numbers != "integers":
            return partial(FloatingPoint.of, kind=self.numbers)
        return partial(Affine.of, bits=bits, signed=self.signed, symmetric=self.scheme == "symmetric")

    def widths_of(self, graph: Graph) -> dict[Edge, int]:
        """Return the widths of edges, and of those to one reader, that layers of `widths` read; the widest of some."""
        found: dict[Edge, int] = {}
        for pattern, bits in self.widths.items():
            names = matching(graph, [pattern], "calibrate.widths")
            for node in graph.nodes:
                for source in node.inputs if {node.module, node.name} & names else ():
                    for edge in (source, read_by(source, node.name)):
                        found[edge] = max(bits, found.get(edge, 0))
        return found


def remarks(graph: Graph, chosen: Mapping[Edge, Scaled]) -> list[Note]:
    """Return notes on what keeps runtimes from integers: widths that they do not multiply, norms before a quantizer."""
    notes = []
    few = [one.bits for one in chosen.values() if isinstance(one, Affine) and one.bits < 8]
    if few:
        bits = " and ".join(map(str, sorted({*few})))
        reason = (
            f"{len(few)} have integers of {bits} bits: the runtimes here multiply 8 bits and clamp to fewer"
        )
        hint = "which is no faster; that takes one that multiplies so few"
        notes.append(Note("chose", "activations", f"{reason}, {hint}"))
    layers = ((node, absorbable(graph, node)) for node in graph.nodes if kind(node) == "layer")
    if norms := sum(
        foldable(graph, node) is not None for node, last in layers if last and last.name in chosen
    ):
        reason = f"{norms} are part of their layers, but not folded: fold them before the model is exported"
        notes.append(Note("chose", "batch norms", reason))
    return notes


def matching(graph: Graph, patterns: Iterable[str], option: str = "calibrate.keep_float") -> set[str]:
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
            raise ConfigError("matches no layer", where=option, got=pattern, expected=some)
        found |= matched
    return found


def observed(
    model: Model, program: Program, plan: Plan, inputs: Iterable[Inputs], where: str
) -> dict[Edge, Observed]:
    """Return what passed over every edge of `plan` while the network computed `inputs`, a few samples at a time.

    Raises:
        TaskError: the network fails on them, or an activation is NaN; names the samples.
    """
    from torch import cat

    from featherweight.capture.execution import Execution
    from featherweight.capture.pytree import flatten_inputs
    from featherweight.task.samples import size_of
    from featherweight.task.sampling import odd_samples

    seen: dict[Edge, Histogram] = {}
    powers: dict[Edge, list[Tensor]] = {}
    nans: list[Edge] = []
    wanted = {edge for group in plan.shared for edge in group} | {ends(edge)[0] for edge in plan.reads}

    def visit(edge: Edge, value: Tensor) -> Tensor:
        if edge in wanted:
            found = histogram(value)
            if found.low != found.low:
                nans.append(edge)
            seen[edge] = seen[edge] + found if edge in seen else found
        if edge in plan.readers and value.numel():
            channels = (value.dim() if plan.readers[edge] == "linear" else 2) - 1
            places = [axis for axis in range(1, value.dim()) if axis != channels]
            squares = value.square() if not places else value.square().mean(places)
            powers.setdefault(edge, []).append(squares[squares > 0])
        return value

    run, last = Execution(program, visit), -1
    for item in inputs:
        first, last = last + 1, last + size_of(item)
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
        if nans:
            odd = odd_samples(item)
            raise TaskError(
                f"activation {nans[0]} is NaN", where=f"{where}, inputs {first} to {last} (from 0)",
                hint=f"input {first + odd[0]} holds NaN or infinity: mend it, or leave it out"
                if odd
                else "the inputs are finite: look at what the network computes on them",
            )  # fmt: skip
    joined = {edge: cat(found) for edge, found in powers.items()}
    medians = {edge: float(found.median()) for edge, found in joined.items() if found.numel()}
    return {edge: Observed(found, medians.get(edge, 0.0)) for edge, found in seen.items()}


def outlying(seen: Mapping[Edge, Observed], plan: Plan) -> list[Note]:
    """Return a note on each edge with a number that is far from all others.

    In the inputs of the network such a number is a fault of the data, and the searches for a range look past it; inside
    it may be what the network works by.
    """
    found = []
    for edge in (group[0] for group in plan.shared):
        histogram = seen[edge].histogram
        most, usual = max(-histogram.low, histogram.high), histogram.magnitude(USUAL)
        if usual and OUTLYING * usual < most < MASK:
            reason = f"{USUAL:g} % of its numbers are within {usual:.3g}, and one is {most:.3g}"
            advice = "look for wrong numbers in the data, or give a percentile for ranges"
            found.append(Note("chose", edge, f"{reason}: {advice}"))
    return found


def diagnosed(model: Model, baseline: Model | None, inputs: Sequence[Inputs], asked: int) -> list[Note]:
    """Return a note, with what to do, on everything strange about calibration data; `asked` samples were wanted.

    Batch norms are those of `baseline`, where they were folded in the model.
    """
    from featherweight.task.samples import leaves, size_of
    from featherweight.techniques.corrections import batch_norms

    found, seen = [], sum(size_of(item) for item in inputs)
    if seen < min(asked, FEW):
        found.append(f"only {seen} samples: ranges may be too narrow; give {FEW} or more")
    first = [leaf for leaf in leaves(inputs[0]) if leaf.is_floating_point()]
    if first and seen > 1 and constant(inputs):
        found.append("all samples are equal: ranges are those of one; give different ones")
    if any(interleaved(leaf) for leaf in first):
        found.append("looks like channels last read as channels first; permute(0, 3, 1, 2), not reshape")
    normalised = next((m for m in (model, baseline) if m is not None and batch_norms(m.module)), None)
    if normalised is not None and (far := distance(normalised.module, inputs)) > FAR:
        gap = f"({far:.1f}, expected under {FAR:g}): is it normalised and ordered as that was?"
        found.append(f"far from the training data by the statistics of batch norm {gap}")
    return [Note("chose", "calibration data", reason) for reason in found]


def constant(inputs: Sequence[Inputs]) -> bool:
    """Return whether every sample equals the first."""
    import torch

    from featherweight.task.samples import leaves

    def equal(leaf: Tensor, one: Tensor) -> bool:
        return leaf.shape[1:] == one.shape[1:] and torch.equal(leaf, one.expand_as(leaf))

    columns = zip(*(list(leaves(item)) for item in inputs), strict=True)
    return all(all(equal(leaf, column[0][:1]) for leaf in column) for column in columns)


def interleaved(images: Tensor) -> bool:
    """Return whether the pixels of `images: [n, c, h, w]`, c 3 or 4, look like `[n, h, w, c]` in their memory.

    Then a number is more like the c-th after it than like the next.
    """
    if images.dim() != 4 or images.shape[1] not in (3, 4) or images.shape[3] < 16:
        return False
    step = images.shape[1]
    near = (images[..., 1:] - images[..., :-1]).abs().mean()
    next_pixel = (images[..., step:] - images[..., :-step]).abs().mean()
    return bool(next_pixel < 0.8 * near)


def distance(module: nn.Module, inputs: Sequence[Inputs]) -> float:
    """Return how far the data are from the running statistics of batch norm, 0 if they agree.

    For each layer the greater of two means over its channels: how many standard deviations the mean is off,
    and how many factors of two the variance is. The median over the layers counts.
    """
    import torch

    from featherweight.capture.program import eval_mode
    from featherweight.task import call
    from featherweight.task.samples import mapped
    from featherweight.techniques.corrections import batch_norms

    found: dict[int, float] = {}

    def look(layer: Any, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].transpose(0, 1).flatten(1)
        mean, var = layer.running_mean, layer.running_var + layer.eps
        shift = ((values.mean(1) - mean).abs() / var.sqrt()).mean()
        spread = ((values.var(1, correction=0) + layer.eps) / var).log2().abs().mean()
        found[id(layer)] = float(torch.maximum(shift, spread))

    copy = to_call(module)
    for layer in batch_norms(copy).values():
        layer.register_forward_pre_hook(look)
    with eval_mode(copy):
        call(copy, mapped(lambda leaf: leaf[:LOOKED_AT], inputs[0]))
    return sorted(found.values())[len(found) // 2] if found else 0.0
