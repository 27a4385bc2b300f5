"""How layers and windows of ONNX are said in LiteRT's operators; what it cannot say is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from featherweight.deploy.litert_file import Quantized, Tensor
from featherweight.deploy.litert_graph import LAST, Order, Stored, Translation, place
from featherweight.errors import UnsupportedError

Array = NDArray[Any]
Given = Mapping[str, Any]

SAME, VALID = 0, 1
FLAT = (0, 2, 1)  # channels last, of values of one axis of places
_BIAS = {"int8": "int32", "int16": "int64"}


def refused(node: NodeProto, what: str, got: Any) -> UnsupportedError:
    """Return the error that LiteRT does not have something, with the operator and what it asks for."""
    return UnsupportedError(f"LiteRT has no {what}", where=place(node), got=got)


# Layers


def conv(t: Translation, node: NodeProto, given: Given) -> None:
    """Convolution: CONV_2D, or DEPTHWISE_CONV_2D where a group reads one channel; over one axis, of height 1."""
    x, shape = node.input[0], t.shapes[node.input[0]]
    if len(shape) not in (3, 4):
        raise refused(node, "convolution of other than one or two places", list(shape))
    flat = len(shape) == 3
    group, weights = given.get("group", 1), t.known(node.input[1], node, "the weight")
    deep = group > 1 and weights.shape[1] == 1 and group == shape[1]
    order = (1, *range(2, len(shape)), 0) if deep else (0, *range(2, len(shape)), 1)
    given = _of_two(given) if flat else given
    strides, spread = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    activation, result = t.clamped(node)
    quantized, operands = _operands(t, node, result, order, order.index(0))
    tensor = t.activation(x, FLAT if flat else LAST, real=quantized is None)
    tensor = _high(t, tensor) if flat else tensor
    tensor, padding = _padded(t, tensor, given, ([1] if flat else []) + list(weights.shape[2:]), node)
    options = {
        "padding": padding, "strideH": strides[0], "strideW": strides[1], "dilationHFactor": spread[0],
        "dilationWFactor": spread[1], "fusedActivationFunction": activation,
    }  # fmt: skip
    if deep:
        options["depthMultiplier"] = weights.shape[0] // group
    kind, inputs = "DEPTHWISE_CONV_2D" if deep else "CONV_2D", [tensor, *operands]
    if not flat:
        t.write(kind, inputs, result, LAST, quantized, **options)
        return
    (n, channels, places), free = t.shapes[result], t.free.get(result, ())
    dtype = quantized.dtype if quantized else "float32"
    wide = tuple(axis + (axis == 1) for axis in (FLAT.index(k) for k in free))
    made = t.file.tensor(Tensor(f"{result}/high", (n, 1, places, channels), dtype, quantized, free=wide))
    t.file.add(kind, inputs, [made], **options)
    sizes = [-1 if axis in free else t.shapes[result][axis] for axis in FLAT]
    t.write("RESHAPE", [made, t.integers(sizes)], result, FLAT, quantized, newShape=sizes)


def _of_two(given: Given) -> Given:
    """Return the attributes of a window over one axis as of one over two, the first of which is 1."""
    pads = given.get("pads", [0, 0])
    more = {key: [1, *given[key]] for key in ("strides", "dilations") if key in given}
    return {**given, **more, "pads": [0, pads[0], 0, pads[1]]}


def _high(t: Translation, tensor: int) -> int:
    """Return a tensor `[n, places, channels]` as images of height 1."""
    key = ("high", tensor)
    if key not in t.reused:
        source = t.file.tensors[tensor]
        free = tuple(k + (k > 0) for k in source.free)
        shape = (source.shape[0], 1, *source.shape[1:])
        made = Tensor(f"{source.name}/high", shape, source.dtype, source.quantized, free=free)
        sizes = [-1 if k in free else n for k, n in enumerate(shape)]
        t.reused[key] = t.file.tensor(made)
        t.file.add("RESHAPE", [tensor, t.integers(sizes)], [t.reused[key]], newShape=sizes)
    return t.reused[key]


def transposed_conv(t: Translation, node: NodeProto, given: Given) -> None:
    """Transposed convolution without groups; what LiteRT does not cut off itself is sliced away."""
    shape = t.shapes[node.output[0]]
    spread, strides = given.get("dilations", [1, 1]), given.get("strides", [1, 1])
    pads, extra = given.get("pads", [0] * 4), given.get("output_padding", [0, 0])
    if len(shape) != 4 or given.get("group", 1) != 1 or {*spread} != {1} or any(extra):
        raise refused(node, "transposed convolution with groups, dilation or output padding", dict(given))
    if t.free.get(node.output[0]):
        hint = "its sizes are constants of the file: fix the batch, --size n0=1"
        raise UnsupportedError(
            "LiteRT has no transposed convolution of a free batch", where=place(node), hint=hint
        )
    result, order = node.output[0], (1, 2, 3, 0)
    quantized, operands = _operands(t, node, result, order, 0)
    full = [shape[2] + pads[0] + pads[2], shape[3] + pads[1] + pads[3]]
    tensor = t.activation(node.input[0], LAST, real=quantized is None)
    sizes, options = t.integers([shape[0], *full, shape[1]]), {"strideH": strides[0], "strideW": strides[1]}
    inputs = [sizes, operands[0], tensor, operands[1]]
    if not any(pads):
        t.write("TRANSPOSE_CONV", inputs, result, LAST, quantized, padding=VALID, **options)
        return
    dtype = quantized.dtype if quantized else "float32"
    whole = t.file.tensor(Tensor(f"{result}/whole", (shape[0], *full, shape[1]), dtype, quantized))
    t.file.add("TRANSPOSE_CONV", inputs, [whole], padding=VALID, **options)
    cut = [[0, pads[0], pads[1], 0], [shape[0], pads[0] + shape[2], pads[1] + shape[3], shape[1]], [1] * 4]
    t.write("STRIDED_SLICE", [whole, *map(t.integers, cut)], result, LAST, quantized)


def linear(t: Translation, node: NodeProto, given: Given) -> None:
    """Matrix product: FULLY_CONNECTED by stored weights, with the bias behind it; or of two activations."""
    x, rank = node.input[0], len(t.shapes[node.input[0]])
    weights = t.number(node.input[1])
    if given.get("transA") or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        raise refused(node, "product of scaled or transposed matrices", dict(given))
    if weights is None or weights.ndim != 2:
        if node.op_type == "Gemm":
            raise refused(node, "Gemm of computed weights", node.input[1])
        t.write("BATCH_MATMUL", [t.activation(name) for name in node.input], node.output[0])
        return
    order: Order = (0, 1) if given.get("transB") else (1, 0)
    behind = _bias_behind(t, node)
    activation, result = t.clamped(behind or node)
    quantized, operands = _operands(t, node, result, order, 0, behind)
    tensor = t.activation(x, real=quantized is None)
    t.write(
        "FULLY_CONNECTED", [tensor, *operands], result, None, quantized, keepNumDims=rank != 2,
        fusedActivationFunction=activation,
    )  # fmt: skip


def _bias_behind(t: Translation, node: NodeProto) -> NodeProto | None:
    """Return the Add of a stored vector that alone reads a MatMul; it is then part of it."""
    readers = t.graph.readers.get(node.output[0], [])
    if (
        node.op_type != "MatMul"
        or len(readers) != 1
        or readers[0].op_type != "Add"
        or node.output[0] in t.graph.outputs
    ):
        return None
    others = [t.number(name) for name in readers[0].input if name != node.output[0]]
    if len(others) != 1 or others[0] is None or others[0].shape != t.shapes[node.output[0]][-1:]:
        return None
    t.done.add(id(readers[0]))
    return readers[0]


def _operands(
    t: Translation, node: NodeProto, result: str, order: Order, axis: int, behind: NodeProto | None = None
) -> tuple[Quantized | None, list[int]]:
    """Return what a layer's result is quantized to, and its weight and bias in the file; None: it computes in float.

    Args:
        t: the translation.
        node: the layer.
        result: the value that it writes.
        order: of the axes of the weight in the file.
        axis: of the weight in the file, that its outputs are.
        behind: an Add that holds the bias.
    """
    read, target = t.quantized(node.input[0]), t.target(result)
    stored, name = t.constants[node.input[1]], node.input[1].removesuffix("/real")
    if len(order) == 3:  # a window over one axis is one of height 1
        order, axis = (order[0], 3, *order[1:]), axis + (axis > 0)
        stored = stored.high if isinstance(stored, Stored) else stored[..., None]
    source = behind if behind is not None else node
    names = [n for n in source.input if n != node.output[0]] if behind is not None else list(node.input[2:3])
    bias = t.constants.get(names[0]) if names and names[0] else None
    if names and names[0] and bias is None:
        raise refused(node, "layer whose bias is computed", names[0])
    integer = isinstance(stored, Stored) and stored.integers.dtype == np.int8 and not stored.zero.any()
    if read is None or target is None or not integer:
        if read is not None or integer:
            reason = "its weight is float" if not integer else "nothing quantizes what it writes"
            t.floats[node.name or result] = reason if read is not None else "nothing quantizes what it reads"
        if integer:
            assert isinstance(stored, Stored)
            moved = Stored(stored.integers.transpose(order), stored.scale, stored.zero, axis)
            weight = t.dequantized(moved, name)
        else:
            real = stored.numbers if isinstance(stored, Stored) else stored
            weight = t.file.constant(real.transpose(order), name)
        numbers = (
            t.number(names[0])
            if bias is not None
            else np.zeros(t.file.tensors[weight].shape[axis], np.float32)
        )
        return None, [weight, t.file.constant(numbers, f"{result}/bias")]
    assert isinstance(stored, Stored)
    scale = np.broadcast_to(stored.scale, (stored.integers.shape[order[axis]],))
    kept = Quantized("int8", tuple(scale.tolist()), 0, axis)
    weight = t.file.constant(stored.integers.transpose(order), name, kept)
    steps = scale * np.float32(read.scale[0])
    if isinstance(bias, Stored):
        integers = bias.integers.reshape(-1)
    else:
        integers = np.zeros(len(steps)) if bias is None else np.rint(bias.reshape(-1) / steps)
    dtype = _BIAS[read.dtype]
    told = Quantized(dtype, tuple(steps.tolist()), 0, 0)
    return target, [weight, t.file.constant(integers.astype(dtype), f"{result}/bias", told)]


# Windows


def _padded(
    t: Translation, tensor: int, given: Given, kernel: Any, node: NodeProto, fill: float = 0.0
) -> tuple[int, int]:
    """Return what a window slides over, and LiteRT's padding: SAME where that is what ONNX asks for, else a PAD before.

    Args:
        t: the translation.
        tensor: channels last.
        given: attributes of the operator.
        kernel: its window.
        node: the operator.
        fill: 0, or minus infinity.
    """
    auto, source = given.get("auto_pad", b"NOTSET"), t.file.tensors[tensor]
    strides, spread = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads = list(given.get("pads", [0] * 4))
    if auto == b"SAME_UPPER":
        return tensor, SAME
    if auto not in (b"NOTSET", b"VALID", b""):
        raise refused(node, "such padding", auto)
    if not any(pads):
        return tensor, VALID
    ends = []
    for n, k, s, d in zip(source.shape[1:3], kernel, strides, spread, strict=True):
        whole = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        ends.append((whole // 2, whole - whole // 2))
    if pads == [ends[0][0], ends[1][0], ends[0][1], ends[1][1]]:
        return tensor, SAME
    around = [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]]
    return _pad(t, tensor, around, fill), VALID


def _pad(t: Translation, tensor: int, around: list[list[int]], fill: float) -> int:
    """Return a tensor with numbers around it."""
    source, key = t.file.tensors[tensor], ("pad", tensor, str(around), fill)
    if key not in t.reused:
        shape = tuple(n + sum(ends) for n, ends in zip(source.shape, around, strict=True))
        made = t.file.tensor(
            Tensor(f"{source.name}/padded", shape, source.dtype, source.quantized, free=source.free)
        )
        inputs = [tensor, t.integers(around)]
        if fill:
            inputs.append(t.file.constant(held_as(fill, source), "fill", source.quantized))
        t.file.add("PADV2" if fill else "PAD", inputs, [made])
        t.reused[key] = made
    return t.reused[key]


def held_as(number: float, tensor: Tensor) -> Array:
    """Return a number as a tensor holds it: its nearest integer, or itself."""
    if tensor.quantized is None:
        return np.asarray(np.clip(number, np.finfo(np.float32).min, np.finfo(np.float32).max), tensor.dtype)
    ends = np.iinfo(tensor.dtype)
    with np.errstate(over="ignore"):
        steps = np.rint(np.float64(number) / tensor.quantized.scale[0]) + tensor.quantized.zero
    return np.asarray(np.clip(steps, ends.min, ends.max), tensor.dtype)


def _ends(before: tuple[int, ...], behind: tuple[int, ...], given: Given) -> list[int]:
    """Return the padding with which windows that end behind an input, as `ceil_mode` has them, are whole."""
    kernel, strides = given["kernel_shape"], given.get("strides", [1, 1])
    first = list(given.get("pads", [0] * 4))[:2]
    sizes = zip(before[2:], behind[2:], kernel, strides, first, strict=True)
    return [*first, *(max((m - 1) * s + k - n - start, 0) for n, m, k, s, start in sizes)]


def pool(t: Translation, node: NodeProto, given: Given, *, most: bool) -> None:
    """Pooling over windows. An average in other steps than its input's is a convolution by ones: one rounding."""
    x, result, kernel = node.input[0], node.output[0], given["kernel_shape"]
    strides, quantized, target = given.get("strides", [1, 1]), t.quantized(x), t.target(node.output[0])
    wide = dict(given)
    if given.get("ceil_mode") and len(t.shapes[x]) == 4:
        wide["pads"] = _ends(t.shapes[x], t.shapes[result], given)
    uneven = not most and wide.get("pads") != given.get("pads") and any(wide["pads"])
    if (
        len(t.shapes[x]) != 4
        or uneven
        or {*given.get("dilations", [1])} != {1}
        or sum(map(bool, node.output)) > 1
    ):
        raise refused(node, "such pooling", {key: given[key] for key in sorted(given)})
    integer = quantized is not None and (most or target is not None)
    tensor = t.activation(x, LAST, real=not integer)
    options = {
        "strideH": strides[0],
        "strideW": strides[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
    }
    if most:
        tensor, padding = _padded(t, tensor, wide, kernel, node, -np.inf)
        t.write("MAX_POOL_2D", [tensor], result, LAST, quantized, padding=padding, **options)
        return
    tensor, padding = _padded(t, tensor, given, kernel, node)
    if (padding == SAME or tensor != t.activation(x, LAST, real=not integer)) and any(given.get("pads", ())):
        counted = given.get("count_include_pad", 0)
        if bool(counted) == (padding == SAME):
            raise refused(
                node, "average with such padding", {"pads": given.get("pads"), "count_include_pad": counted}
            )
    if not integer or quantized == target:
        t.write(
            "AVERAGE_POOL_2D",
            [tensor],
            result,
            LAST,
            quantized if integer else None,
            padding=padding,
            **options,
        )
        return
    if padding == SAME:
        raise refused(node, "average in other steps with such padding", given.get("pads"))
    assert quantized is not None
    channels, step = t.shapes[x][1], float(np.float32(1) / np.float32(kernel[0] * kernel[1]))
    ones = Quantized("int8", (step,) * channels, 0, 3)
    weight = t.file.constant(np.ones((1, *kernel, channels), np.int8), f"{result}/ones", ones)
    dtype = _BIAS[quantized.dtype]
    zeros = Quantized(dtype, (float(np.float32(step) * np.float32(quantized.scale[0])),) * channels)
    bias = t.file.constant(np.zeros(channels, dtype), f"{result}/zeros", zeros)
    t.write(
        "DEPTHWISE_CONV_2D", [tensor, weight, bias], result, LAST, target, padding=padding, depthMultiplier=1,
        strideH=strides[0], strideW=strides[1],
    )  # fmt: skip
