"""The graph in integers, from the float one: ONNX QuantizeLinear and DequantizeLinear, weights stored as int8."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from featherweight.activations import Affine, BinaryCoded, FloatingPoint, Quantizer, ends, read_by
from featherweight.artifact import Artifact, Initialiser, StoredGraph
from featherweight.errors import IntegrityError
from featherweight.export.float_graph import build_onnx, onnx_of, opened, rewriting, unknown_edges
from featherweight.export.onnx_graph import (
    CLAMPS,
    MICROSOFT,
    OnnxGraph,
    Writer,
    bias_behind,
    merge_padding,
    operators,
    opset_of,
    pads_zeros,
    pool_means,
    replace,
    share_products,
    swap_weights,
)
from featherweight.export.rows import tied_tables, write_rows
from featherweight.export.signature import signed
from featherweight.formats import Encoded
from featherweight.formats.floating import MOST
from featherweight.integers import IntegerLayer, IntegerPlan, integer_plan

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
    graph, tensors, weights = opened(artifact)
    made = build_qdq(graph, tensors, weights, artifact.activations)
    signed(made.onnx, graph.outputs)
    return made


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
    if unknown := unknown_edges(graph, activations):
        what = "a quantizer on no value of the graph"
        raise IntegrityError(what, where="activations", got=ascii(unknown[0]))
    alone = {ends(edge)[0] for edge in activations if ends(edge)[1]}
    share_products(model.graph, lambda value: value if value in alone else activations.get(value))
    table = swap_weights(model.graph, graph.initialisers)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    plan = integer_plan(operators(OnnxGraph(model), table), weights, {**constants, **tensors}, activations)
    activations = merge_padding(model, activations)
    builder = _Builder(OnnxGraph(model), pool_means(model, activations), table, weights, plan)
    layers = builder.layers()
    floats = {layers.get(edge, edge): reason for edge, reason in plan.floats.items()}
    builder.build()
    if beyond := sorted({_called(quantizer) for quantizer in builder.activations.values()} - {""}):
        model.metadata_props.add(key=ROUNDS, value=", ".join(beyond))
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return Qdq(model, floats, plan)


def _called(quantizer: Quantizer) -> str:
    """Return what a quantizer rounds to, or an empty string for integers of at most 8 bits."""
    if isinstance(quantizer, Affine):
        return f"integers of {quantizer.bits} bits" if quantizer.bits > 8 else ""
    if isinstance(quantizer, BinaryCoded):
        return f"sums of {len(quantizer.basis)} numbers"
    return quantizer.kind if isinstance(quantizer, FloatingPoint) else type(quantizer).__name__


@dataclass(eq=False)
class _Builder:
    """Writes the nodes of a graph again, in order."""

    graph: OnnxGraph
    activations: dict[str, Quantizer]
    table: Mapping[str, Initialiser]
    weights: Mapping[str, Encoded]
    plan: IntegerPlan
    writer: Writer = field(default_factory=Writer)

    def layers(self) -> dict[str, str]:
        """Return the names of layers by the value that they write, perhaps with the bias behind them."""
        named = [node for node in self.graph.model.graph.node if node.name]
        return {(bias_behind(node, self.graph, self.table) or node).output[0]: node.name for node in named}

    def build(self) -> None:
        """Put the new nodes and initialisers into the graph."""
        graph, self.absorbed = self.graph.model.graph, self._absorbed()
        heads = tied_tables(graph.node, self.table)
        self.rows: dict[str, Any] = {"opset": opset_of(self.graph.model), "heads": heads}
        for value in graph.input:
            self._quantize(value.name, value.name)
        for node in graph.node:
            if node.output[0] not in self.absorbed.values() and not self._pad(node):
                self._node(node)
        replace(graph, self.writer.nodes, self.writer.tensors.values())

    def _absorbed(self) -> dict[str, str]:
        """Return what integer operators write before clamps that the range of a quantizer behind performs, and that.

        Where the range does not, the quantizer is put before the clamp too.
        """
        found = {}
        for node in self.graph.model.graph.node:
            source, result = (node.input[0] if node.input else ""), node.output[0]
            maker, quantizer = self.graph.makers.get(source), self.activations.get(result)
            alone = len(self.graph.readers.get(source, [])) == 1 and source not in self.graph.outputs
            integer = maker is not None and maker.op_type in _INTEGER and source not in self.activations
            if node.op_type not in CLAMPS or not alone or not integer or quantizer is None:
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
        results = [self.absorbed.get(value, value) for value in node.output]
        outputs = [f"{v}/float" if v in self.activations and v in self.graph.outputs else v for v in results]
        behind = bias_behind(node, self.graph, self.table)
        edge = (behind or node).output[0]
        inputs = [self._read(value, edge) for value in node.input]
        layer = self.plan.layers.get(edge)
        if not write_rows(self.writer, node, self.table, self.weights, outputs[0], **self.rows):
            if layer is not None and node.op_type == "Add":
                bias = self.writer.constant(layer.biases, f"{edge}/bias")
                inputs = [bias if value in self.graph.stored else value for value in inputs]
            elif layer is not None:
                inputs[1:] = self._parameters(node, layer, edge, with_bias=behind is None)
            self._copy(node, inputs, outputs)
        for value, source in zip(results, outputs, strict=True):
            self._quantize(value, source)

    def _copy(self, node: NodeProto, inputs: list[str], outputs: list[str]) -> None:
        made = copy.deepcopy(node)
        made.input[:], made.output[:] = inputs, outputs
        self.writer.nodes.append(made)

    def _real(self, value: str) -> str:
        """Return the name under which the numbers of `value` are read."""
        return f"{value}/real" if value in self.activations and value not in self.graph.outputs else value

    def _read(self, value: str, edge: str) -> str:
        """Return the name under which the layer that writes `edge` reads `value`: perhaps rounded once more."""
        own = read_by(value, edge)
        if own not in self.activations:
            return self._real(value)
        self._quantize(own, self._real(value))
        return self._real(own)

    def _pad(self, node: NodeProto) -> bool:
        """Pad integers by the one that stands for 0, where one quantizer stands before and behind zeros.

        OpenVINO fails on channels that are padded between quantizers.
        """
        if not pads_zeros(node, self.graph):
            return False
        source, value = node.input[0], node.output[0]
        quantizer = self.activations.get(source)
        if not isinstance(quantizer, Affine) or quantizer != self.activations.get(value):
            return False
        if quantizer.bits > 8:  # ONNX Runtime pads no integers of 16 bits
            return False
        inputs = [f"{source}/integer", node.input[1], self._grid(quantizer)[1], *node.input[3:]]
        self._copy(node, inputs, [f"{value}/integer"])
        self._affine("DequantizeLinear", f"{value}/integer", self._real(value), quantizer)
        return True

    def _quantize(self, value: str, source: str) -> None:
        """Round `source` as its quantizer does, and let `value` be read as what it is rounded to."""
        quantizer, add = self.activations.get(value), self.writer.add
        if isinstance(quantizer, FloatingPoint):
            scale, most = self._number(quantizer.scale), MOST[quantizer.kind]
            scaled = add("Div", [source, scale], f"{value}/scaled")
            clipped = add("Clip", [scaled, self._number(-most), self._number(most)], f"{value}/clipped")
            code = add("Cast", [clipped], f"{value}/code", to=getattr(TensorProto, _KINDS[quantizer.kind]))
            steps = add("Cast", [code], f"{value}/steps", to=TensorProto.FLOAT)
            add("Mul", [steps, scale], self._real(value))
        elif isinstance(quantizer, BinaryCoded):
            self._nearest_level(value, source, quantizer)
        elif isinstance(quantizer, Affine):
            if quantizer.bits not in (8, 16):  # no runtime has such integers: the range is that of fewer
                source = add("Clip", [source, *map(self._number, quantizer.range)], f"{value}/clamped")
            self._affine("QuantizeLinear", source, f"{value}/integer", quantizer)
            self._affine("DequantizeLinear", f"{value}/integer", self._real(value), quantizer)

    def _nearest_level(self, value: str, source: str, quantizer: BinaryCoded) -> None:
        """Round to the nearest level, found by a binary search among the limits between them."""
        add, constant = self.writer.add, self.writer.constant
        limits, place = constant(quantizer.limits, f"{value}/limits"), ""
        for bit in reversed(range(len(quantizer.basis))):
            step = constant(np.int32(1 << bit))
            probe = (
                add("Add", [place, constant(np.int32((1 << bit) - 1))], f"{value}/probe{bit}")
                if place
                else ""
            )
            middle = self._number(float(quantizer.limits[(1 << bit) - 1]))
            limit = add("Gather", [limits, probe], f"{value}/limit{bit}") if place else middle
            above = add("Greater", [source, limit], f"{value}/above{bit}")
            chosen = add("Cast", [above], f"{value}/bit{bit}", to=TensorProto.INT32)
            moved = add("Mul", [chosen, step], f"{value}/moved{bit}")
            place = add("Add", [place, moved], f"{value}/place{bit}") if place else moved
        add("Gather", [constant(quantizer.levels, f"{value}/levels"), place], self._real(value))

    def _affine(self, op: str, source: str, result: str, quantizer: Affine) -> None:
        """Quantize or dequantize; the operators of ONNX know 16 bits from version 21 on."""
        domain = MICROSOFT if quantizer.bits > 8 else ""
        self.writer.add(op, [source, *self._grid(quantizer)], result, domain=domain)

    def _grid(self, quantizer: Affine) -> list[str]:
        zero_point = np.array(quantizer.zero_point, quantizer.dtype)
        return [self._number(quantizer.scale), self.writer.constant(zero_point)]

    def _number(self, number: float) -> str:
        return self.writer.constant(np.float32(number))

    def _parameters(self, node: NodeProto, layer: IntegerLayer, edge: str, *, with_bias: bool) -> list[str]:
        """Write weight and bias of a layer; return the names of their numbers."""
        order = self.table[node.input[1]].permutation or tuple(range(layer.weight.ndim))
        weight, axis = layer.weight.transpose(order), order.index(layer.axis)
        names = [self._dequantized(f"{edge}/weight", weight, layer.scale, axis)]
        if layer.bias is not None and with_bias:
            names.append(self._dequantized(f"{edge}/bias", layer.bias, layer.bias_scale, 0))
        return names

    def _dequantized(self, name: str, integers: Array, scale: Array, axis: int) -> str:
        parts = {"": integers, "/scale": scale}
        # Without zero points ONNX Runtime merges no Gemm, and on x86 without VNNI runs no Conv that writes floats.
        if integers.ndim > 1:
            parts["/zero"] = np.zeros(scale.shape, integers.dtype)
        stored = self.writer.transposed if integers.ndim == 2 else self.writer.constant
        inputs = [stored(integers, name), *(self.writer.constant(parts[p], f"{name}{p}") for p in parts if p)]
        return self.writer.add("DequantizeLinear", inputs, f"{name}/real", axis=axis)
