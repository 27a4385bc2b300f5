"""How the other operators of ONNX are said in LiteRT's, and the table of all; what it cannot say is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto

from featherweight.deploy.litert_file import Tensor
from featherweight.deploy.litert_graph import LAST, Translation
from featherweight.deploy.litert_layers import Given, conv, held_as, linear, pool, refused, transposed_conv

_AROUND = {"constant": "PAD", "reflect": "MIRROR_PAD"}


def reduce(t: Translation, node: NodeProto, given: Given, *, kind: str) -> None:
    """Mean, sum or extremum over axes."""
    x, result = node.input[0], node.output[0]
    order, rank = t.edges[x].order, len(t.shapes[x])
    if node.op_type.startswith("Global"):
        axes, keep = list(range(2, rank)), True
    else:
        named = [*node.input, ""][1]
        axes = t.known(named, node, "the axes").tolist() if named else list(given.get("axes", range(rank)))
        keep = bool(given.get("keepdims", 1))
    axes = sorted(axis % rank for axis in axes)
    target = t.target(result) if kind == "MEAN" else t.quantized(x) if kind == "REDUCE_MAX" else None
    quantized = target if t.quantized(x) is not None else None
    tensor = t.activation(x, order, real=quantized is None)
    left = order if keep else tuple(axis for axis in order if axis not in axes)
    left = left if keep else tuple(sorted(left).index(axis) for axis in left)
    places = t.integers(sorted(order.index(axis) for axis in axes))
    t.write(kind, [tensor, places], result, left, quantized, keepDims=keep)


# Elementwise


def binary(t: Translation, node: NodeProto, given: Given, *, kind: str, integer: bool = False) -> None:
    """Two operands, broadcast; in integers where both and the result are."""
    ranks = [len(t.shapes[name]) for name in node.input]
    held = [name for name in node.input if name not in t.constants]
    result, rank = node.output[0], max(ranks)
    order = next((t.edges[name].order for name in held if len(t.shapes[name]) == rank), None)
    if any(len(t.shapes[name]) != rank for name in held):
        order = None  # trailing axes are broadcast in their own order
    activation, written = t.clamped(node) if kind in ("ADD", "SUB", "MUL", "DIV") else (0, result)
    target = t.target(written) if integer and len(held) == 2 else None
    exact = target is not None and all(t.quantized(name) is not None for name in node.input)
    inputs = []
    for name in node.input:
        wanted = order if name in t.constants or len(t.shapes[name]) == rank else None
        if name in t.constants and wanted is None:
            wanted = tuple(range(len(t.shapes[name])))
        inputs.append(t.activation(name, wanted, real=not exact))
    options: dict[str, Any] = (
        {"fusedActivationFunction": activation} if kind in ("ADD", "SUB", "MUL", "DIV") else {}
    )
    if kind in ("ADD", "SUB"):
        options["potScaleInt16"] = False
    t.write(kind, inputs, written, order, target if exact else None, **options)


def unary(t: Translation, node: NodeProto, given: Given, *, kind: str, **options: Any) -> None:
    """One operand, in float, whatever its axes' order."""
    order = t.edges[node.input[0]].order
    t.write(kind, [t.activation(node.input[0], order)], node.output[0], order, None, **options)


def leaky(t: Translation, node: NodeProto, given: Given) -> None:
    """ReLU with a slope below 0."""
    unary(t, node, given, kind="LEAKY_RELU", alpha=given.get("alpha", 0.01))


def gelu(t: Translation, node: NodeProto, given: Given) -> None:
    """GELU, exact or by tanh."""
    unary(t, node, given, kind="GELU", approximate=given.get("approximate", b"none") == b"tanh")


def clamp(t: Translation, node: NodeProto, given: Given) -> None:
    """ReLU or Clip that is part of no other operator; integers between two equal quantizers are compared as such."""
    x, ends, (order, quantized) = (
        node.input[0],
        t.ends(node),
        (t.edges[node.input[0]].order, t.quantized(node.input[0])),
    )
    if ends is None:
        raise refused(node, "clamp to computed ends", list(node.input))
    exact = quantized is not None and t.target(node.output[0]) == quantized
    tensor, quantized = t.activation(x, order, real=not exact), quantized if exact else None
    source = t.file.tensors[tensor]
    if ends == (0.0, np.inf):
        t.write("RELU", [tensor], node.output[0], order, quantized)
        return
    bounds = [(kind, end) for kind, end in zip(("MAXIMUM", "MINIMUM"), ends, strict=True) if np.isfinite(end)]
    for number, (kind, end) in enumerate(bounds):
        bound = t.file.constant(held_as(end, source), f"{end}", source.quantized)
        if number + 1 < len(bounds):
            made = t.room(node.output[0], order, quantized)
            t.file.add(kind, [tensor, bound], [made])
            tensor = made
        else:
            t.write(kind, [tensor, bound], node.output[0], order, quantized)


