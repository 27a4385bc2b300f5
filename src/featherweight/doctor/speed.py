"""Why is it not faster: what a runtime executes of a graph, against what was hoped for, and what to do."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence

import onnx
from onnx import NodeProto, TensorProto

from featherweight.doctor.kernels import Kernel, kernels
from featherweight.doctor.size import Finding
from featherweight.engines import openvino_model
from featherweight.errors import UnsupportedError
from featherweight.export import serialized
from featherweight.export.onnx_graph import OnnxGraph
from featherweight.runtime.backend import onnx_backend
from featherweight.runtime.saturation import PORTABLE, saturable

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
    "int4": (
        "their weights are INT4, which its CPU kernels do not multiply",
        "keep 4 bits in the .fw file and expand them to int8 for the session (export does)",
        "store them as INT8, or as MatMulNBits",
    ),
    "float activations": (
        "their weights are integers, their activations are not quantized",
        "add the step calibrate",
        _STATIC,
    ),
    "float weights": (
        "their activations are quantized, their weights are float",
        "encode the weights as int: codebooks, powers of two and textures decode to float here",
        "quantize them to INT8, a scale for each channel",
    ),
    "float": (
        "neither weights nor activations are integers",
        "integers: encode the weights as int (8 bits or fewer), then add the step calibrate",
        _STATIC,
    ),
    "clamp": (
        "a ReLU or Clip stands between layer and quantizer",
        *["let the quantizer's range end where the clamp does, and drop the clamp"] * 2,
    ),
    "fallback": (
        "although weights and activations are integers",
        *["look at what stands between the layer and the quantizer of its output"] * 2,
    ),
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
