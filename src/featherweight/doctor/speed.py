"""Why is it not faster: what a runtime executes of a graph, against what was hoped for, and what to do."""

from __future__ import annotations

import copy
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from featherweight.doctor.size import Finding
from featherweight.engines import onnxruntime_session, openvino_model, said
from featherweight.errors import UnsupportedError
from featherweight.export import serialized
from featherweight.export.onnx_graph import OnnxGraph, attributes
from featherweight.runtime.backend import onnx_backend
from featherweight.runtime.saturation import PORTABLE, saturable, with_own_weights

# Operators that hold weights, by the names that ONNX, ONNX Runtime and OpenVINO give them.
WEIGHTED = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv",
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger",
    "DynamicQuantizeMatMul", "MatMulNBits", "Convolution", "Deconvolution", "FullyConnected",
)  # fmt: skip
_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")
_PRECISIONS = {"u8": "int8", "i8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@dataclass(frozen=True)
class Kernel:
    """One operator as it is executed.

    Attributes:
        layer: names of the operators of the given graph that it stands for; the first is the layer's own.
        op: the runtime's name of it.
        precision: of its products: `int8`, `float32`, `bfloat16`, ...; `int4`: weights of 4 bits, activations float.
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
    known, made = {node.name: node for node in model.graph.node}, OnnxGraph(model).makers
    found = []
    for node in optimized.graph.node:
        op = node.op_type
        nbits = f"int{attributes(node).get('bits', 4)}" if op == "MatMulNBits" else ""
        precision = nbits or ("int8" if op.startswith(_INTEGER) else "float32")
        found.append(Kernel((_given(node, known, made),), op, precision))
    return found


def _given(node: NodeProto, known: Mapping[str, NodeProto], made: Mapping[str, NodeProto]) -> str:
    """Return the given name of a node that ONNX Runtime renamed: after its output, or with a prefix or suffix.

    A node of a new name is known by what it writes. A layer that does the work of what follows it too, of an
    activation for instance, has that one's name or writes that one's output.
    """
    name = re.sub(r"(_token_\d+|_nchwc)+$", "", node.name)
    given = known.get(name) or made.get(name) or made.get(node.output[0])
    while given is not None and node.op_type in WEIGHTED and given.op_type not in WEIGHTED:
        given = next((made[value] for value in given.input if value and value in made), None)
    return name if given is None else given.name


def _openvino(_: onnx.ModelProto, content: bytes, threads: int, __: bool) -> list[Kernel]:
    return executed_in_openvino(openvino_model(content, threads))


def executed_in_openvino(compiled: Any) -> list[Kernel]:
    """Return what a compiled model of OpenVINO executes, in order."""
    found = []
    for operator in compiled.get_runtime_model().get_ordered_ops():
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

INT4 = (TensorProto.INT4, TensorProto.UINT4)


def speed_findings(
    model: onnx.ModelProto, runtimes: Sequence[str], *, threads: int = 1, foreign: bool = False
) -> list[Finding]:
    """Return why a graph is not faster in these runtimes.

    Args:
        model: a complete ONNX graph, float or with QuantizeLinear and DequantizeLinear.
        runtimes: where it is to run.
        threads: of their sessions.
        foreign: whether the graph is of no recipe of ours: hints then name no steps.
    """
    graph = OnnxGraph(named(model))
    found = [*_gathers(graph), *_saturable(graph.model, runtimes, foreign)]
    for runtime in runtimes:
        try:
            executed = kernels(graph.model, runtime, threads=threads)
        except UnsupportedError as error:
            what = f"{onnx_backend(runtime).title} does not run it at all: {error.got}"
            hint = "write the graph for this runtime, or leave it out with --runtime"
            found.append(Finding("refused", "speed", ["graph"], what, hint))
            continue
        found += _floats(graph, runtime, executed, foreign)
        found += _signed(graph) if runtime == "onnxruntime" else []
        if runtime == "openvino":
            found += _preferred(graph.model, threads)
    return found


def _saturable(model: onnx.ModelProto, runtimes: Sequence[str], foreign: bool) -> Iterator[Finding]:
    """Layers whose 8-bit products saturate on x86 without VNNI: on this processor, or on others."""
    backends = [onnx_backend(runtime) for runtime in runtimes]
    affected = {used: where for used in backends if (where := saturable(model, used.operators))}
    if affected:
        here = any(used.saturates() for used in affected)
        where = next(iter(affected.values()))
        way = "quantize the weights to 7 bits" if foreign else PORTABLE
        place = "this processor, which has no VNNI" if here else "x86 without VNNI (this processor is not)"
        effect = {True: "add them in 32 bits, slower", False: "are refused"}
        effects = " and ".join(f"{used.title} {effect[used.widens]}" for used in affected)
        yield Finding(
            "saturates" if here else "not portable", "speed", where,
            f"8-bit products of {len(where)} layers can saturate on {place}: there sessions of {effects}",
            f"{way}; outside our sessions set session.x64quantprecision=1 in ONNX Runtime",
        )  # fmt: skip


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose nodes have names of their own: those of the activations that they write, if they have any."""
    made = copy.deepcopy(model)
    taken = Counter(node.name for node in made.graph.node)
    for number, node in enumerate(made.graph.node):
        if not node.name or taken[node.name] > 1:
            edge = node.output[0]
            node.name = f"{node.op_type}_{number}" if edge.isdigit() or edge in taken else edge
    return made


def _gathers(graph: OnnxGraph) -> Iterator[Finding]:
    """Activations that are gathered by flat indices: what an export from a strided example leaves behind."""
    flattened = {value for value, node in graph.makers.items() if node.op_type == "Reshape"}
    gathers = [n for n in graph.model.graph.node if n.op_type in ("Gather", "GatherND", "GatherElements")]
    if where := [node.name for node in gathers if node.input[0] in flattened]:
        yield Finding(
            "gather", "speed", where, "activations are flattened and gathered by computed indices",
            "the network was exported from a channels_last (strided) example: export from x.contiguous(); "
            "OpenVINO computes such a Gather wrongly among integers",
        )  # fmt: skip


def _floats(graph: OnnxGraph, runtime: str, executed: Sequence[Kernel], foreign: bool) -> Iterator[Finding]:
    """Layers with integers on both sides that are executed in float, by reason; and layers without integers."""
    integer = {name for kernel in executed if kernel.precision in ("int8", "int4") for name in kernel.layer}
    # OpenVINO and ONNX Runtime drop or rename a layer now and then: only one that is seen in float counts.
    seen = {name: kernel for kernel in executed for name in kernel.layer if kernel.weighted}
    reasons: dict[str, list[str]] = {}
    for layer in graph.layers:
        if layer.name in seen and layer.name not in integer:
            reasons.setdefault(_reason(graph, layer), []).append(layer.name)
    for reason, where in reasons.items():
        what, hint, elsewhere = _REASONS[reason]
        yield Finding(
            reason, "speed", where, f"{runtime} computes {len(where)} layers in float: {what}",
            elsewhere if foreign else hint,
        )  # fmt: skip


def _reason(graph: OnnxGraph, layer: NodeProto) -> str:
    weight, quantizer = graph.weight(layer), graph.quantizer_before(layer)
    if weight is not None and weight.data_type in INT4:
        return "int4"
    if weight is not None and weight.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return "float weights" if quantizer is not None else "float"
    if quantizer is None:
        return "float activations"
    return "clamp" if graph.clamp_after(layer) is not None else "fallback"


_STATIC = "quantize weights and activations with a calibration set (quantize_static of ONNX Runtime, NNCF)"
# By reason: what is the case, what to do about a file of ours, and what about another graph.
_REASONS = {
    "int4": ("their weights are INT4, which its CPU kernels do not multiply",
        "keep 4 bits in the .fw file and expand them to int8 for the session (export does)",
        "store them as INT8, or as MatMulNBits"),
    "float activations": ("their weights are integers, their activations are not quantized",
        "add the step calibrate", _STATIC),
    "float weights": ("their activations are quantized, their weights are float",
        "encode the weights as int: codebooks, powers of two and textures decode to float here",
        "quantize them to INT8, a scale for each channel"),
    "float": ("neither weights nor activations are integers",
        "integers: encode the weights as int (8 bits or fewer), then add the step calibrate",
        _STATIC),
    "clamp": ("a ReLU or Clip stands between layer and quantizer",
        *["let the quantizer's range end where the clamp does, and drop the clamp"] * 2),
    "fallback": ("although weights and activations are integers",
        *["look at what stands between the layer and the quantizer of its output"] * 2),
}  # fmt: skip


def _signed(graph: OnnxGraph) -> Iterator[Finding]:
    """Activations in S8: ONNX Runtime's fast kernels on x86 take U8."""
    quantizers = {layer.name: graph.quantizer_before(layer) for layer in graph.layers}
    where = [name for name, q in quantizers.items() if q is not None and graph.type_of(q) == TensorProto.INT8]
    if where:
        yield Finding(
            "signed activations", "speed", where,
            f"{len(where)} layers read signed activations (S8): onnxruntime has slow kernels for them, or none",
            "quantize activations as U8 with a zero point",
        )  # fmt: skip


def _preferred(model: onnx.ModelProto, threads: int) -> Iterator[Finding]:
    """OpenVINO's own choice of precision, which a float baseline inherits."""
    left_alone = openvino_model(serialized(model), threads, precision=None)
    chosen = str(left_alone.get_property("INFERENCE_PRECISION_HINT").to_string())
    if chosen in ("bf16", "f16"):
        yield Finding(
            "unpinned baseline", "measurement", [f"INFERENCE_PRECISION_HINT = {chosen}"],
            f"OpenVINO computes floats in {chosen} on this processor unless told otherwise",
            "pin INFERENCE_PRECISION_HINT to f32 for a float32 baseline (bench does); it is about half as fast",
        )  # fmt: skip