def hard_sigmoid(t: Translation, node: NodeProto, given: Given) -> None:
    """`max(0, min(1, alpha x + beta))`."""
    order, result = t.edges[node.input[0]].order, node.output[0]
    slope, shift = (
        t.file.constant(np.float32(given.get(k, n)), k) for k, n in (("alpha", 0.2), ("beta", 0.5))
    )
    steps = [t.room(result, order) for _ in range(3)]
    t.file.add("MUL", [t.activation(node.input[0], order), slope], steps[:1])
    t.file.add("ADD", [steps[0], shift], steps[1:2], potScaleInt16=False)
    t.file.add("MAXIMUM", [steps[1], t.file.constant(np.float32(0), "0")], steps[2:])
    t.write("MINIMUM", [steps[2], t.file.constant(np.float32(1), "1")], result, order)


def batch_norm(t: Translation, node: NodeProto, given: Given) -> None:
    """A batch norm that was not folded: a product and a sum, a channel each."""
    scale, bias, mean, var = (
        t.known(name, node, "a parameter").astype(np.float64) for name in node.input[1:5]
    )
    order, result = t.edges[node.input[0]].order, node.output[0]
    slope = scale / np.sqrt(var + given.get("epsilon", 1e-5))
    shape = [-1 if axis == 1 else 1 for axis in order]
    product = t.room(result, order)
    factors = t.file.constant(slope.astype(np.float32).reshape(shape), f"{result}/slope")
    t.file.add("MUL", [t.activation(node.input[0], order), factors], [product])
    activation, written = t.clamped(node)
    shift = t.file.constant((bias - mean * slope).astype(np.float32).reshape(shape), f"{result}/shift")
    t.write(
        "ADD", [product, shift], written, order, None, fusedActivationFunction=activation, potScaleInt16=False
    )


def softmax(t: Translation, node: NodeProto, given: Given, *, kind: str, **options: Any) -> None:
    """Softmax over one axis, which LiteRT wants last."""
    rank = len(t.shapes[node.input[0]])
    axis = given.get("axis", -1) % rank
    order = (*(k for k in range(rank) if k != axis), axis)
    t.write(kind, [t.activation(node.input[0], order)], node.output[0], order, None, **options)


def cast(t: Translation, node: NodeProto, given: Given) -> None:
    """Another type."""
    unary(t, node, given, kind="CAST")


# What moves numbers


def reshape(t: Translation, node: NodeProto, given: Given) -> None:
    """Another shape of the same numbers, in the order of ONNX."""
    result = node.output[0]
    shape, free = t.shapes[result], t.free.get(result, ())
    if len(free) > 1:
        raise refused(node, "reshape with two free axes", list(shape))
    sizes = [-1 if k in free else n for k, n in enumerate(shape)]
    t.write(
        "RESHAPE",
        [t.linear(node.input[0]), t.integers(sizes)],
        result,
        None,
        t.quantized(node.input[0]),
        newShape=sizes,
    )


def transpose(t: Translation, node: NodeProto, given: Given) -> None:
    """Another order of axes: nothing moves before someone reads it in an order of his own."""
    edge = t.edges[node.input[0]]
    moved = list(given.get("perm", range(len(edge.order))[::-1]))
    t.edges[node.output[0]] = type(edge)(
        edge.tensor, tuple(moved.index(axis) for axis in edge.order), edge.quantized
    )


def concat(t: Translation, node: NodeProto, given: Given) -> None:
    """Concatenation; integers are brought to the steps of the result first."""
    result, rank = node.output[0], len(t.shapes[node.output[0]])
    held = [name for name in node.input if name not in t.constants]
    order, target = t.edges[held[0]].order, t.target(result)
    exact = target is not None and len(held) == len(node.input) and None not in [t.quantized(n) for n in held]
    inputs = [t.activation(name, order, real=not exact) for name in node.input]
    if exact:
        assert target is not None
        inputs = [t.requantized(tensor, target) for tensor in inputs]
    t.write(
        "CONCATENATION",
        inputs,
        result,
        order,
        target if exact else None,
        axis=order.index(given["axis"] % rank),
    )


