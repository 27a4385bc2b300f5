"""Nodes of an ONNX graph that together are one layer, put together: a bias, a scale, a norm, an activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from featherweight.capture.onnx.heads import without_heads

Array = NDArray[Any]


def normalise(model: ir.Model, notes: list[str]) -> None:
    """Put together, in place, what is one layer.

    Args:
        model: flat, its constants folded.
        notes: get a line on what changed the weights.
    """
    scaled = 0
    for rewrites in _ROUNDS:
        for node in list(model.graph.all_nodes()):
            if node.graph is not None and node.domain in ("", "ai.onnx"):
                for rewrite in rewrites.get(node.op_type, ()):
                    if rewrite(node):
                        scaled += rewrite is _scale
                        break
    common.RemoveUnusedNodesPass()(model)
    if scaled:
        notes.append(f"{scaled} factors on channels are part of the layers before them")


# What the nodes are asked.


def _const(value: ir.Value | None) -> Array | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _scalar(value: ir.Value | None) -> float | None:
    array = _const(value)
    return (
        float(array.reshape(()))
        if array is not None and array.size == 1 and array.dtype.kind == "f"
        else None
    )


def _near(value: ir.Value | None, number: float) -> bool:
    found = _scalar(value)
    return found is not None and abs(found - number) <= 1e-4 * abs(number)


def _alone(value: ir.Value) -> bool:
    """Return whether one node reads a value, and nothing else."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _by(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """Return the node that writes a value, if it is of such an operator."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in ops and node.domain in ("", "ai.onnx") else None


