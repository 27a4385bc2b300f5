"""Whether a runtime computes in integers what was simulated: each layer, fed with the runtime's own, and the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from featherweight.activations import Affine
from featherweight.artifact import StoredGraph
from featherweight.capture.pytree import flatten_inputs, flatten_outputs
from featherweight.errors import UnsupportedError
from featherweight.export import build_qdq
from featherweight.export.check import arrays
from featherweight.graph.graph import Edge
from featherweight.model import Model, Note
from featherweight.runtime import BACKENDS, OnnxBackend, Session, usable
from featherweight.simulation import execution, fake_quantize
from featherweight.task import Inputs, Output, Predict, Task
from featherweight.task.outputs import outputs_of, scores_of
from featherweight.task.samples import mapped, size_of
from featherweight.task.sampling import drawn

Array = NDArray[Any]

SAMPLES = 8  # inputs to compare layers on
EQUAL, APART = 0.995, 1  # least share of equal integers, and most steps apart: roundings alone differ by less
LEVELS = 255  # steps of the range of an output that has no quantizer
COMPARED = 256  # inputs to compare the whole network on
MANY = 1e6  # steps that are told apart
NEAR = 8  # steps, within which numbers agree that are no scores of classes


@dataclass(frozen=True)
class LayerParity:
    """How what the runtime writes to one edge compares with the simulation.

    Attributes:
        edge: the edge.
        equal: share of the numbers that are equal; of an output, that are within half a 255th of its range.
        most: the greatest difference, in steps.
        numbers: how many were compared.
    """

    edge: Edge
    equal: float
    most: int
    numbers: int

    @property
    def right(self) -> bool:
        """Whether at most one step lies between, and no more than 0.5 % differ (and what chance adds to few)."""
        expected = (1 - EQUAL) * self.numbers
        return self.most <= APART and (1 - self.equal) * self.numbers <= expected + 3 * expected**0.5 + 1

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        return f"{self.edge}: {self.equal:.2%} equal, {self.most} steps apart at most"


def check_parity(model: Model, graph: StoredGraph, task: Task, runtime: str = "onnxruntime") -> Note:
    """Return that a runtime computes every layer in integers as the simulation does, on this processor.

    On a few inputs of validation, each layer on the runtime's own integers: see `LayerParity.right`.
    """
    example = task.example()
    inputs = task.inputs(next(drawn(task, "validation", batches=1)))
    if model.program(example).dynamic:
        inputs = mapped(lambda x: x[:SAMPLES] if isinstance(x, Tensor) and x.dim() else x, inputs)
    found = layer_parity(model, graph, inputs, runtime, example=example)
    if wrong := [layer for layer in found if not layer.right]:
        raise UnsupportedError(
            f"{len(wrong)} of {len(found)} quantized activations differ from the simulation",
            where=BACKENDS[runtime].title, got=f"first {wrong[0]}", expected=f"{EQUAL:.1%} equal, {APART} step apart",
            hint="leave the layer that writes it in float (calibrate, keep_float), or choose another runtime",
        )  # fmt: skip
    least = min((layer.equal for layer in found), default=1.0)
    said = f"computes {len(found)} quantized activations as simulated, at least {least:.2%} of each equal"
    return Note("chose", runtime, said)


def layer_parity(
    model: Model, graph: StoredGraph, inputs: Inputs, runtime: str = "onnxruntime", *, example: Inputs | None = None
) -> tuple[LayerParity, ...]:  # fmt: skip
    """Return the parity of every quantized edge that an operator writes, and of the outputs that are no integers.

    The runtime hands out the numbers on every edge. Each layer of the simulation reads the runtime's numbers,
    not its own, so that a difference is made by that layer alone.

    Args:
        model: a model with quantizers.
        graph: the float graph of it.
        inputs: what it is run on.
        runtime: what runs it.
        example: what the network is captured on, where that is not `inputs`.
    """
    program = model.program(inputs if example is None else example)
    flat = flatten_inputs(model.module, inputs)
    given = {name: tensor.numpy() for name, tensor in flat.items()}
    numbers, outputs = handed_out(model, graph, given, runtime)
    found: list[LayerParity] = []

    def compare(edge: Edge, apart: Array) -> None:
        equal = float((apart == 0).mean()) if apart.size else 1.0
        found.append(LayerParity(edge, equal, int(apart.max(initial=0)), apart.size))

    def visit(edge: Edge, value: Tensor) -> Tensor:
        quantizer = model.activations.get(edge)
        if quantizer is None or edge not in numbers:
            return value if quantizer is None else fake_quantize(value, quantizer)
        if edge not in flat:
            both = fake_quantize(value, quantizer).numpy(), numbers[edge]
            own, theirs = (quantizer.steps(quantizer.quantize(array)) for array in both)
            compare(edge, np.abs(own - theirs))
        return torch.from_numpy(numbers[edge])

    results = execution(model, program, visit)(flat)
    for edge, own, theirs in zip(program.graph.outputs, results, outputs, strict=True):
        values = own.detach().double().numpy()
        step = float(np.ptp(values)) / LEVELS if values.size else 0.0
        if theirs.dtype.kind == "f" and step and edge not in numbers:
            compare(edge, np.rint(np.abs(values - theirs) / step).astype(np.int64))
    return tuple(found)


def handed_out(
    model: Model, graph: StoredGraph, inputs: dict[str, Array], runtime: str
) -> tuple[dict[Edge, Array], list[Array]]:
    """Return the numbers on every quantized edge, as the runtime computes them, and the network's outputs."""
    own = (arrays(model.module), model.weights, model.activations)
    onnx = isinstance(usable(runtime), OnnxBackend)
    made = build_qdq(graph, *own).onnx if onnx else ModelProto.FromString(graph.onnx)
    written = {name for node in made.graph.node for name in node.output}
    count, codes = len(made.graph.output), [value.name for value in made.graph.output]
    names: dict[Edge, str] = {}
    for edge, quantizer in model.activations.items():
        kind = helper.np_dtype_to_tensor_dtype(quantizer.dtype) if isinstance(quantizer, Affine) else None
        name = edge if not onnx else f"{edge}/integer" if kind else f"{edge}/real"
        if name in written and name not in codes:
            names[edge] = name
            value = helper.make_tensor_value_info(name, (onnx and kind) or TensorProto.FLOAT, None)
            made.graph.output.append(value)
    places = list(range(len(made.graph.output)))
    if onnx:
        session = Session.of_onnx(made, places, runtime=runtime)
    else:
        stored = StoredGraph(made.SerializeToString(), graph.initialisers, places)
        session = Session.of(stored, *own, runtime=runtime)
    results = session.run(inputs)
    found = {
        edge: result if result.dtype == np.float32 else model.activations[edge].dequantize(result)
        for edge, result in zip(names, results[count:], strict=True)
    }
    return found, list(results[:count])


