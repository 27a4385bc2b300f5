"""An ONNX graph by its values: who makes and who reads each; new nodes; and rewrites that change no result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from featherweight.activations import Quantizer, ends, renamed
from featherweight.artifact import Initialiser
from featherweight.errors import IntegrityError
from featherweight.export.float_graph import LAYERS, reads
from featherweight.export.large import shapes_of
from featherweight.integers import Operator

Array = NDArray[Any]

CLAMPS = ("Relu", "Clip")
MICROSOFT = "com.microsoft"  # domain of ONNX Runtime's own operators
_SMALL = 1 << 10  # bytes of a tensor that may be written several times


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """A graph, read-only, by its values. What is cached is of the time when it was first asked for."""

    model: onnx.ModelProto

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The node that makes each value."""
        return {value: node for node in self.model.graph.node for value in node.output}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each value."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for value in node.input:
                found.setdefault(value, []).append(node)
        return found

    @cached_property
    def outputs(self) -> set[str]:
        """The values that the graph returns."""
        return {value.name for value in self.model.graph.output}

    @cached_property
    def stored(self) -> dict[str, TensorProto]:
        """The tensors that the graph holds, by the value they are."""
        constants = [node for node in self.model.graph.node if node.op_type == "Constant"]
        found = {node.output[0]: a.t for node in constants for a in node.attribute if a.name == "value"}
        return found | {tensor.name: tensor for tensor in self.model.graph.initializer}

    def numbers(self, value: str) -> Array | None:
        """Return the numbers of a stored tensor, or None."""
        return numpy_helper.to_array(self.stored[value]) if value in self.stored else None

    @property
    def layers(self) -> Iterator[NodeProto]:
        """The nodes that multiply an activation by stored weights."""
        for node in self.model.graph.node:
            if node.op_type in LAYERS and self.weight(node) is not None:
                yield node

    def weight(self, layer: NodeProto, place: int = 1) -> TensorProto | None:
        """Return the stored weights that a layer reads at `place`, not yet dequantized and transposed; or None."""
        value = layer.input[place]
        while value not in self.stored:
            maker = self.makers.get(value)
            if maker is None or maker.op_type not in ("DequantizeLinear", "Transpose", "Reshape", "Identity"):
                return None
            value = maker.input[0]
        return self.stored[value]

    def quantizer_before(self, layer: NodeProto) -> NodeProto | None:
        """Return the node that quantizes what a layer reads, or None if it reads floats."""
        maker = self.makers.get(layer.input[0])
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        while maker is not None and maker.op_type != "QuantizeLinear":
            maker = self.makers.get(maker.input[0])
        return maker

    def clamp_after(self, layer: NodeProto) -> NodeProto | None:
        """Return a ReLU or Clip that stands between a layer and the quantizer of its output, or None."""
        readers = self.readers.get(layer.output[0], [])
        if len(readers) != 1 or readers[0].op_type not in CLAMPS:
            return None
        after = self.readers.get(readers[0].output[0], [])
        return readers[0] if any(node.op_type == "QuantizeLinear" for node in after) else None

    def type_of(self, quantizer: NodeProto) -> int:
        """Return the element type that a QuantizeLinear makes; U8 where it names none."""
        if len(quantizer.input) > 2 and quantizer.input[2] in self.stored:
            return int(self.stored[quantizer.input[2]].data_type)
        return int(attributes(quantizer).get("output_dtype") or TensorProto.UINT8)