def _split(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return what a node of two inputs computes from, and the constant that it does it with."""
    a, b = node.inputs[:2]
    if a is None or b is None or (_const(a) is None) == (_const(b) is None):
        return None
    return (b, a) if _const(a) is not None else (a, b)


def _factors(value: ir.Value | None, inner: bool = False) -> tuple[float, list[ir.Value]]:
    """Return the number and the values whose product a value is; what others read too is not taken apart."""
    node = _by(value, "Mul", "Div")
    if value is None or node is None or (inner and not _alone(value)):
        number = _scalar(value)
        return (1.0, [value] if value is not None else []) if number is None else (number, [])
    a, b = node.inputs[:2]
    if node.op_type == "Div":
        divisor = _scalar(b)
        if divisor is None:
            return 1.0, [value]
        number, values = _factors(a, True)
        return number / divisor, values
    left, right = _factors(a, True), _factors(b, True)
    return left[0] * right[0], [*left[1], *right[1]]


def _multiple(value: ir.Value | None, of: ir.Value) -> float | None:
    """Return by what `value` is a multiple of another one, if it is."""
    if value is of:
        return 1.0
    number, values = _factors(value)
    return number if len(values) == 1 and values[0] is of else None


def _plus(value: ir.Value | None, number: float) -> ir.Value | None:
    """Return what `number` was added to."""
    node = _by(value, "Add")
    parts = _split(node) if node is not None else None
    return parts[0] if parts and _near(parts[1], number) else None


# What the nodes are changed to.


def _put(
    node: ir.Node, op: str, inputs: list[ir.Value | None], attributes: Mapping[str, Any] | None = None
) -> bool:
    """Put another node into the place of one."""
    old = node.outputs[0]
    made = ir.Value(name=old.name, type=old.type, shape=old.shape)
    new = ir.node(op, inputs, attributes or {}, outputs=[made], name=node.name)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [new], [old], [made])
    return True


def _stored(like: ir.Value, array: Array, suffix: str) -> ir.Value:
    """Return a constant of its own, named after another."""
    name = f"{like.name}{suffix}"
    value = ir.Value(name=name, type=like.type, shape=ir.Shape(array.shape))
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
    return value


def _layer(value: ir.Value) -> tuple[ir.Node, int, int, bool] | None:
    """Return the layer that writes a value alone: its output channels, their axis from the end, MatMul or not."""
    node = _by(value, "Conv", "ConvTranspose", "MatMul", "Gemm")
    weight = _const(node.inputs[1]) if node is not None and len(node.inputs) > 1 else None
    if node is None or weight is None or weight.dtype.kind != "f" or not _alone(value):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and _const(node.inputs[2]) is None:
        return None
    if node.op_type == "Gemm":
        options = node.attributes
        plain = all(
            name not in options or options[name].value in (0, 1.0) for name in ("transA", "alpha", "beta")
        )
        rows = 0 if "transB" in options and options["transB"].value else 1
        return (node, weight.shape[rows], 1, False) if plain else None
    if node.op_type == "MatMul":
        return (node, weight.shape[1], 1, True) if weight.ndim == 2 else None
    if node.op_type == "ConvTranspose":
        group = node.attributes["group"].value if "group" in node.attributes else 1
        return node, weight.shape[1] * group, weight.ndim - 1, False
    return node, weight.shape[0], weight.ndim - 1, False


def _per_channel(value: ir.Value, array: Array, channels: int, place: int) -> Array | None:
    """Return a constant as a vector over the channels, if it is one beside what `value` is."""
    axes = len(value.shape) if value.shape is not None else place + 1 if place > 1 else 1
    if array.ndim > axes or array.dtype.kind != "f":
        return None
    if array.size == 1:
        return np.full(channels, array.reshape(()))
    shape = (*[1] * (axes - array.ndim), *array.shape)
    rest = prod_without(shape, axes - place)
    return array.reshape(-1) if shape[axes - place] == channels and rest == 1 else None


def prod_without(shape: tuple[int, ...], axis: int) -> int:
    """Return the product of all sizes but one."""
    return math.prod(n for place, n in enumerate(shape) if place != axis)


def _bias(node: ir.Node) -> bool:
    """A constant that is added to the channels of a layer is its bias."""
    parts = _split(node)
    found = _layer(parts[0]) if parts else None
    if parts is None or found is None:
        return False
    layer, channels, place, _ = found
    array = _const(parts[1])
    assert array is not None
    row = _per_channel(parts[0], array, channels, place)
    if row is None:
        return False
    old = _const(layer.inputs[2]) if len(layer.inputs) > 2 else None
    if old is not None:
        if old.size != channels:
            return False
        row = old.reshape(-1) + row
    bias = _stored(parts[1], row, "/bias")
    return _again(node, layer, [layer.inputs[0], layer.inputs[1], bias])


def _again(node: ir.Node, layer: ir.Node, inputs: list[ir.Value | None]) -> bool:
    """Put a layer with other tensors into the place of what followed it."""
    options = {name: attribute.value for name, attribute in layer.attributes.items()}
    old = node.outputs[0]
    made = ir.Value(name=old.name, type=old.type, shape=old.shape)
    new = ir.node(layer.op_type, inputs, options, outputs=[made], name=layer.name)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [new], [old], [made])
    layer.graph.remove(layer, safe=True)
    return True


def _scale(node: ir.Node) -> bool:
    """A constant that the channels of a layer are multiplied by is part of its weight."""
    parts = _split(node)
    found = _layer(parts[0]) if parts else None
    if parts is None or found is None or (node.op_type == "Div" and parts[1] is not node.inputs[1]):
        return False
    layer, channels, place, product = found
    array, weight = _const(parts[1]), layer.inputs[1]
    assert array is not None and weight is not None
    row = _per_channel(parts[0], array, channels, place)
    if row is None or len(weight.uses()) > 1 or layer.op_type in ("Gemm", "ConvTranspose"):
        return False
    row = 1 / row if node.op_type == "Div" else row
    numbers = _const(weight)
    assert numbers is not None
    factors = row if product else row.reshape(-1, *[1] * (numbers.ndim - 1))
    inputs: list[ir.Value | None] = [layer.inputs[0], _stored(weight, numbers * factors, "")]
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        old = _const(layer.inputs[2])
        assert old is not None
        inputs.append(_stored(layer.inputs[2], old * row, "/scaled"))
    return _again(node, layer, inputs)


# Activations.


def _clipped(value: ir.Value | None) -> ir.Value | None:
    """Return x where a value is `clip(x + 3, 0, 6)`."""
    node = _by(value, "Clip")
    if node is None:
        return None
    low, high = (
        _scalar(node.inputs[place])
        if len(node.inputs) > place
        else getattr(node.attributes.get(name), "value", None)
        for place, name in ((1, "min"), (2, "max"))
    )
    return _plus(node.inputs[0], 3.0) if (low, high) == (0.0, 6.0) else None


_SIXTH = {"alpha": 1 / 6, "beta": 0.5}


def _hard_sigmoid(node: ir.Node) -> bool:
    """`clip(x + 3, 0, 6) / 6`."""
    number, values = _factors(node.outputs[0])
    if len(values) != 1 or abs(6 * number - 1) > 1e-4:
        return False
    x = _clipped(values[0])
    return x is not None and _put(node, "HardSigmoid", [x], _SIXTH)


def _hard_swish(node: ir.Node) -> bool:
    """`x * clip(x + 3, 0, 6) / 6`, or `x * hardsigmoid(x)`."""
    number, values = _factors(node.outputs[0])
    if len(values) != 2:
        return False
    for x, gate in (values, values[::-1]):
        if _clipped(gate) is x and abs(6 * number - 1) <= 1e-4:
            return _put(node, "HardSwish", [x])
        sigmoid = _by(gate, "HardSigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x and abs(number - 1) < 1e-6 and _is_sixth(sigmoid):
            return _put(node, "HardSwish", [x])
    return False


def _is_sixth(node: ir.Node) -> bool:
    options = {name: attribute.value for name, attribute in node.attributes.items()}
    off = abs(options.get("alpha", 0.2) - 1 / 6) + abs(options.get("beta", 0.5) - 0.5)
    return bool(off < 1e-6)


def _silu(node: ir.Node) -> bool:
    """`x * sigmoid(x)`."""
    a, b = node.inputs
    for x, gate in ((a, b), (b, a)):
        sigmoid = _by(gate, "Sigmoid")
        if x is not None and sigmoid is not None and sigmoid.inputs[0] is x:
            return _put(node, "Swish", [x])
    return False


def _gelu(node: ir.Node) -> bool:
    """`x / 2 * (1 + erf(x / sqrt(2)))`, and with tanh (Hendrycks and Gimpel, 2016)."""
    number, values = _factors(node.outputs[0])
    if len(values) != 2 or abs(number - 0.5) > 1e-4:
        return False
    for x, gate in (values, values[::-1]):
        inner = _plus(gate, 1.0)
        erf, tanh = _by(inner, "Erf"), _by(inner, "Tanh")
        if (
            erf is not None
            and (factor := _multiple(erf.inputs[0], x))
            and abs(factor - math.sqrt(0.5)) < 1e-4
        ):
            return _put(node, "Gelu", [x])
        if tanh is not None and _is_cubic(tanh.inputs[0], x):
            return _put(node, "Gelu", [x], {"approximate": "tanh"})
    return False


def _is_cubic(value: ir.Value | None, x: ir.Value) -> bool:
    """Return whether a value is `sqrt(2 / pi) * (x + 0.044715 x^3)`."""
    number, values = _factors(value)
    if abs(number - math.sqrt(2 / math.pi)) > 1e-4:
        return False
    if len(values) == 2:  # x * (1 + 0.044715 x^2)
        pair = values if values[0] is x else values[::-1]
        square = _plus(pair[1], 1.0)
        return pair[0] is x and square is not None and _power(square, x, 2)
    node = _by(values[0], "Add") if len(values) == 1 else None
    if node is None:
        return False
    a, b = node.inputs
    return (a is x and _power(b, x, 3)) or (b is x and _power(a, x, 3))


def _power(value: ir.Value | None, x: ir.Value, exponent: int) -> bool:
    """Return whether a value is 0.044715 times a power of x."""
    number, values = _factors(value)
    total = 0
    for part in values:
        power = _by(part, "Pow")
        if part is x:
            total += 1
        elif power is not None and power.inputs[0] is x and (given := _const(power.inputs[1])) is not None:
            total += int(given.reshape(-1)[0])
        else:
            square = _by(part, "Mul")
            total += 2 if square is not None and list(square.inputs) == [x, x] else 100
    return total == exponent and abs(number - 0.044715) < 1e-5


# Norms.


def _mean(value: ir.Value | None) -> ir.Value | None:
    """Return what a value is the mean of over its last axis, which is kept."""
    node = _by(value, "ReduceMean")
    if node is None or node.inputs[0] is None:
        return None
    options = {name: attribute.value for name, attribute in node.attributes.items()}
    given = _const(node.inputs[1]) if len(node.inputs) > 1 else options.get("axes")
    axes = [] if given is None else [int(axis) for axis in np.reshape(given, -1)]
    dims = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    last = len(axes) == 1 and (axes[0] == -1 or (dims is not None and axes[0] == dims - 1))
    return node.inputs[0] if last and options.get("keepdims", 1) else None


def _square(value: ir.Value | None) -> ir.Value | None:
    """Return what a value is the square of."""
    power, product = _by(value, "Pow"), _by(value, "Mul")
    if power is not None:
        exponent = _const(power.inputs[1])
        return (
            power.inputs[0]
            if exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2
            else None
        )
    return product.inputs[0] if product is not None and product.inputs[0] is product.inputs[1] else None


def _root(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Return x and epsilon where a value is `sqrt(mean(x^2) + epsilon)`."""
    root = _by(value, "Sqrt")
    if root is None and (power := _by(value, "Pow")) is not None and _near(power.inputs[1], 0.5):
        root = power
    added = _by(root.inputs[0], "Add") if root is not None else None
    parts = _split(added) if added is not None else None
    epsilon = _scalar(parts[1]) if parts else None
    x = _square(_mean(parts[0])) if parts else None
    return None if x is None or epsilon is None else (x, epsilon)


def _normalised(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return x and epsilon where a node divides x by the root of its mean square."""
    a, b = node.inputs[:2]
    if node.op_type == "Div":
        found = _root(b)
        return found if found and found[0] is a else None
    for x, inverse in ((a, b), (b, a)):
        over = _by(inverse, "Reciprocal", "Div")
        if over is None or (over.op_type == "Div" and not _near(over.inputs[0], 1.0)):
            continue
        found = _root(over.inputs[-1])
        if found and found[0] is x:
            return found
    return None


def _centred(value: ir.Value) -> ir.Value | None:
    """Return x where a value is `x - mean(x)`."""
    node = _by(value, "Sub")
    return node.inputs[0] if node is not None and _mean(node.inputs[1]) is node.inputs[0] else None


def _norm(node: ir.Node) -> bool:
    """A norm over the last axis, with its weight, and the bias behind it; without a weight it stays as it is."""
    found = _normalised(node)
    result = node.outputs[0]
    if found is None or not _alone(result):
        return False
    (product, _), *_ = ((use.node, use.idx) for use in result.uses())
    parts = _split(product) if product.op_type == "Mul" else None
    weight = _const(parts[1]) if parts else None
    if parts is None or weight is None or weight.size == 1 or weight.shape[-1] != weight.size:
        return False
    centred = _centred(found[0])
    last, bias = product, None
    if centred is not None and _alone(product.outputs[0]):
        ((added, _),) = ((use.node, use.idx) for use in product.outputs[0].uses())
        pair = _split(added) if added.op_type == "Add" else None
        array = _const(pair[1]) if pair else None
        if pair and array is not None and array.size == weight.size == array.shape[-1]:
            last, bias = added, _stored(pair[1], array.reshape(-1), "")
    scale = _stored(parts[1], weight.reshape(-1), "")
    options = {"axis": -1, "epsilon": found[1]}
    if centred is None:
        return _put(last, "RMSNormalization", [found[0], scale], options)
    return _put(last, "LayerNormalization", [centred, scale, *([bias] if bias is not None else [])], options)


_Rewrite = Callable[[ir.Node], bool]


# In this order: what is one activation is no factor on channels any more.
def _heads(node: ir.Node) -> bool:
    """A reshape into heads, or of heads into channels, says no number of heads."""
    x, sizes, empty = node.inputs[0], _const(node.inputs[1]), node.attributes.get("allowzero")
    if x is None or x.shape is None or sizes is None or (empty is not None and empty.as_int() and 0 in sizes):
        return False
    wanted = without_heads(list(x.shape), sizes.tolist())
    if wanted == sizes.tolist():
        return False
    return _put(node, "Reshape", [x, _stored(node.inputs[1], np.array(wanted, np.int64), f"_{node.name}")])


_ROUNDS: tuple[dict[str, tuple[_Rewrite, ...]], ...] = (
    {"Div": (_norm, _hard_swish, _hard_sigmoid, _gelu), "Mul": (_norm, _hard_swish, _silu, _gelu, _hard_sigmoid)},
    {"Mul": (_hard_swish,)},
    {"Add": (_bias,), "Mul": (_scale,), "Div": (_scale,), "Reshape": (_heads,)},
)  # fmt: skip