def agreement(first: Predict, second: Predict, task: Task) -> str:
    """Return how two computations of a network compare on validation inputs, as a sentence.

    A step is 1/255 of the range of an output, or of its largest number where all are the same. Where outputs are not
    scores of classes, numbers count as the same that are within 8 steps.
    """
    same, numbers, seen, what = [], np.zeros(4), 0, ""
    for batch in drawn(task, "validation", samples=COMPARED):
        inputs = task.inputs(batch)
        ours, theirs = first(inputs), second(inputs)
        near: list[Array] = []
        for a, b in zip(_arrays(ours), _arrays(theirs), strict=True):
            extent = float(np.ptp(a)) or float(np.abs(a).max(initial=0.0))
            apart = np.rint(np.minimum(np.abs(a - b) / (max(extent, 1e-30) / LEVELS), MANY)).astype(np.int64)
            numbers += np.bincount(np.minimum(apart.reshape(-1), 3), minlength=4)
            near.append((apart <= NEAR).reshape(-1))
        what = f"values (within {NEAR} steps)"
        if outputs_of(task, ours) == "classes":
            what = "top-1 class"
            near = [
                (scores_of(task, ours).argmax(1) == scores_of(task, theirs).argmax(1)).numpy().reshape(-1)
            ]
        same += near
        seen += size_of(inputs)
    shares = zip(numbers / max(numbers.sum(), 1), ("0", "1", "2", "3 or more"), strict=True)
    steps = ", ".join(f"{share:.1%} {name}" for share, name in shares)
    return f"same {what} on {np.concatenate(same).mean():.1%} of {seen} samples; output steps apart: {steps}"


def _arrays(output: Output) -> list[Array]:
    return [tensor.detach().double().numpy() for tensor in flatten_outputs(output)[1]]