def pad(t: Translation, node: NodeProto, given: Given) -> None:
    """Padding by a constant, or by reflection."""
    x, result, order = node.input[0], node.output[0], t.edges[node.input[0]].order
    names, mode = [*node.input, "", "", ""][1:4], given.get("mode", b"constant").decode()
    rank, edge = len(order), t.edges[x]
    if mode not in _AROUND:
        raise refused(node, f"padding of mode {mode}", mode)
    amounts = t.known(names[0], node, "the amount").reshape(2, -1).tolist()
    axes = t.known(names[2], node, "the axes").tolist() if names[2] else range(rank)
    around = {axis % rank: ends for axis, ends in zip(axes, zip(*amounts, strict=True), strict=True)}
    if min(map(min, amounts)) < 0:
        raise refused(node, "negative padding", amounts)
    ends = t.integers([around.get(axis, (0, 0)) for axis in order])
    fill = t.known(names[1], node, "the value").reshape(()) if names[1] else np.float32(0)
    if fill.dtype.kind in "iu" and edge.quantized is not None:  # padded by the integer that stands for 0
        fill = np.float32(0)
    if mode == "reflect":
        t.write("MIRROR_PAD", [edge.tensor, ends], result, order, edge.quantized, mode=0)
    elif not fill:
        t.write("PAD", [edge.tensor, ends], result, order, edge.quantized)
    else:
        held = t.file.constant(held_as(float(fill), t.file.tensors[edge.tensor]), "fill", edge.quantized)
        t.write("PADV2", [edge.tensor, ends, held], result, order, edge.quantized)


def cut(t: Translation, node: NodeProto, given: Given) -> None:
    """Slice: from, to and by constants."""
    x, rank = node.input[0], len(t.shapes[node.input[0]])
    starts, ends, *more = (
        t.known(name, node, "an end").reshape(-1).tolist() for name in node.input[1:] if name
    )
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    if min(steps) < 1:
        raise refused(node, "slice of negative step", steps)
    _slice(
        t,
        x,
        node.output[0],
        {axis % rank: part for axis, *part in zip(axes, starts, ends, steps, strict=True)},
    )


def split(t: Translation, node: NodeProto, given: Given) -> None:
    """Slices of one axis."""
    axis, first = given.get("axis", 0) % len(t.shapes[node.input[0]]), 0
    for result in node.output:
        size = t.shapes[result][axis]
        _slice(t, node.input[0], result, {axis: [first, first + size, 1]})
        first += size


def _slice(t: Translation, value: str, result: str, parts: Mapping[int, Any]) -> None:
    edge, shape = t.edges[value], t.shapes[value]
    begin, end, step, whole = [], [], [], 0
    for k, axis in enumerate(edge.order):
        first, last, by = parts.get(axis, (0, shape[axis], 1))
        n = shape[axis]
        begin.append(min(first + n if first < 0 else first, n))
        end.append(min(max(last + n if last < 0 else last, 0), n))
        step.append(by)
        whole |= (axis not in parts) << k
    t.write(
        "STRIDED_SLICE", [edge.tensor, *map(t.integers, (begin, end, step))], result, edge.order, edge.quantized,
        endMask=whole,
    )  # fmt: skip


def gather(t: Translation, node: NodeProto, given: Given) -> None:
    """Rows of a table, or of an activation."""
    table, rank = node.input[0], len(t.shapes[node.input[0]])
    quantized = t.quantized(table)
    source = t.activation(table, real=quantized is None)
    indices = t.number(node.input[1])
    if indices is not None and np.any(indices < 0):
        indices = np.where(indices < 0, indices + t.shapes[table][given.get("axis", 0)], indices)
    places = t.activation(node.input[1]) if indices is None else t.integers(indices)
    t.write("GATHER", [source, places], node.output[0], None, quantized, axis=given.get("axis", 0) % rank)


def resize(t: Translation, node: NodeProto, given: Given) -> None:
    """Resizing of places, nearest or bilinear."""
    x, shape, way = (
        node.input[0],
        t.shapes[node.output[0]],
        given.get("coordinate_transformation_mode", b"half_pixel"),
    )
    mode, nearest = given.get("mode", b"nearest"), given.get("nearest_mode", b"round_prefer_floor")
    kinds = {b"nearest": "RESIZE_NEAREST_NEIGHBOR", b"linear": "RESIZE_BILINEAR"}
    ways = {
        b"half_pixel": (False, True),
        b"pytorch_half_pixel": (False, True),
        b"align_corners": (True, False),
        b"asymmetric": (False, False),
    }
    if (
        len(shape) != 4
        or mode not in kinds
        or way not in ways
        or (mode == b"nearest" and way == b"asymmetric" and nearest != b"floor")
    ):
        raise refused(node, "such resizing", {"mode": mode, "coordinates": way, "nearest": nearest})
    corners, half = ways[way]
    quantized = t.quantized(x) if mode == b"nearest" else None
    tensor = t.activation(x, LAST, real=quantized is None)
    t.write(
        kinds[mode], [tensor, t.integers(shape[2:])], node.output[0], LAST, quantized, alignCorners=corners,
        halfPixelCenters=half,
    )  # fmt: skip


