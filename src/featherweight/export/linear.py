"""Linear layers in integers without calibration: activations quantized as they come, or 4-bit weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from featherweight.activations import Affine
from featherweight.artifact import Artifact, Initialiser, StoredGraph
from featherweight.errors import UnsupportedError
from featherweight.export.float_graph import MICROSOFT, Made, build_onnx, opened
from featherweight.export.onnx_graph import layer_weight, replace, swap_weights
from featherweight.export.qdq import Qdq, integer_rows
from featherweight.export.stored_graph import rewriting
from featherweight.formats import Encoded, Int
from featherweight.integers import integer_layer, obstacle, steps_of

Array = NDArray[Any]

# `dynamic`: activations in 8 bits, their range found in each call. `nbits`: weights of 4 bits, activations float.
Linear = Literal["dynamic", "nbits"]

NBITS = 4
LEAST_BLOCK, WHOLE = 16, 128  # weights that share a scale: at least, and where a whole row does
EXPECTED = {
    "dynamic": "weights in int of at most 8 bits, a step for each channel",
    "nbits": "weights in int of at most 4 bits, in groups of 16, 32, 64, ... or a step for each channel",
}


def linear_of(artifact: Artifact, linear: Linear) -> Qdq:
    """Return the graph of a file with its linear layers in integers; see `build_linear`.

    Raises:
        UnsupportedError: the file holds no graph, or no linear layer has a weight that fits.
        IntegrityError: the graph or a tensor is damaged.
    """
    return build_linear(*opened(artifact), linear)


@rewriting("with linear layers in integers")
def build_linear(
    graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded], linear: Linear
) -> Qdq:
    """Return `graph` with its linear layers in integers and all else in float; no quantizers are needed.

    `dynamic`: `y = s_x s_w (q_x - z_x) q_w + b`, with scale `s_x` and zero point `z_x` of the least and the greatest
    activation of the call (DynamicQuantizeLinear, MatMulInteger), so that a sample's outputs depend on those that
    are in its batch. `nbits`: ONNX Runtime's MatMulNBits, the numbers of the decoded weights.

    Args:
        graph: the float graph.
        tensors: decoded tensors by canonical name.
        weights: those that are encoded.
        linear: how linear layers compute.

    Raises:
        IntegrityError: the graph does not fit the tensors.
        UnsupportedError: no linear layer has a weight that fits.
    """
    model = build_onnx(graph, tensors)
    writer = _Writer(swap_weights(model.graph, graph.initialisers), weights, linear)
    for node in model.graph.node:
        writer.node(node)
    if not writer.made:
        raise UnsupportedError(
            "no linear layer can compute in integers", where="graph",
            got="; ".join(dict.fromkeys(writer.floats.values())) or "no linear layers",
            expected=EXPECTED[linear],
        )  # fmt: skip
    replace(model.graph, writer.nodes, writer.made.values())
    if linear == "nbits":
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return Qdq(model, writer.floats)


def nbits_obstacle(encoded: Encoded | None) -> str:
    """Return why MatMulNBits cannot multiply by a weight, or an empty string."""
    if encoded is None or not isinstance(encoded.format, Int):
        return "its weight is not encoded as integers"
    if encoded.format.bits > NBITS:
        return f"its weight has {encoded.format.bits} bits, more than {NBITS}"
    if np.any(encoded.parts.get("zero_point", 0)):
        return "its weight has zero points that are not 0"
    per = encoded.format.per
    if isinstance(per, int) and (per < LEAST_BLOCK or per & (per - 1)):
        return f"its groups of {per} are no power of two of {LEAST_BLOCK} or more"
    return ""


def packed(encoded: Encoded) -> tuple[Array, Array, int]:
    """Return weights, scales and block of MatMulNBits: `uint8 [rows, blocks, block / 2]`, `float32 [rows, blocks]`.

    Two weights lie in a byte, the first in its lower half, each plus 8; what fills the last block is 0.

    Args:
        encoded: the weight; `nbits_obstacle(encoded)` is empty.
    """
    view, per = encoded.view, encoded.format.per  # type: ignore[attr-defined]
    block = per if isinstance(per, int) else WHOLE
    blocks = -(-view.cols // block)
    steps = np.pad(steps_of(encoded), [(0, 0), (0, blocks * block - view.cols)])
    halves = (steps + (1 << NBITS - 1)).astype(np.uint8).reshape(view.rows, blocks, block // 2, 2)
    scale = encoded.parts["scale"].astype(np.float32)
    scale = scale if isinstance(per, int) else np.repeat(scale, view.rows // scale.size)[:, None]
    return halves[..., 0] | halves[..., 1] << NBITS, np.broadcast_to(scale, (view.rows, blocks)), block


@dataclass(eq=False)
class _Writer:
    """Writes the nodes of a graph again, in order."""

    table: Mapping[str, Initialiser]
    weights: Mapping[str, Encoded]
    linear: Linear
    floats: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    made: Made = field(default_factory=Made)
    quantized: set[str] = field(default_factory=set)

    def node(self, node: NodeProto) -> None:
        """Write the next node: a linear layer in integers where its weight allows, all else as it is."""
        entry = layer_weight(node, self.table) if node.op_type != "Conv" else None
        name = entry.tensor if entry else ""
        encoded = self.weights.get(name)
        reason = "it is a convolution" if node.op_type.startswith("Conv") else ""
        if node.op_type in ("Gemm", "MatMul") and not name:
            stored = node.input[1] in self.table
            reason = "its weight is stored as [in, out]" if stored else "it multiplies two activations"
        if name:
            reason = (obstacle if self.linear == "dynamic" else nbits_obstacle)(encoded)
            if encoded is not None and encoded.view.permutation[0] != 0:
                reason = reason or "its rows are not its outputs"
        if reason:
            self.floats[node.name or node.output[0]] = reason
        if reason or not name or encoded is None:
            rows = integer_rows(node, self.table, self.weights, node.output[0], self.made)
            self.nodes.extend(rows or [node])
            return
        bias = node.input[2] if len(node.input) > 2 else ""
        product = f"{node.output[0]}/product" if bias else node.output[0]
        if self.linear == "dynamic":
            self._dynamic(node.input[0], product, encoded)
        else:
            self._nbits(node.input[0], product, encoded)
        if bias:
            self._add("Add", [product, bias], node.output[0])

    def _dynamic(self, x: str, y: str, encoded: Encoded) -> None:
        layer = integer_layer(encoded, None, Affine(1.0, 0))
        weight = self._constant(f"{y}/weight", np.ascontiguousarray(layer.weight.T))
        scale = self._constant(f"{y}/weight/scale", layer.scale)
        if x not in self.quantized:
            self.quantized.add(x)
            made = [f"{x}/integer", f"{x}/scale", f"{x}/zero"]
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], made, f"{x}/quantize"))
        self._add("MatMulInteger", [f"{x}/integer", weight, f"{x}/zero"], f"{y}/sum")
        self._add("Cast", [f"{y}/sum"], f"{y}/steps", to=TensorProto.FLOAT)
        self._add("Mul", [f"{x}/scale", scale], f"{y}/step")
        self._add("Mul", [f"{y}/steps", f"{y}/step"], y)

    def _nbits(self, x: str, y: str, encoded: Encoded) -> None:
        weight, scale, block = packed(encoded)
        inputs = [x, self._constant(f"{y}/weight", weight), self._constant(f"{y}/scale", scale)]
        sizes = {"K": encoded.view.cols, "N": encoded.view.rows, "bits": NBITS, "block_size": block}
        self._add("MatMulNBits", inputs, y, domain=MICROSOFT, **sizes)

    def _add(self, op: str, inputs: list[str], output: str, **options: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **options))

    def _constant(self, name: str, array: Array) -> str:
        return self.made.add(np.ascontiguousarray(array), name)
