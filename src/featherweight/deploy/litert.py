"""LiteRT files (`.tflite`) from ONNX graphs, float or in integers: the same integers, scales and zero points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from featherweight.deploy.litert_file import LitertFile
from featherweight.deploy.litert_graph import LAST, Edge, Order, Stored, Translation, Values, observed, place
from featherweight.deploy.litert_operators import OPERATORS
from featherweight.errors import UnsupportedError
from featherweight.export.float_graph import rewriting
from featherweight.export.onnx_graph import OnnxGraph, attributes

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Litert:
    """A LiteRT graph.

    Attributes:
        file: its tensors and operators.
        inputs: their names, and how their axes lie: axis k of the tensor is axis `order[k]` of the value.
        outputs: the same of outputs.
        named: by tensor, the integers of activations that it holds, and how their axes lie.
        floats: layers that compute in float between integers, with the reason.
    """

    file: LitertFile
    inputs: Sequence[tuple[str, Order]]
    outputs: Sequence[tuple[str, Order]]
    named: Mapping[int, tuple[str, Order]]
    floats: Mapping[str, str]


@rewriting("for LiteRT")
def build_litert(
    model: onnx.ModelProto, sizes: Mapping[str, int] | None = None, *, integers: bool = False
) -> Litert:
    """Return an ONNX graph as a LiteRT graph.

    Inputs and outputs of four axes are channels last, `[n, h, w, c]`, as LiteRT users expect; types and names are the
    caller's. The first axis of an input stays free where it was.

    Args:
        model: a complete graph, float or with QuantizeLinear and DequantizeLinear.
        sizes: of free axes by name, which are then fixed.
        integers: whether inputs and outputs are integers too, and all between.

    Raises:
        UnsupportedError: an operator, a shape or a quantizer that LiteRT does not have; names the operator. Or
            something computes in float where it is to be in `integers`; names it.
    """
    one, more = observed(model, sizes or {})
    free = {name: _moving(array.shape, more[name].shape) for name, array in one.items()}
    t = Translation(
        OnnxGraph(model), {name: array.shape for name, array in one.items()},
        {name: axes for name, axes in free.items() if axes}, {name: str(a.dtype) for name, a in one.items()},
    )  # fmt: skip
    t.shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    t.constants |= {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in t.constants:
            order, held = order_of(t, value.name), t.target(value.name) if integers else None
            t.edges[value.name] = Edge(t.room(value.name, order, held), order, held)
            t.file.inputs.append(t.edges[value.name].tensor)
    for node in model.graph.node:
        if not _of_sizes(t, node, one, more) and id(node) not in t.done:
            _node(t, node)
    for value in model.graph.output:
        order = order_of(t, value.name)
        number = t.activation(value.name, order, real=not integers)
        t.file.outputs.append(number)
        t.file.names[number] = value.name
    if integers:
        _check_integers(t)
    given = [value.name for value in model.graph.input if value.name in t.edges]
    inputs, outputs = (
        [(name, order_of(t, name)) for name in names]
        for names in (given, [value.name for value in model.graph.output])
    )
    return Litert(t.file, inputs, outputs, t.named, t.floats)


def _check_integers(t: Translation) -> None:
    """Refuse a file that holds floats; names what computes in them, or that an input or output has no quantizer."""
    found: dict[str, None] = {}
    for operator in t.file.operators:
        held = [t.file.tensors[n] for n in (*operator.inputs, *operator.outputs) if n >= 0]
        if any(tensor.dtype == "float32" for tensor in held):
            found[f"{operator.kind} {t.file.tensors[operator.outputs[0]].name}"] = None
    if found:
        computing = [name for name in found if not name.startswith(("QUANTIZE ", "DEQUANTIZE "))]
        reasons = [f"{layer}: {reason}" for layer, reason in t.floats.items()]
        hint = "calibrate with outputs = true, return scores before their softmax, or export litert-int8"
        raise UnsupportedError(
            "not all of it computes in integers",
            where=[*computing, *found][0],
            got="; ".join(reasons),
            hint=hint,
        )


def order_of(t: Translation, value: str) -> tuple[int, ...]:
    """Return how the axes of an input or output lie."""
    rank = len(t.shapes[value])
    return LAST if rank == 4 else tuple(range(rank))


def _node(t: Translation, node: NodeProto) -> None:
    given = attributes(node)
    if node.op_type == "Constant":
        t.constants[node.output[0]] = numpy_helper.to_array(given["value"])
    elif node.op_type == "DequantizeLinear" and isinstance(t.constants.get(node.input[0]), np.ndarray):
        integers, (scale, zero) = (
            t.number(node.input[0]),
            [t.number(name) for name in (*node.input[1:], "")][:2],
        )
        assert integers is not None and scale is not None
        zero = np.zeros(1, integers.dtype) if zero is None else zero
        t.constants[node.output[0]] = Stored(
            integers, scale.reshape(-1), zero.reshape(-1), given.get("axis", 1)
        )
    elif node.op_type == "QuantizeLinear":
        _quantize(t, node)
    elif node.op_type in ("DequantizeLinear", "Identity", "Dropout"):
        if node.input[0] in t.constants:
            t.constants[node.output[0]] = t.constants[node.input[0]]
        else:
            t.edges[node.output[0]] = t.edges[node.input[0]]
    elif node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise UnsupportedError(
            "not an operator that the LiteRT export knows", where=place(node), got=node.op_type
        )
    else:
        OPERATORS[node.op_type](t, node, given)


def _quantize(t: Translation, node: NodeProto) -> None:
    """Let the integers of a value be read; write them, unless what made the value wrote them already."""
    source, quantized, result = t.edges[node.input[0]], t.quantizer(node), node.output[0]
    tensor = t.requantized(source.tensor, quantized)
    t.edges[result] = Edge(tensor, source.order, quantized)
    t.named.setdefault(tensor, (result, source.order))


def _of_sizes(t: Translation, node: NodeProto, one: Values, more: Values) -> bool:
    """Note what is computed of constants and shapes alone: constants, unless they depend on the batch."""
    read = [name for name in node.input if name]
    rounding = node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant")
    if (
        rounding
        or node.op_type.startswith("Random")
        or not (
            node.op_type in ("Shape", "Size")
            or (read and all(name in t.constants or name in t.batched for name in read))
        )
    ):
        return False
    for name in filter(None, node.output):
        a, b = one[name], more[name]
        if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            t.constants[name] = a
        else:
            t.batched.add(name)
    return True


def _moving(one: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, (n, m) in enumerate(zip(one, more, strict=True)) if n != m)
