"""What a runtime makes of a graph: the operators it really executes, and in which precision."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto

from featherweight.engines import onnxruntime_session, openvino_model, said
from featherweight.errors import UnsupportedError
from featherweight.export import serialized
from featherweight.runtime.backend import onnx_backend
from featherweight.runtime.saturation import with_own_weights

# Operators that hold weights, by the names that ONNX, ONNX Runtime and OpenVINO give them.
WEIGHTED = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv",
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger",
    "DynamicQuantizeMatMul", "MatMulNBits", "Convolution", "Deconvolution", "FullyConnected",
)  # fmt: skip
_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")
_FUSED = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh")
_PRECISIONS = {"u8": "int8", "i8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@dataclass(frozen=True)
class Kernel:
    """One operator as it is executed.

    Attributes:
        layer: names of the operators of the given graph that it stands for; the first is the layer's own.
        op: the runtime's name of it.
        precision: of its products: `int8`, `float32`, `bfloat16`, ...; `int4`: weights of 4 bits, activations
            float.
    """

    layer: tuple[str, ...]
    op: str
    precision: str

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by weights."""
        return self.op in WEIGHTED


def kernels(model: onnx.ModelProto, runtime: str, *, threads: int = 1) -> list[Kernel]:
    """Return what sessions of `runtime` execute for a graph, in order, without what holds constants.

    Args:
        model: a complete ONNX graph; its nodes need names.
        runtime: which one; floats are float32.
        threads: of the session.

    Raises:
        MissingExtraError: the runtime is not installed.
        UnsupportedError: it refuses the graph, or does not tell what it executes.
    """
    used = onnx_backend(runtime)
    if runtime not in _READERS:
        raise UnsupportedError("does not tell what it executes", where=used.title)
    wide = used.widens and bool(used.saturating(model))
    content = serialized(with_own_weights(model) if wide else model)
    try:
        return _READERS[runtime](model, content, threads, wide)
    except Exception as error:
        raise UnsupportedError(f"{used.title} refuses the graph", got=said(error)) from error


def _onnxruntime(model: onnx.ModelProto, content: bytes, threads: int, wide: bool) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        onnxruntime_session(content, threads, wide=wide, optimized=path)
        optimized = onnx.load(path)
    nodes = {value: node for node in model.graph.node for value in (*node.output, node.name)}
    found = []
    for node in optimized.graph.node:
        op = node.op_type
        precision = "int4" if op == "MatMulNBits" else "int8" if op.startswith(_INTEGER) else "float32"
        found.append(Kernel((_given(node, nodes),), op, precision))
    return found


def _given(node: NodeProto, nodes: Mapping[str, NodeProto]) -> str:
    """Return the given name of a node that ONNX Runtime renamed: after its output, or with a suffix.

    A layer that does an activation's work too has that one's name.
    """
    name = re.sub(r"(_token_\d+|_nchwc)+$", "", node.name)
    given = nodes.get(name)
    while given is not None and node.op_type in WEIGHTED and given.op_type in _FUSED:
        given = nodes.get(given.input[0])
    return name if given is None else given.name


def _openvino(_: onnx.ModelProto, content: bytes, threads: int, __: bool) -> list[Kernel]:
    found = []
    for operator in openvino_model(content, threads).get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in operator.get_rt_info().items()}
        kind = facts.get("layerType", "")
        if kind in ("Const", "Input", "Output", ""):
            continue
        names = facts.get("originalLayersNames", "").split(",")
        layer = tuple(name.removesuffix("/WithoutBiases") for name in names if name)
        primitive = facts.get("primitiveType", "").rpartition("_")[2].lower()
        found.append(Kernel(layer, kind, _PRECISIONS.get(primitive, primitive)))
    return found


_READERS = {"onnxruntime": _onnxruntime, "openvino": _openvino}
