"""The graph in integers, from the float one: ONNX QuantizeLinear and DequantizeLinear, weights stored as int8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from featherweight.activations import Quantizer
from featherweight.artifact import Artifact, Initialiser, StoredGraph
from featherweight.errors import IntegrityError
from featherweight.export.averages import pool_means
from featherweight.export.float_graph import Made, build_onnx, onnx_of, opened
from featherweight.export.padding import merge_padding
from featherweight.export.stored_graph import rewriting, values_of
from featherweight.export.transposes import swap_weights
from featherweight.formats import Encoded
from featherweight.integers import IntegerLayer, integer_layer, obstacle

Array = NDArray[Any]

# Operators that runtimes compute in integers where all that they read and write is quantized.
_INTEGER = {"Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean"}
_WITH_WEIGHT = {"Conv", "Gemm", "MatMul"}


@dataclass(frozen=True, eq=False)
class Qdq:
    """A graph in integers.

    Attributes:
        onnx: the model.
        floats: layers that read quantized activations and compute in float, by the value they write, with the
            reason.
    """

    onnx: onnx.ModelProto
    floats: dict[str, str]


def qdq_of(artifact: Artifact) -> Qdq:
    """Return the graph of a file in integers; raises as `opened` and `build_qdq` do."""
    return build_qdq(*opened(artifact), artifact.activations)


def model_of(artifact: Artifact) -> onnx.ModelProto:
    """Return the graph that a session of a file runs: in integers where it has quantizers of activations."""
    return qdq_of(artifact).onnx if artifact.activations else onnx_of(artifact)


@rewriting("in integers")
def build_qdq(
    graph: StoredGraph,
    tensors: Mapping[str, Array],
    weights: Mapping[str, Encoded],
    activations: Mapping[str, Quantizer],
) -> Qdq:
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
    merge_padding(model.graph)
    activations = pool_means(model, activations)
    table = swap_weights(model.graph, graph.initialisers)
    builder = _Builder(model.graph, _before_clamps(model.graph, activations), table, weights)
    builder.build()
    return Qdq(model, builder.floats)


def _readers(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {value.name: [] for value in graph.output}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    return readers


def _clamped(graph: onnx.GraphProto) -> Iterator[tuple[NodeProto, float, float]]:
    """Clamps that alone read what an integer operator writes, with their ends."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {value: node for node in graph.node for value in node.output}
    outputs, readers = {value.name for value in graph.output}, _readers(graph)
    for node in graph.node:
        source = node.input[0] if node.input else ""
        alone = source in makers and makers[source].op_type in _INTEGER and len(readers[source]) == 1
        if node.op_type not in ("Relu", "Clip") or not alone or source in outputs:
            continue
        ends = [0.0, np.inf] if node.op_type == "Relu" else [-np.inf, np.inf]
        for place, name in enumerate(node.input[1:3]):
            if name:
                ends[place] = float(numpy_helper.to_array(constants[name])) if name in constants else np.nan
        yield node, ends[0], ends[1]


