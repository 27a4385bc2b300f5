"""Linear layers in integers without calibration: activations quantized as they come, or 4-bit weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from featherweight.activations import Affine
from featherweight.artifact import Artifact, Initialiser, StoredGraph
from featherweight.errors import UnsupportedError
from featherweight.export.float_graph import build_onnx, opened, rewriting
from featherweight.export.onnx_graph import (
    MICROSOFT,
    Writer,
    layer_weight,
    opset_of,
    replace,
    share_products,
    swap_weights,
)
from featherweight.export.packed import LEAST_BLOCK, packed, packing_obstacle
from featherweight.export.qdq import Qdq
from featherweight.export.rows import tied_tables, write_rows
from featherweight.export.signature import signed
from featherweight.formats import Encoded, Int
from featherweight.integers import integer_layer, obstacle

Array = NDArray[Any]

# `dynamic`: activations in 8 bits, their range found in each call. `nbits`: weights of 2, 4 or 8 bits, a step a group.
Linear = Literal["dynamic", "nbits"]
Activations = Literal["int8", "float32"]

ACCURACY = {"float32": 0, "int8": 4}  # ONNX Runtime's levels: what it multiplies activations as
EXPECTED = {
    "dynamic": "weights in int of at most 8 bits, a step for each channel",
    "nbits": "weights in int of at most 8 bits, in groups of 16, 32, 64, ... or a step for each channel",
}


def linear_of(artifact: Artifact, linear: Linear, *, activations: Activations = "int8") -> Qdq:
    """Return the graph of a file with its linear layers in integers; see `build_linear`.

    Raises:
        UnsupportedError: the file holds no graph, or no linear layer has a weight that fits.
        IntegrityError: the graph or a tensor is damaged.
    """
    graph, tensors, weights = opened(artifact)
    made = build_linear(graph, tensors, weights, linear, activations=activations)
    signed(made.onnx, graph.outputs)
    return made


@rewriting("with linear layers in integers")
def build_linear(
    graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded], linear: Linear,
    *, activations: Activations = "int8",
) -> Qdq:  # fmt: skip
    """Return `graph` with its linear layers in integers and all else in float; no quantizers are needed.

    `dynamic`: `y = s_x s_w (q_x - z_x) q_w + b`, with scale `s_x` and zero point `z_x` of the least and the greatest
    activation of the call (DynamicQuantizeLinear, MatMulInteger), so that a sample's outputs depend on those that
    are in its batch. `nbits`: ONNX Runtime's MatMulNBits, the numbers of the decoded weights. It multiplies activations
    as 8-bit integers, a scale for each block of a row (`accuracy_level=4`), which is several times as quick with few
    rows and rounds each product by about half a percent of its size; or as they are.

    Tables of embeddings stay integers in both. A table that is the weight of a linear layer, too, is stored once.

    Args:
        graph: the float graph.
        tensors: decoded tensors by canonical name.
        weights: those that are encoded.
        linear: how linear layers compute.
        activations: what `nbits` multiplies by; runtimes but ONNX Runtime do not read it.

    Raises:
        IntegrityError: the graph does not fit the tensors.
        UnsupportedError: no linear layer has a weight that fits.
    """
    model = build_onnx(graph, tensors)
    share_products(model.graph)
    table, writer, floats = swap_weights(model.graph, graph.initialisers), Writer(), {}
    quantized, level = set[str](), ACCURACY[activations]
    rows: dict[str, Any] = {"opset": opset_of(model), "heads": tied_tables(model.graph.node, table)}
    rows |= {"layout": "MatMulNBits"} if linear == "nbits" else {}
    for node in model.graph.node:
        encoded, reason = _weight(node, table, weights, linear)
        if reason:
            floats[node.name or node.output[0]] = reason
        if encoded is not None:
            _layer(writer, node, encoded, linear, quantized, level)
        elif not write_rows(writer, node, table, weights, node.output[0], **rows):
            writer.nodes.append(node)
    if not writer.tensors:
        raise UnsupportedError(
            "no linear layer can compute in integers", where="graph",
            got="; ".join(dict.fromkeys(floats.values())) or "no linear layers", expected=EXPECTED[linear],
        )  # fmt: skip
    replace(model.graph, writer.nodes, writer.tensors.values())
    if linear == "nbits":
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return Qdq(model, floats)


def _weight(
    node: NodeProto, table: Mapping[str, Initialiser], weights: Mapping[str, Encoded], linear: Linear
) -> tuple[Encoded | None, str]:
    """Return the weight of a layer that computes in integers, or why a layer does not."""
    if node.op_type.startswith("Conv"):
        return None, "it is a convolution"
    if node.op_type not in ("Gemm", "MatMul"):
        return None, ""
    entry = layer_weight(node, table)
    if entry is None:
        stored = node.input[1] in table
        return None, "its weight is stored as [in, out]" if stored else "it multiplies two activations"
    encoded = weights.get(entry.tensor)
    reason = (obstacle if linear == "dynamic" else nbits_obstacle)(encoded)
    if encoded is not None and encoded.view.permutation[0] != 0:
        reason = reason or "its rows are not its outputs"
    return (None, reason) if reason else (encoded, "")


def _layer(
    writer: Writer, node: NodeProto, encoded: Encoded, linear: Linear, quantized: set[str], level: int
) -> None:
    """Write a linear layer in integers; `quantized` are the values that have been, which layers share."""
    (x, _, *bias), result, add = node.input, node.output[0], writer.add
    y = f"{result}/product" if any(bias) else result
    if linear == "dynamic":
        layer = integer_layer(encoded, None, Affine(1.0, 0))
        weight = writer.transposed(layer.weight.T, f"{y}/weight")
        scale = writer.constant(layer.scale, f"{y}/weight/scale")
        parts = [f"{x}/integer", f"{x}/scale", f"{x}/zero"]
        if x not in quantized:
            writer.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts))
            quantized.add(x)
        total = add("MatMulInteger", [parts[0], weight, parts[2]], f"{y}/sum")
        steps = add("Cast", [total], f"{y}/steps", to=TensorProto.FLOAT)
        add("Mul", [steps, add("Mul", [parts[1], scale], f"{y}/step")], y)
    else:
        made = packed(encoded)
        inputs = [x, writer.constant(made.codes, f"{y}/weight"), writer.constant(made.scale, f"{y}/scale")]
        if (zeros := made.packed_zeros) is not None:
            inputs.append(writer.constant(zeros, f"{y}/zero"))
        sizes = {"K": encoded.view.cols, "N": encoded.view.rows, "bits": made.bits, "block_size": made.block}
        given = {"accuracy_level": level} if level else {}
        add("MatMulNBits", inputs, y, domain=MICROSOFT, **sizes, **given)
    if any(bias):
        add("Add", [y, *bias], result)


def nbits_obstacle(encoded: Encoded | None) -> str:
    """Return why MatMulNBits cannot multiply by a weight, or an empty string."""
    if encoded is None:
        return "its weight is not encoded as integers"
    per = encoded.format.per if isinstance(encoded.format, Int) else ""
    if isinstance(per, int) and (per < LEAST_BLOCK or per & (per - 1)):
        return f"its groups of {per} are no power of two of {LEAST_BLOCK} or more"
    return packing_obstacle(encoded)
