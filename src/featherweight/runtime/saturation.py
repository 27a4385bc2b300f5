"""The layers of a graph whose 8-bit products saturate on x86 without VNNI; and a probe that shows whether they do."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from featherweight.export.onnx_graph import OnnxGraph, attributes
from featherweight.integers import MOST_PAIR, greatest_pair

PORTABLE = (
    "make them with portable = true (steps gptq and encode): such weights are exact everywhere, at full speed"
)

# ONNX Runtime's operators on integers, with the place of their weight. OpenVINO computes them in float.
OPERATORS = {
    "MatMulInteger": 1, "ConvInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
    "DynamicQuantizeMatMul": 1,
}  # fmt: skip


def probe() -> onnx.ModelProto:
    """Return a linear layer of 16 inputs and 16 outputs, every product 255 * 127, its outputs scaled to 255."""
    constants = {
        "step": np.float32(1), "zero": np.uint8(0), "weight": np.full((16, 16), 127, np.int8),
        "steps": np.ones(16, np.float32), "zeros": np.zeros(16, np.int8), "bias": np.zeros(16, np.int32),
        "wide": np.float32(16 * 127),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x/integer"]),
        helper.make_node("DequantizeLinear", ["x/integer", "step", "zero"], ["x/real"]),
        helper.make_node("DequantizeLinear", ["weight", "steps", "zeros"], ["weight/real"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "steps"], ["bias/real"], axis=0),
        helper.make_node("Gemm", ["x/real", "weight/real", "bias/real"], ["sum"], transB=1),
        helper.make_node("QuantizeLinear", ["sum", "wide", "zero"], ["y/integer"]),
        helper.make_node("DequantizeLinear", ["y/integer", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "probe", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saturable(model: onnx.ModelProto, operators: Mapping[str, int] = OPERATORS) -> list[str]:
    """Return the layers whose products could saturate on x86 without VNNI: see `featherweight.integers.pairing`.

    By the names of the nodes, or of the values that they write where they have none. `operators` are the runtime's own
    on integers, with the place of their weight.
    """
    graph, found = OnnxGraph(model), []
    for node, place in _integer_layers(graph, operators):
        weight = graph.weight(node, place)
        if weight is not None and weight.data_type == TensorProto.INT8:
            given, array = attributes(node), numpy_helper.to_array(weight)
            if "Conv" not in node.op_type:
                array = np.atleast_2d(array)
                array = array if given.get("transB") else array.swapaxes(-1, -2)
                array = array.reshape(-1, array.shape[-1])
            if greatest_pair(array, given.get("group", 1)) > MOST_PAIR:
                found.append(node.name or node.output[0])
    return found


def with_own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with a copy of a weight for every layer that reads it.

    ONNX Runtime widens the products of each layer by itself, and stops at a weight that it has widened before
    ("Attempt to replace the existing tensor").
    """
    made = copy.deepcopy(model)
    graph = OnnxGraph(made)
    seen: set[str] = set()
    nodes: list[NodeProto] = []

    def again(value: str, name: str) -> str:
        """Copy what makes a value, down to the stored tensor; return the copy's name."""
        new = f"{value}/{name}"
        if value in graph.stored:
            made.graph.initializer.append(graph.stored[value])
            made.graph.initializer[-1].name = new
        else:
            node = copy.deepcopy(graph.makers[value])
            node.name, node.input[0], node.output[0] = new, again(node.input[0], name), new
            nodes.append(node)
        return new

    for number, (node, place) in enumerate(list(_integer_layers(graph, OPERATORS))):
        value = node.input[place]
        weight = value
        while weight not in graph.stored and weight in graph.makers:
            weight = graph.makers[weight].input[0]
        if weight in seen:
            node.input[place] = again(value, str(number))
        seen.add(weight)
    nodes.extend(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _integer_layers(graph: OnnxGraph, own: Mapping[str, int]) -> Iterator[tuple[NodeProto, int]]:
    """Yield the layers that multiply integers, and the place of their weight among the inputs."""
    for node in graph.model.graph.node:
        if node.op_type in own and graph.weight(node, own[node.op_type]) is not None:
            yield node, own[node.op_type]
    for node in graph.layers:
        if graph.quantizer_before(node) is not None:
            yield node, 1