class Writer:
    """New nodes, in order, and new initialisers by name.

    Equal large initialisers are written once: a layer that is used many times has one weight.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self._names: dict[bytes, str] = {}

    def add(self, op: str, inputs: list[str], output: str, **options: Any) -> str:
        """Write a node of one result, with these attributes; return the name of that result."""
        self.nodes.append(helper.make_node(op, inputs, [output], **options))
        return output

    def constant(self, values: Any, name: str = "") -> str:
        """Return the name of an initialiser of an array: this one, or that of an equal one; a number needs none."""
        array = np.asarray(values)
        name = name or f"{array.dtype}:{array.item()!r}"
        if array.nbytes > _SMALL:
            known = self._names.setdefault(_content(array), name)
            if known != name:
                return known
        self.tensors[name] = numpy_helper.from_array(array, name)
        return name

    def transposed(self, matrix: Array, name: str) -> str:
        """Return the name of a matrix: of an initialiser, or of what a Transpose makes of one that is there already.

        Runtimes transpose it once, when they open the file.
        """
        known = self._names.get(_content(matrix.T)) if matrix.nbytes > _SMALL else None
        if known is None or known in (name, f"{name}/turned"):
            return self.constant(matrix, name)
        return self.add("Transpose", [known], f"{name}/turned", perm=[1, 0])


def _content(array: Array) -> bytes:
    """Return a hash of type, shape and numbers."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return sha256(head + array.tobytes()).digest()


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model names."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name; text is bytes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def operators(graph: OnnxGraph, table: Mapping[str, Initialiser]) -> Iterator[Operator]:
    """Yield the layers, averages and joins of a complete float graph, its weights as `swap_weights` leaves them."""
    for node in graph.model.graph.node:
        given, edge, first = attributes(node), node.output[0], tuple(node.input[:1])
        weight = layer_weight(node, table)
        if weight is not None:
            bias, behind = node.input[2] if len(node.input) > 2 else "", bias_behind(node, graph, table)
            if behind is not None:
                bias = next(value for value in behind.input if value != edge)
                edge = behind.output[0]
            if edge.isdigit():  # a step within an operator of the network: an LSTM's
                continue
            flat = not bias or (bias in graph.stored and len(graph.stored[bias].dims) == 1)
            obstacle = "" if flat else "its bias is computed"
            obstacle = "its weight is stored in another shape" if weight.shape else obstacle
            name = table[bias].tensor if bias in table else bias
            yield Operator(edge, "layer", first, weight.tensor, name, obstacle)
        elif node.op_type in ("GlobalAveragePool", "ReduceMean"):
            yield Operator(edge, "average", first, count=0)
        elif node.op_type == "AveragePool":
            padded = any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
            count = None if padded or given.get("ceil_mode") else prod(given["kernel_shape"])
            yield Operator(edge, "average", first, count=count)
        elif node.op_type in ("Add", "Concat") and not any(value in graph.stored for value in node.input):
            yield Operator(edge, "join", tuple(node.input))


def bias_behind(node: NodeProto, graph: OnnxGraph, table: Mapping[str, Initialiser]) -> NodeProto | None:
    """Return the Add that alone reads what a MatMul of a weight writes, and adds a stored vector; or None."""
    readers = graph.readers.get(node.output[0], []) if node.op_type == "MatMul" else []
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in graph.outputs:
        return None
    others = [graph.stored.get(value) for value in readers[0].input if value != node.output[0]]
    vector = len(others) == 1 and others[0] is not None and len(others[0].dims) == 1
    return readers[0] if vector and layer_weight(node, table) is not None else None


def layer_weight(node: NodeProto, table: Mapping[str, Initialiser]) -> Initialiser | None:
    """Return the weight `W` of a node that computes `x W' + b` or a convolution, or None."""
    entry = table.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
    if entry is None or node.op_type == "Conv":
        return entry if entry is None or not entry.permutation else None
    given = attributes(node)
    if given.get("transA") or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        return None
    if entry.shape or sorted(entry.permutation) not in ([], [0, 1]):
        return None
    return entry if (entry.permutation == (1, 0)) != bool(given.get("transB", 0)) else None


def swap_weights(graph: onnx.GraphProto, initialisers: Iterable[Initialiser]) -> dict[str, Initialiser]:
    """Put what Transposes of whole tensors write in the place of those nodes; return the table of `graph`, by name.

    Raises:
        IntegrityError: a Transpose does not fit its tensor.
    """
    table = {entry.name: entry for entry in initialisers}
    values = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        entry = table.get(node.input[0]) if node.op_type == "Transpose" else None
        if entry is None or entry.shape or node.output[0] in outputs:
            continue
        array, made = numpy_helper.to_array(values[entry.name]), node.output[0]
        order = attributes(node).get("perm", range(array.ndim)[::-1])
        if sorted(order) != list(range(array.ndim)):
            what = "a Transpose of axes that are not there"
            raise IntegrityError(what, where=made, got=list(order), expected=array.ndim)
        before = entry.permutation or range(array.ndim)
        table[made] = Initialiser(made, entry.tensor, tuple(before[axis] for axis in order))
        values[made] = numpy_helper.from_array(np.ascontiguousarray(array.transpose(order)), made)
        graph.initializer.append(values[made])
        graph.node.remove(node)
    replace(graph, list(graph.node))
    return table


def replace(graph: onnx.GraphProto, nodes: list[NodeProto], made: Iterable[TensorProto] = ()) -> None:
    """Put nodes and further initialisers into a graph; initialisers that no node reads are left out."""
    tensors = [*graph.initializer, *made]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    read = reads(graph)
    graph.initializer.extend(tensor for tensor in tensors if read[tensor.name])


