"""Means over all places, written as the pooling that runtimes compute in integers: they sum a ReduceMean in float."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, helper, numpy_helper

from featherweight.activations import Quantizer


def pool_means(model: onnx.ModelProto, activations: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """Write each quantized ReduceMean over all axes behind the second as GlobalAveragePool; return all quantizers.

    A mean that drops these axes is pooled, quantized, and then flattened.
    """
    found = dict(activations)
    means = [node for node in model.graph.node if node.op_type == "ReduceMean" and node.output[0] in found]
    ranks = _ranks(model) if means else {}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in means:
        rank = ranks.get(node.input[0], 0)
        if rank < 3 or _axes(node, constants, rank) != list(range(2, rank)):
            continue
        source, result = node.input[0], node.output[0]
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        pooled = result if _keeps(node) else f"{result}/pooled"
        if pooled != result:
            found[pooled] = found[result]
            model.graph.node.insert(place, helper.make_node("Flatten", [pooled], [result], axis=1))
        model.graph.node.insert(place, helper.make_node("GlobalAveragePool", [source], [pooled]))
    return found


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """How many axes each value has, where that can be told."""
    told = onnx.shape_inference.infer_shapes(model).graph
    values = [*told.value_info, *told.input]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _axes(node: NodeProto, constants: Mapping[str, onnx.TensorProto], rank: int) -> list[int]:
    """Return the axes of a mean, in order; an empty list if they are computed, or are all."""
    name = node.input[1] if len(node.input) > 1 else ""
    given = numpy_helper.to_array(constants[name]).tolist() if name in constants else []
    return sorted(axis % rank for axis in given)


def _keeps(node: NodeProto) -> bool:
    return all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