def depth_to_space(t: Translation, node: NodeProto, given: Given) -> None:
    """Channels to places; where ONNX counts channels first, they are put in LiteRT's order before."""
    x, block, quantized = node.input[0], given["blocksize"], t.quantized(node.input[0])
    tensor = t.activation(x, LAST, real=quantized is None)
    if given.get("mode", b"DCR") == b"CRD":
        source = t.file.tensors[tensor]
        channels = np.arange(source.shape[3]).reshape(-1, block * block).T.reshape(-1)
        made = t.file.tensor(
            Tensor(f"{x}/reordered", source.shape, source.dtype, quantized, free=source.free)
        )
        t.file.add("GATHER", [tensor, t.integers(channels)], [made], axis=3)
        tensor = made
    t.write("DEPTH_TO_SPACE", [tensor], node.output[0], LAST, quantized, blockSize=block)


def expand(t: Translation, node: NodeProto, given: Given) -> None:
    """Repetition along axes of 1: BROADCAST_TO, to sizes that are constants."""
    if t.free.get(node.output[0]):
        raise refused(node, "repetition to a free batch", node.output[0])
    shape = t.integers(t.shapes[node.output[0]])
    t.write("BROADCAST_TO", [t.activation(node.input[0]), shape], node.output[0])


def reciprocal(t: Translation, node: NodeProto, given: Given) -> None:
    """One over it."""
    order = t.edges[node.input[0]].order
    one = t.file.constant(np.float32(1), "1")
    t.write("DIV", [one, t.activation(node.input[0], order)], node.output[0], order)


def where(t: Translation, node: NodeProto, given: Given) -> None:
    """A choice, number by number: SELECT_V2, in the order of ONNX."""
    t.write("SELECT_V2", [t.activation(name) for name in node.input], node.output[0])


OPERATORS: dict[str, Callable[[Translation, NodeProto, Given], None]] = {
    "Conv": conv, "ConvTranspose": transposed_conv, "Gemm": linear, "MatMul": linear,
    "MaxPool": partial(pool, most=True), "AveragePool": partial(pool, most=False),
    "GlobalAveragePool": partial(reduce, kind="MEAN"), "ReduceMean": partial(reduce, kind="MEAN"),
    "GlobalMaxPool": partial(reduce, kind="REDUCE_MAX"), "ReduceMax": partial(reduce, kind="REDUCE_MAX"),
    "ReduceSum": partial(reduce, kind="SUM"),
    "Add": partial(binary, kind="ADD", integer=True), "Mul": partial(binary, kind="MUL", integer=True),
    "Sub": partial(binary, kind="SUB", integer=True), "Div": partial(binary, kind="DIV"),
    "Pow": partial(binary, kind="POW"), "Min": partial(binary, kind="MINIMUM"), "Max": partial(binary, kind="MAXIMUM"),
    "Less": partial(binary, kind="LESS"), "Greater": partial(binary, kind="GREATER"),
    "Equal": partial(binary, kind="EQUAL"), "Where": where, "Expand": expand, "Reciprocal": reciprocal,
    "Log": partial(unary, kind="LOG"), "Floor": partial(unary, kind="FLOOR"), "Ceil": partial(unary, kind="CEIL"),
    "Sin": partial(unary, kind="SIN"), "Cos": partial(unary, kind="COS"), "Not": partial(unary, kind="LOGICAL_NOT"),
    "ReduceMin": partial(reduce, kind="REDUCE_MIN"),
    "Relu": clamp, "Clip": clamp, "LeakyRelu": leaky, "Gelu": gelu, "HardSigmoid": hard_sigmoid,
    "PRelu": partial(binary, kind="PRELU"), "Elu": partial(unary, kind="ELU"),
    "Sigmoid": partial(unary, kind="LOGISTIC"), "Tanh": partial(unary, kind="TANH"),
    "HardSwish": partial(unary, kind="HARD_SWISH"), "Exp": partial(unary, kind="EXP"),
    "Sqrt": partial(unary, kind="SQRT"), "Abs": partial(unary, kind="ABS"), "Neg": partial(unary, kind="NEG"),
    "Cast": cast, "BatchNormalization": batch_norm,
    "Softmax": partial(softmax, kind="SOFTMAX", beta=1.0), "LogSoftmax": partial(softmax, kind="LOG_SOFTMAX"),
    "Reshape": reshape, "Flatten": reshape, "Squeeze": reshape, "Unsqueeze": reshape, "Transpose": transpose,
    "Concat": concat, "Pad": pad, "Slice": cut, "Split": split, "Gather": gather, "Resize": resize,
    "DepthToSpace": depth_to_space,
}  # fmt: skip