def share_products(graph: onnx.GraphProto, apart: Callable[[str], Any] = lambda value: None) -> None:
    """Let products of one activation by equal stored vectors be one: layers that scale what they read alike share it.

    Args:
        graph: changed.
        apart: what has to be equal, too, of the values that become one.
    """
    stored = {tensor.name: tensor.raw_data for tensor in graph.initializer}
    outputs, known, renamed = {value.name for value in graph.output}, dict[Any, str](), dict[str, str]()
    for node in list(graph.node):
        node.input[:] = [renamed.get(value, value) for value in node.input]
        vectors = [stored[value] for value in node.input if value in stored]
        if node.op_type != "Mul" or len(vectors) != 1 or not vectors[0] or node.output[0] in outputs:
            continue
        (source,), result = [value for value in node.input if value not in stored], node.output[0]
        first = known.setdefault((source, vectors[0], apart(result)), result)
        if first != result:
            renamed[result] = first
            graph.node.remove(node)
    replace(graph, list(graph.node))


def merge_padding(model: onnx.ModelProto, activations: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """Take every Pad by constant zeros that convolutions alone read into their `pads`: runtimes do not, in integers.

    One that is rounded otherwise than what it pads stays.
    Returns all quantizers; those of what one convolution reads are of what was padded then, for zero stays zero.
    """
    graph, gone = OnnxGraph(model), {}
    for pad in [node for node in model.graph.node if node.op_type == "Pad"]:
        amounts, readers = _around_places(pad, graph), graph.readers.get(pad.output[0], [])
        alike = activations.get(pad.output[0]) == activations.get(pad.input[0])
        if amounts is None or not readers or pad.output[0] in graph.outputs or not alike:
            continue
        kinds = {(node.op_type, attributes(node).get("auto_pad", b"NOTSET") or b"NOTSET") for node in readers}
        if kinds != {("Conv", b"NOTSET")}:
            continue
        for convolution in readers:
            given = attributes(convolution)
            given["pads"] = np.add(given.get("pads", 0), amounts).tolist()
            del convolution.attribute[:]
            convolution.attribute.extend(helper.make_attribute(name, value) for name, value in given.items())
            convolution.input[0] = pad.input[0]
        model.graph.node.remove(pad)
        gone[pad.output[0]] = pad.input[0]
    return {renamed(edge, gone) if ends(edge)[1] else edge: one for edge, one in activations.items()}


def pads_zeros(node: NodeProto, graph: OnnxGraph) -> bool:
    """Return whether a node pads with constant zeros."""
    if node.op_type != "Pad" or attributes(node).get("mode", b"constant") != b"constant":
        return False
    fills = [graph.numbers(name) for name in node.input[2:3] if name]
    return all(fill is not None and not fill.any() for fill in fills)


def _around_places(pad: NodeProto, graph: OnnxGraph) -> list[int] | None:
    """Return the zeros before and behind the axes from the third on; None if others are padded, or otherwise."""
    amounts = graph.numbers([*pad.input, ""][1])
    if amounts is None or any(pad.input[3:]) or not pads_zeros(pad, graph):
        return None
    ends = amounts.reshape(2, -1)
    return None if ends[:, :2].any() or ends.min() < 0 else ends[:, 2:].reshape(-1).tolist()


def pool_means(model: onnx.ModelProto, activations: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """Write quantized means over all places as the pooling that runtimes compute in integers; return all quantizers.

    A ReduceMean, which they sum in float, becomes GlobalAveragePool where its axes are all behind the second. A mean
    that drops these axes is pooled, quantized, and then flattened.
    """
    found, graph = dict(activations), OnnxGraph(model)
    means = [node for node in model.graph.node if node.op_type == "ReduceMean" and node.output[0] in found]
    told = onnx.shape_inference.infer_shapes(shapes_of(model)).graph if means else model.graph
    types = {value.name: value.type.tensor_type for value in [*told.value_info, *told.input]}
    ranks = {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}
    for node in means:
        rank = ranks.get(node.input[0], 0)
        axes = graph.numbers(node.input[1]) if len(node.input) > 1 else None
        if rank < 3 or axes is None or sorted(axes % rank) != list(range(2, rank)):
            continue
        source, result = node.input[0], node.output[0]
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        pooled = result if attributes(node).get("keepdims", 1) else f"{result}/pooled"
        if pooled != result:
            found[pooled] = found[result]
            model.graph.node.insert(place, helper.make_node("Flatten", [pooled], [result], axis=1))
        model.graph.node.insert(place, helper.make_node("GlobalAveragePool", [source], [pooled]))
    return found
