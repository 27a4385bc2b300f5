"""The graph in integers, from the float one: ONNX QuantizeLinear and DequantizeLinear, weights stored as int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from featherweight.activations import Affine, FloatingPoint, Quantizer
from featherweight.artifact import Artifact, Initialiser, StoredGraph
from featherweight.errors import IntegrityError
from featherweight.export.float_graph import MICROSOFT, Made, build_onnx, onnx_of, opened
from featherweight.export.onnx_graph import (
    CLAMPS,
    OnnxGraph,
    attributes,
    bias_behind,
    merge_padding,
    operators,
    pool_means,
    replace,
    swap_weights,
)
from featherweight.export.stored_graph import rewriting, values_of
from featherweight.formats import Encoded, Int
from featherweight.formats.floating import MOST
from featherweight.integers import IntegerLayer, IntegerPlan, integer_plan, steps_of

Array = NDArray[Any]

# Operators that runtimes compute in integers where all that they read and write is quantized.
_INTEGER = {"Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean"}
_KINDS = {
    "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2",
}  # fmt: skip
ROUNDS = "featherweight.activations"  # metadata of a graph whose activations are no 8-bit integers


@dataclass(frozen=True, eq=False)
class Qdq:
    """A graph in integers.

    Attributes:
        onnx: the model.
        floats: layers that were to compute in integers and compute in float, by their modules, with the reason.
        plan: what computes in integers.
    """

    onnx: onnx.ModelProto
    floats: dict[str, str]
    plan: IntegerPlan | None = None


def qdq_of(artifact: Artifact) -> Qdq:
    """Return the graph of a file in integers; raises as `opened` and `build_qdq` do."""
    return build_qdq(*opened(artifact), artifact.activations)


def model_of(artifact: Artifact) -> onnx.ModelProto:
    """Return the graph that a session of a file runs: in integers where it has quantizers of activations."""
    return qdq_of(artifact).onnx if artifact.activations else onnx_of(artifact)


@rewriting("in integers")
def build_qdq(
    graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded],
    activations: Mapping[str, Quantizer],
) -> Qdq:  # fmt: skip
    """Return `graph` with quantizers on its values, and layers of integer weights in int8 with int32 biases.

    A clamp that the range of the quantizer behind it performs is left out. Where the range does not, a
    quantizer with the same numbers stands before the clamp too, which changes no result, so that the layer
    before it stays an integer one.

    Args:
        graph: the float graph.
        tensors: decoded tensors by canonical name.
        weights: those that are encoded.
        activations: quantizers by value of the graph.

    Raises:
        IntegrityError: the graph does not fit the tensors, or a quantizer is on no value of it.
    """
    model = build_onnx(graph, tensors)
    if unknown := sorted(activations.keys() - values_of(graph)):
        raise IntegrityError(
            "a quantizer on no value of the graph", where="activations", got=ascii(unknown[0])
        )
    table = swap_weights(model.graph, graph.initialisers)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    plan = integer_plan(operators(model, table), weights, {**constants, **tensors}, activations)
    merge_padding(model)
    activations = pool_means(model, activations)
    layers = _layers(OnnxGraph(model), table)
    _Builder(model, activations, table, weights, plan).build()
    if beyond := sorted({_called(quantizer) for quantizer in activations.values()} - {""}):
        helper.set_model_props(model, {ROUNDS: ", ".join(beyond)})
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return Qdq(model, {layers.get(edge, edge): reason for edge, reason in plan.floats.items()}, plan)


def _layers(graph: OnnxGraph, table: Mapping[str, Initialiser]) -> dict[str, str]:
    """Return the layers, by the values they write with their biases."""
    found = {}
    for node in graph.model.graph.node:
        last = bias_behind(node, graph, table) or node
        found[last.output[0]] = node.name or last.output[0]
    return found


def _called(quantizer: Quantizer) -> str:
    """Return what a quantizer rounds to, or an empty string for integers of at most 8 bits."""
    if isinstance(quantizer, Affine):
        return f"integers of {quantizer.bits} bits" if quantizer.bits > 8 else ""
    return quantizer.kind if isinstance(quantizer, FloatingPoint) else type(quantizer).__name__


def _domain(quantizer: Affine) -> str:
    """Return whose operators quantize: those of ONNX know 16 bits from version 21 on."""
    return MICROSOFT if quantizer.bits > 8 else ""


@dataclass(eq=False)
class _Builder:
    """Writes the nodes of a graph again, in order."""

    model: onnx.ModelProto
    activations: dict[str, Quantizer]
    table: Mapping[str, Initialiser]
    weights: Mapping[str, Encoded]
    plan: IntegerPlan
    nodes: list[NodeProto] = field(default_factory=list)
    made: Made = field(default_factory=Made)

    def build(self) -> None:
        """Put the new nodes and initialisers into the graph."""
        self.graph = OnnxGraph(self.model)
        self.outputs = self.graph.outputs
        self.absorbed = self._absorbed()
        for value in self.model.graph.input:
            self._quantize(value.name, value.name)
        for node in self.model.graph.node:
            if node.output[0] not in self.absorbed.values():
                self._node(node)
        replace(self.model.graph, self.nodes, self.made.values())

    def _absorbed(self) -> dict[str, str]:
        """Return what integer operators write before clamps that the range of a quantizer behind performs, and that.

        Where the range does not, the quantizer is put before the clamp too.
        """
        found = {}
        for node in self.model.graph.node:
            source, result = (node.input[0] if node.input else ""), node.output[0]
            maker, quantizer = self.graph.makers.get(source), self.activations.get(result)
            alone = len(self.graph.readers.get(source, [])) == 1 and source not in self.outputs
            integer = maker is not None and maker.op_type in _INTEGER
            if node.op_type not in CLAMPS or not alone or not integer or quantizer is None:
                continue
            if source in self.activations:
                continue
            ends = [0.0, np.inf] if node.op_type == "Relu" else [-np.inf, np.inf]
            for place, name in enumerate(node.input[1:3]):
                if name:
                    number = self.graph.numbers(name)
                    ends[place] = np.nan if number is None else float(number)
            if quantizer.absorbs(*ends):
                found[source] = result
            else:
                self.activations[source] = quantizer
        return found

    def _node(self, node: NodeProto) -> None:
        if self._pads(node):
            self._pad(node)
            return
        results = [self.absorbed.get(value, value) for value in node.output]
        written = [f"{v}/float" if v in self.activations and v in self.outputs else v for v in results]
        inputs = [self._real(value) for value in node.input]
        behind = bias_behind(node, self.graph, self.table)
        edge = node.output[0] if behind is None else behind.output[0]
        layer = self.plan.layers.get(edge)
        if rows := integer_rows(node, self.table, self.weights, written[0], self.made):
            self.nodes.extend(rows)
        else:
            if layer is not None and node.op_type == "Add":
                assert layer.biases is not None
                bias = self._constant(layer.biases, f"{edge}/bias")
                inputs = [bias if value in self.graph.stored else value for value in inputs]
            elif layer is not None:
                inputs[1:] = self._parameters(node, layer, edge, with_bias=behind is None)
            self._copy(node, inputs, written)
        for value, source in zip(results, written, strict=True):
            self._quantize(value, source)

    def _copy(self, node: NodeProto, inputs: list[str], outputs: list[str]) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        self.nodes.append(copy)

    def _real(self, value: str) -> str:
        """Return the name under which the numbers of `value` are read."""
        return f"{value}/real" if value in self.activations and value not in self.outputs else value

    def _pads(self, node: NodeProto) -> bool:
        """Whether `node` pads with zeros, and one quantizer stands before and behind it."""
        if node.op_type != "Pad":
            return False
        fills = [self.graph.numbers(name) for name in node.input[2:3] if name]
        zeros = all(fill is not None and not fill.any() for fill in fills)
        before, behind = self.activations.get(node.input[0]), self.activations.get(node.output[0])
        constant = attributes(node).get("mode", b"constant") == b"constant"
        return constant and zeros and isinstance(before, Affine) and before == behind

    def _pad(self, node: NodeProto) -> None:
        """Pad integers, by the one that stands for 0: OpenVINO fails on channels padded between quantizers."""
        source, value = node.input[0], node.output[0]
        quantizer = self.activations[source]
        assert isinstance(quantizer, Affine)
        zero = self._constant(self._integer(quantizer, quantizer.zero_point))
        self._copy(node, [f"{source}/integer", node.input[1], zero, *node.input[3:]], [f"{value}/integer"])
        self._dequantize(value)

    def _quantize(self, value: str, source: str) -> None:
        """Quantize `source`, and let `value` be read as what it is rounded to."""
        quantizer = self.activations.get(value)
        if isinstance(quantizer, FloatingPoint):
            self._round(value, source, quantizer)
        if not isinstance(quantizer, Affine):
            return
        if quantizer.bits not in (8, 16):  # no runtime has such integers: the range is that of fewer
            ends = [self._constant(np.array(end, np.float32)) for end in quantizer.range]
            self.nodes.append(helper.make_node("Clip", [source, *ends], [f"{value}/clamped"]))
            source = f"{value}/clamped"
        inputs, domain = [source, *self._grid(quantizer)], _domain(quantizer)
        self.nodes.append(helper.make_node("QuantizeLinear", inputs, [f"{value}/integer"], domain=domain))
        self._dequantize(value)

    def _dequantize(self, value: str) -> None:
        """Write the numbers of `value`, from its integers."""
        quantizer = self.activations[value]
        assert isinstance(quantizer, Affine)
        inputs, domain = [f"{value}/integer", *self._grid(quantizer)], _domain(quantizer)
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [self._real_name(value)], domain=domain)
        )

    def _real_name(self, value: str) -> str:
        return f"{value}/real" if value not in self.outputs else value

    def _round(self, value: str, source: str, quantizer: FloatingPoint) -> None:
        """Round `source` to a type of floating point, and let `value` be read as what it is rounded to."""
        kind, most = getattr(TensorProto, _KINDS[quantizer.kind]), np.float32(MOST[quantizer.kind])
        scale = self._constant(np.array(quantizer.scale, np.float32))
        ends = [self._constant(np.array(end, np.float32)) for end in (-most, most)]
        names = [f"{value}/{part}" for part in ("scaled", "clipped", "code", "steps")]
        for op, inputs, name, options in (
            ("Div", [source, scale], names[0], {}),
            ("Clip", [names[0], *ends], names[1], {}),
            ("Cast", [names[1]], names[2], {"to": kind}),
            ("Cast", [names[2]], names[3], {"to": TensorProto.FLOAT}),
            ("Mul", [names[3], scale], self._real_name(value), {}),
        ):
            self.nodes.append(helper.make_node(op, inputs, [name], **options))

    def _grid(self, quantizer: Affine) -> list[str]:
        scale = self._constant(np.array(quantizer.scale, np.float32))
        return [scale, self._constant(self._integer(quantizer, quantizer.zero_point))]

    @staticmethod
    def _integer(quantizer: Affine, number: int) -> Array:
        return np.array(number, quantizer.dtype)

    def _constant(self, array: Array, name: str = "") -> str:
        """Return the name of an initialiser with these numbers, which are written once."""
        name = name or f"{array.dtype}:{array.item()!r}"
        return self.made.add(array, name)

    def _parameters(self, node: NodeProto, layer: IntegerLayer, edge: str, *, with_bias: bool) -> list[str]:
        """Write weight and bias of a layer; return the names of their numbers."""
        order = self.table[node.input[1]].permutation or tuple(range(layer.weight.ndim))
        weight = np.ascontiguousarray(layer.weight.transpose(order))
        names = [self._dequantized(f"{edge}/weight", weight, layer.scale, order.index(layer.axis))]
        if layer.bias is not None and with_bias:
            names.append(self._dequantized(f"{edge}/bias", layer.bias, layer.bias_scale, 0))
        return names

    def _dequantized(self, name: str, integers: Array, scale: Array, axis: int) -> str:
        parts = {"": integers, "/scale": scale}
        if integers.ndim == 2:  # ONNX Runtime merges no Gemm without zero points
            parts["/zero"] = np.zeros(scale.shape, integers.dtype)
        inputs = [self._constant(array, f"{name}{part}") for part, array in parts.items()]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}/real"], axis=axis))
        return f"{name}/real"


def integer_rows(
    node: NodeProto, table: Mapping[str, Initialiser], weights: Mapping[str, Encoded], result: str, made: Made
) -> list[NodeProto]:
    """Return what looks rows up in a table of integers, in the place of a Gather of the float table; or nothing.

    The numbers are those of the decoded table, bit for bit: rows are scaled after they are gathered.

    Args:
        node: any node.
        table: where the initialisers of the graph come from.
        weights: encoded tensors by canonical name.
        result: the value to write.
        made: gets the integers and their scales.
    """
    entry = (
        table.get(node.input[0]) if node.op_type == "Gather" and not attributes(node).get("axis") else None
    )
    encoded = weights.get(entry.tensor) if entry and not entry.shape and not entry.permutation else None
    if encoded is None or not isinstance(encoded.format, Int) or encoded.format.bits > 8:
        return []
    view, scale = encoded.view, encoded.parts["scale"].astype(np.float32)
    groups = max(scale.size // view.rows, 1)
    even = scale.size in (1, view.rows * groups) and view.cols % groups == 0
    if not even or np.any(encoded.parts.get("zero_point", 0)) or view.permutation != (0, 1):
        return []
    name, indices = node.input[0], node.input[1]
    steps = steps_of(encoded).astype(np.int8).reshape((view.rows, groups, -1) if groups > 1 else view.shape)
    rows, integers = made.add(steps, f"{name}/rows"), f"{result}/rows"
    nodes = [helper.make_node("Gather", [rows, indices], [integers], node.name)]
    if scale.size == 1:
        step = made.add(scale.reshape(()), f"{name}/scale")
        return [*nodes, helper.make_node("DequantizeLinear", [integers, step], [result])]
    step = made.add(scale.reshape((view.rows, groups, 1) if groups > 1 else (view.rows, 1)), f"{name}/scale")
    product = f"{result}/rows/groups" if groups > 1 else result
    nodes += [
        helper.make_node("Gather", [step, indices], [f"{result}/rows/scale"]),
        helper.make_node("Cast", [integers], [f"{result}/rows/steps"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{result}/rows/steps", f"{result}/rows/scale"], [product]),
    ]
    if groups > 1:
        width = made.add(np.array([view.cols], np.int64), f"{name}/width")
        nodes += [
            helper.make_node("Shape", [indices], [f"{result}/rows/places"]),
            helper.make_node("Concat", [f"{result}/rows/places", width], [f"{result}/rows/shape"], axis=0),
            helper.make_node("Reshape", [product, f"{result}/rows/shape"], [result]),
        ]
    return nodes