def _before_clamps(graph: onnx.GraphProto, activations: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """Quantizers with those that have to stand before clamps as well; absorbed clamps are taken out of `graph`."""
    found, makers = dict(activations), {value: node for node in graph.node for value in node.output}
    for node, low, high in list(_clamped(graph)):
        source, result = node.input[0], node.output[0]
        if result not in found or source in found:
            continue
        if found[result].absorbs(low, high):
            makers[source].output[list(makers[source].output).index(source)] = result
            graph.node.remove(node)
        else:
            found[source] = found[result]
    return found


@dataclass(eq=False)
class _Builder:
    """Writes the nodes of a graph anew, in order."""

    graph: onnx.GraphProto
    activations: Mapping[str, Quantizer]
    table: Mapping[str, Initialiser]
    weights: Mapping[str, Encoded]
    floats: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    made: Made = field(default_factory=Made)

    def build(self) -> None:
        """Put the new nodes and initialisers into the graph."""
        self.values = {tensor.name: tensor for tensor in self.graph.initializer}
        self.outputs = {value.name for value in self.graph.output}
        for value in self.graph.input:
            self._quantize(value.name, value.name)
        for node in self.graph.node:
            self._node(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        read = {value for node in self.nodes for value in node.input}
        kept = [tensor for tensor in [*self.values.values(), *self.made.values()] if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _node(self, node: NodeProto) -> None:
        if self._pads(node):
            self._pad(node)
            return
        layer = self._layer(node)
        inputs = [self._real(value) for value in node.input]
        if layer is not None:
            inputs[1:] = self._parameters(node, layer)
        written = [f"{v}/float" if v in self.activations and v in self.outputs else v for v in node.output]
        self._copy(node, inputs, written)
        for value, source in zip(node.output, written, strict=True):
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
        kind = node.op_type == "Pad" and not any(
            a.name == "mode" and a.s != b"constant" for a in node.attribute
        )
        filled = [self.values.get(name) for name in node.input[2:3] if name]
        zeros = all(value is not None and not numpy_helper.to_array(value).any() for value in filled)
        before, behind = self.activations.get(node.input[0]), self.activations.get(node.output[0])
        return kind and zeros and before is not None and before == behind

    def _pad(self, node: NodeProto) -> None:
        """Pad integers, by the one that stands for 0: OpenVINO fails on channels padded between quantizers."""
        source, value = node.input[0], node.output[0]
        quantizer = self.activations[source]
        zero = self._constant(self._integer(quantizer, quantizer.zero_point))
        self._copy(node, [f"{source}/integer", node.input[1], zero, *node.input[3:]], [f"{value}/integer"])
        self._dequantize(value)

    def _quantize(self, value: str, source: str) -> None:
        """Quantize `source`, and let `value` be read as what it is rounded to."""
        quantizer = self.activations.get(value)
        if quantizer is None:
            return
        code = f"{value}/integer"
        wide = code if quantizer.bits == 8 else f"{value}/wide"
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *self._grid(quantizer)], [wide]))
        if wide != code:  # no runtime has narrower integers: they are clamped in wider ones
            ends = [self._constant(self._integer(quantizer, end)) for end in quantizer.grid]
            self.nodes.append(helper.make_node("Clip", [wide, *ends], [code]))
        self._dequantize(value)

    def _dequantize(self, value: str) -> None:
        """Write the numbers of `value`, from its integers."""
        inputs = [f"{value}/integer", *self._grid(self.activations[value])]
        real = f"{value}/real" if value not in self.outputs else value
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [real]))

    def _grid(self, quantizer: Quantizer) -> list[str]:
        scale = self._constant(np.array(quantizer.scale, np.float32))
        return [scale, self._constant(self._integer(quantizer, quantizer.zero_point))]

    @staticmethod
    def _integer(quantizer: Quantizer, number: int) -> Array:
        return np.array(number, quantizer.dtype)

    def _constant(self, array: Array, name: str = "") -> str:
        """Return the name of an initialiser with these numbers, which are written once."""
        name = name or f"{array.dtype}:{array.item()!r}"
        return self.made.add(array, name)

    def _layer(self, node: NodeProto) -> IntegerLayer | None:
        """Return a layer in integers, if `node` is one; why not, if only its weight is in the way, is noted."""
        entry = self.table.get(node.input[1]) if node.op_type in _WITH_WEIGHT else None
        quantizer = self.activations.get(node.input[0]) if entry else None
        if entry is None or quantizer is None:
            return None
        encoded = self.weights.get(entry.tensor)
        reason = obstacle(encoded) or ("its weight is stored in another shape" if entry.shape else "")
        bias = self.values.get(node.input[2]) if len(node.input) > 2 else None
        if not reason and len(node.input) > 2 and (bias is None or len(bias.dims) != 1):
            reason = "its bias is computed"
        if reason or encoded is None:
            self.floats[node.output[0]] = reason
            return None
        numbers = None if bias is None else numpy_helper.to_array(bias)
        return integer_layer(encoded, numbers, quantizer)

    def _parameters(self, node: NodeProto, layer: IntegerLayer) -> list[str]:
        """Write weight and bias of a layer; return the names of their numbers."""
        entry, name = self.table[node.input[1]], node.output[0]
        order = entry.permutation or tuple(range(layer.weight.ndim))
        weight = np.ascontiguousarray(layer.weight.transpose(order))
        names = [self._dequantized(f"{name}/weight", weight, layer.scale, order.index(layer.axis))]
        if layer.bias is not None:
            names.append(self._dequantized(f"{name}/bias", layer.bias, layer.bias_scale, 0))
        return names

    def _dequantized(self, name: str, integers: Array, scale: Array, axis: int) -> str:
        parts = {"": integers, "/scale": scale}
        if (
            integers.ndim == 2
        ):  # ONNX Runtime merges no Gemm without them; elsewhere they are zero unless said
            parts["/zero"] = np.zeros(scale.shape, integers.dtype)
        inputs = [self._constant(array, f"{name}{part}") for part, array in parts.items()]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}/real"], axis=axis))
        return f"{name}/real"
