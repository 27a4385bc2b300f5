"""What a runtime makes of a graph: the operators it really executes, and in which precision."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime

from featherweight.errors import UnsupportedError

Runtime = Literal["onnxruntime", "openvino"]

# Operators that hold weights, by the names that ONNX, ONNX Runtime and OpenVINO give them.
WEIGHTED = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv",
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger",
    "DynamicQuantizeMatMul", "MatMulNBits", "Convolution", "Deconvolution", "FullyConnected",
)  # fmt: skip
_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulNBits")
_PRECISIONS = {"u8": "int8", "i8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@dataclass(frozen=True)
class Kernel:
    """One operator as it is executed.

    Attributes:
        layer: names of the operators of the given graph that it stands for; the first is the layer's own.
        op: the runtime's name of it.
        precision: of its products: `int8`, `float32`, `bfloat16`, ...
    """

    layer: tuple[str, ...]
    op: str
    precision: str

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by weights."""
        return self.op in WEIGHTED


def kernels(
    model: onnx.ModelProto, runtime: Runtime, *, precision: str | None = "float32", threads: int = 1
) -> list[Kernel]:
    """Return what `runtime` executes for a graph, in order, without what holds constants.

    Args:
        model: a complete ONNX graph; its nodes need names.
        runtime: which one.
        precision: what OpenVINO computes floats in; None leaves that to it.
        threads: of the session.

    Raises:
        UnsupportedError: the runtime is not installed, or refuses the graph.
    """
    if runtime == "openvino":
        return _openvino(model, precision, threads)
    return _onnxruntime(model, threads)


def _onnxruntime(model: onnx.ModelProto, threads: int) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise UnsupportedError("ONNX Runtime refuses the graph", got=str(error)[:200]) from None
        optimized = onnx.load(path)
    names = {value: node.name for node in model.graph.node for value in (*node.output, node.name)}
    return [
        Kernel((_given(node.name, names),), node.op_type, _of(node.op_type)) for node in optimized.graph.node
    ]


def _given(name: str, names: Mapping[str, str]) -> str:
    """Return the given name of a node that ONNX Runtime renamed: after its output, or with a suffix."""
    name = re.sub(r"(_token_\d+|_nchwc)+$", "", name)
    return names.get(name, name)


def _of(op: str) -> str:
    return "int8" if op.startswith(_INTEGER) else "float32"


def _openvino(model: onnx.ModelProto, precision: str | None, threads: int) -> list[Kernel]:
    compiled = compile_openvino(model, precision, threads)
    found = []
    for operator in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in operator.get_rt_info().items()}
        kind = facts.get("layerType", "")
        if kind in ("Const", "Input", "Output", ""):
            continue
        names = tuple(name for name in facts.get("originalLayersNames", "").split(",") if name)
        layer = tuple(name.removesuffix("/WithoutBiases") for name in names)
        primitive = facts.get("primitiveType", "").rpartition("_")[2].lower()
        found.append(Kernel(layer, kind, _PRECISIONS.get(primitive, primitive)))
    return found


def compile_openvino(model: onnx.ModelProto, precision: str | None, threads: int) -> Any:
    """Return a model compiled by OpenVINO for the CPU; floats in `precision`, None: whatever it prefers.

    Raises:
        UnsupportedError: OpenVINO is not installed, or refuses the graph.
    """
    try:
        import openvino
    except ImportError:
        raise UnsupportedError(
            "OpenVINO is not installed", hint="pip install 'featherweight[openvino]'"
        ) from None
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}.get(precision, precision)
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    except Exception as error:
        raise UnsupportedError("OpenVINO refuses the graph", got=str(error)[:200]) from None
