"""ONNX nodes that are layers of torch: the module, with its weights, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.capture.onnx.recurrent import CELL, HIDDEN, LENGTHS, recurrent
from featherweight.capture.onnx.spatial import (
    cropped,
    even,
    padded,
    same_padding,
    spatial,
    transposed_padding,
)
from featherweight.capture.onnx.values import Value, constant, from_start, tensor
from featherweight.errors import UnsupportedError

Array = NDArray[Any]


def plain(module: nn.Module, *inputs: Value) -> Value:
    """Call a layer with tensors."""
    return module(*map(tensor, inputs))


@dataclass(frozen=True)
class Layer:
    """A layer of torch.

    Attributes:
        module: with its weights.
        inputs: which inputs of the node it reads.
        call: how it computes the node's results from these.
        weight: the input of the node that is its weight.
    """

    module: nn.Module
    inputs: tuple[int, ...] = (0,)
    call: Callable[..., Value] = plain
    weight: int | None = 1


@dataclass
class Weights:
    """Parameters made of constants, each large one once: equal ones are tied.

    Attributes:
        made: by type, shape and content.
    """

    made: dict[tuple[Any, ...], nn.Parameter] = field(default_factory=dict)

    def parameter(self, array: Array) -> nn.Parameter:
        """Return an array as a parameter."""
        array = np.ascontiguousarray(array)
        key = (
            (array.dtype.str, array.shape, hash(array.tobytes()))
            if array.ndim > 1 and array.size >= 1024
            else ()
        )
        known = self.made.get(key)
        if known is not None and np.array_equal(known.detach().numpy(), array):
            return known
        parameter = nn.Parameter(torch.from_numpy(array.copy()), requires_grad=array.dtype.kind == "f")
        if key:
            self.made[key] = parameter
        return parameter


def value_of(node: ir.Node, place: int) -> Array | None:
    """Return the constant that a node reads, if it is one."""
    value = node.inputs[place] if place < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def given(node: ir.Node, place: int) -> bool:
    """Return whether a node has an input."""
    return place < len(node.inputs) and node.inputs[place] is not None


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Return the attributes of a node as Python's values, tensors as known numbers."""
    found = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if isinstance(value, ir.TensorProtocol):
            value = constant(value.numpy())
        found[name] = list(value) if isinstance(value, tuple | list) else value
    return found


def rank(value: ir.Value | None) -> int | None:
    """Return the number of axes of a value, where that is known."""
    return None if value is None or value.shape is None else len(value.shape)


def _made(kind: type[nn.Module], *arguments: Any, **options: Any) -> Any:
    """Return a layer in eval mode, without weights."""
    with torch.device("meta"):
        return kind(*arguments, **options).eval()


def _fill(module: nn.Module, weights: Weights, **arrays: Array | None) -> nn.Module:
    """Give a layer its tensors."""
    for path, array in arrays.items():
        owner, _, name = path.rpartition(".")
        part = module.get_submodule(owner)
        if name in part._buffers:
            part._buffers[name] = torch.from_numpy(np.array(array))
        else:
            part._parameters[name] = None if array is None else weights.parameter(array)
    return module


def _bias(node: ir.Node, place: int) -> Array | None:
    """Return a bias, or None where there is none; `UnsupportedError` where it is computed."""
    array = value_of(node, place)
    if given(node, place) and array is None:
        raise _Computed
    return array


class _Computed(Exception):
    """A tensor of a layer is no constant: a function computes the node."""


def _convolution(node: ir.Node, weights: Weights) -> Layer | None:
    weight, bias = value_of(node, 1), _bias(node, 2)
    if weight is None or weight.dtype.kind != "f" or not 3 <= weight.ndim <= 5:
        return None
    options, dims = attributes_of(node), weight.ndim - 2
    groups, kernel = options.get("group", 1), weight.shape[2:]
    steps, gaps = spatial(options.get("strides"), dims), spatial(options.get("dilations"), dims)
    auto = options.get("auto_pad", "NOTSET")
    call, pads = plain, spatial(None if auto == "VALID" else options.get("pads"), 2 * dims, 0)
    if auto.startswith("SAME"):
        lower = auto == "SAME_LOWER"
        if all(step == 1 for step in steps):
            pads = same_padding([0] * dims, kernel, steps, gaps, lower)
        else:
            pads, call = [0] * 2 * dims, partial(_same, kernel=kernel, steps=steps, gaps=gaps, lower=lower)
    around = even(pads)
    if around is None:
        call, around = partial(_padded, pads=pads), [0] * dims
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    module = _made(
        kind, weight.shape[1] * groups, weight.shape[0], kernel, tuple(steps), tuple(around), tuple(gaps), groups,
        bias=bias is not None,
    )  # fmt: skip
    return Layer(_fill(module, weights, weight=weight, bias=bias), call=call)


def _padded(module: nn.Module, x: Value, *, pads: list[int]) -> Tensor:
    made: Tensor = module(padded(tensor(x), pads))
    return made


def _same(module: nn.Module, x: Value, *, kernel: Any, steps: Any, gaps: Any, lower: bool) -> Tensor:
    x = tensor(x)
    made: Tensor = module(padded(x, same_padding(x.shape[2:], kernel, steps, gaps, lower)))
    return made


def _transposed(node: ir.Node, weights: Weights) -> Layer | None:
    weight, bias = value_of(node, 1), _bias(node, 2)
    if weight is None or weight.dtype.kind != "f" or not 3 <= weight.ndim <= 5:
        return None
    options, dims = attributes_of(node), weight.ndim - 2
    groups, kernel = options.get("group", 1), weight.shape[2:]
    more = spatial(options.get("output_padding"), dims, 0)
    numbers = {
        "strides": spatial(options.get("strides"), dims), "dilations": spatial(options.get("dilations"), dims),
        "auto_pad": options.get("auto_pad", "NOTSET"), "output_shape": options.get("output_shape"),
        "pads": options.get("pads"), "output_padding": more,
    }  # fmt: skip
    moving = numbers["output_shape"] or numbers["auto_pad"].startswith("SAME")
    around = None if moving else even(transposed_padding(torch.empty(0), kernel, **numbers))
    call = plain if around is not None else partial(_cropped, kernel=kernel, numbers=numbers)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    module = _made(
        kind, weight.shape[0], weight.shape[1] * groups, kernel, tuple(numbers["strides"]),
        tuple(around or [0] * dims), tuple(more), groups, bias is not None, tuple(numbers["dilations"]),
    )  # fmt: skip
    return Layer(_fill(module, weights, weight=weight, bias=bias), call=call)


def _cropped(module: nn.Module, x: Value, *, kernel: Any, numbers: dict[str, Any]) -> Tensor:
    x = tensor(x)
    made: Tensor = cropped(module(x), transposed_padding(x, kernel, **numbers))
    return made


def linear(weight: Array, bias: Array | None, weights: Weights) -> nn.Module:
    """Return a linear layer of a weight `[out, in]`."""
    module = _made(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    return _fill(module, weights, weight=weight, bias=bias)


def _gemm(node: ir.Node, weights: Weights) -> Layer | None:
    weight, bias, options = value_of(node, 1), _bias(node, 2), attributes_of(node)
    if weight is None or weight.dtype.kind != "f" or options.get("transA", 0):
        return None
    weight = weight if options.get("transB", 0) else weight.T
    if bias is not None:
        row = bias.ndim < 2 or bias.shape[-1] == bias.size
        if not row or bias.size not in (1, weight.shape[0]):
            return None
        bias = np.broadcast_to(bias.reshape(-1) * bias.dtype.type(options.get("beta", 1.0)), weight.shape[:1])
    scaled = weight * weight.dtype.type(options["alpha"]) if options.get("alpha", 1.0) != 1 else weight
    return Layer(linear(scaled, bias, weights))


def _matmul(node: ir.Node, weights: Weights) -> Layer | None:
    """MatMul of a constant `[in, out]`, with a bias as third input where one was put there."""
    weight, bias = value_of(node, 1), _bias(node, 2)
    if (
        weight is None
        or weight.ndim < 2
        or weight.dtype.kind != "f"
        or any(n != 1 for n in weight.shape[:-2])
    ):
        return None
    if weight.ndim > 2 and (rank(node.inputs[0]) or 0) < weight.ndim:
        return None
    return Layer(linear(weight.reshape(weight.shape[-2:]).T, bias, weights))


def _batch_norm(node: ir.Node, weights: Weights) -> Layer | None:
    arrays, options = [_bias(node, place) for place in range(1, 5)], attributes_of(node)
    axes = rank(node.inputs[0])
    if options.get("training_mode", 0):
        raise UnsupportedError("batch norm in training mode")
    if axes is None or not 2 <= axes <= 5 or any(array is None for array in arrays):
        return None
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 2]
    scale, bias, mean, variance = arrays
    assert scale is not None
    module = _made(kind, scale.size, eps=options.get("epsilon", 1e-5))
    module.num_batches_tracked = torch.tensor(0)
    _fill(module, weights, weight=scale, bias=bias, running_mean=mean, running_var=variance)
    return Layer(module)


def _layer_norm(node: ir.Node, weights: Weights) -> Layer | None:
    scale, bias, options = value_of(node, 1), _bias(node, 2), attributes_of(node)
    if scale is None or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return None
    axis, axes = options.get("axis", -1), rank(node.inputs[0])
    count = -axis if axis < 0 else None if axes is None else axes - axis
    if count != scale.ndim or (bias is not None and bias.shape != scale.shape):
        return None
    kind, extra = (
        (nn.RMSNorm, {}) if node.op_type == "RMSNormalization" else (nn.LayerNorm, {"bias": bias is not None})
    )
    module = _made(kind, scale.shape, eps=options.get("epsilon", 1e-5), **extra)
    tensors = {"weight": scale} if kind is nn.RMSNorm else {"weight": scale, "bias": bias}
    return Layer(_fill(module, weights, **tensors))


def _group_norm(node: ir.Node, weights: Weights) -> Layer | None:
    scale, bias, options = value_of(node, 1), value_of(node, 2), attributes_of(node)
    channels = node.inputs[0].shape[1] if node.inputs[0] is not None and rank(node.inputs[0]) else None
    if scale is None or bias is None or not isinstance(channels, int) or scale.size != channels:
        return None
    module = _made(nn.GroupNorm, options["num_groups"], channels, eps=options.get("epsilon", 1e-5))
    return Layer(_fill(module, weights, weight=scale, bias=bias))


def _instance_norm(node: ir.Node, weights: Weights) -> Layer | None:
    scale, bias, axes = value_of(node, 1), value_of(node, 2), rank(node.inputs[0])
    if scale is None or bias is None or axes is None or not 3 <= axes <= 5:
        return None
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 3]
    module = _made(kind, scale.size, eps=attributes_of(node).get("epsilon", 1e-5), affine=True)
    return Layer(_fill(module, weights, weight=scale, bias=bias))


def _prelu(node: ir.Node, weights: Weights) -> Layer | None:
    slope, axes = value_of(node, 1), rank(node.inputs[0])
    if slope is None or slope.dtype.kind != "f":
        return None
    channels = slope.size == 1 or (
        axes is not None and slope.ndim == axes - 1 and slope.shape[0] == slope.size
    )
    if not channels or (slope.size == 1 and slope.ndim > (axes or 1)):
        return None
    return Layer(_fill(_made(nn.PReLU, slope.size), weights, weight=slope.reshape(-1)))


def _embedding(node: ir.Node, weights: Weights) -> Layer | None:
    table = value_of(node, 0)
    axis = attributes_of(node).get("axis", 0)
    if (
        table is None
        or table.ndim != 2
        or table.dtype.kind != "f"
        or axis % 2
        or value_of(node, 1) is not None
    ):
        return None
    module = _fill(_made(nn.Embedding, *table.shape), weights, weight=table)
    return Layer(module, (1,), _rows, weight=0)


def _rows(table: nn.Module, places: Value) -> Tensor:
    found: Tensor = table(from_start(tensor(places), table.num_embeddings))
    return found


def _activation(kind: Callable[..., nn.Module], **fixed: Any) -> Callable[[ir.Node, Weights], Layer | None]:
    return lambda node, _: Layer(kind(**fixed).eval(), weight=None)


def _leaky(node: ir.Node, _: Weights) -> Layer:
    return Layer(nn.LeakyReLU(attributes_of(node).get("alpha", 0.01)), weight=None)


def _gelu(node: ir.Node, _: Weights) -> Layer:
    return Layer(nn.GELU(attributes_of(node).get("approximate", "none")), weight=None)


def _swish(node: ir.Node, _: Weights) -> Layer | None:
    return Layer(nn.SiLU(), weight=None) if attributes_of(node).get("alpha", 1.0) == 1 else None


def _hard_sigmoid(node: ir.Node, _: Weights) -> Layer | None:
    options = attributes_of(node)
    sixth = abs(options.get("alpha", 0.2) - 1 / 6) < 1e-6 and options.get("beta", 0.5) == 0.5
    return Layer(nn.Hardsigmoid(), weight=None) if sixth else None


def _clip(node: ir.Node, _: Weights) -> Layer | None:
    """Limits of 0 and 6, or 0 alone, are activations of their own."""
    options = attributes_of(node)
    ends = []
    for place, name in ((1, "min"), (2, "max")):
        array = value_of(node, place)
        if given(node, place) and (array is None or array.size != 1):
            return None
        ends.append(options.get(name) if array is None else float(array.reshape(())))
    floats = node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.FLOAT
    if not floats or ends[0] != 0 or ends[1] not in (None, 6):
        return None
    return Layer(nn.ReLU() if ends[1] is None else nn.ReLU6(), weight=None)


def _recurrent(node: ir.Node, weights: Weights) -> Layer | None:
    arrays = [value_of(node, 1), value_of(node, 2), _bias(node, 3)]
    if arrays[0] is None or arrays[1] is None:
        return None
    module, tensors, call = recurrent(node, attributes_of(node), arrays)
    states = tuple(place for place in (LENGTHS, HIDDEN, CELL) if place < len(node.inputs))
    return Layer(_fill(module, weights, **tensors), (0, *states), call)


LAYERS: dict[str, Callable[[ir.Node, Weights], Layer | None]] = {
    "Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _gemm, "MatMul": _matmul,
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "RMSNormalization": _layer_norm,
    "GroupNormalization": _group_norm, "InstanceNormalization": _instance_norm, "PRelu": _prelu,
    "Gather": _embedding, "Relu": _activation(nn.ReLU), "LeakyRelu": _leaky, "Sigmoid": _activation(nn.Sigmoid),
    "Tanh": _activation(nn.Tanh), "Gelu": _gelu, "Swish": _swish, "HardSwish": _activation(nn.Hardswish),
    "HardSigmoid": _hard_sigmoid, "Clip": _clip, **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}  # fmt: skip


def layer_of(node: ir.Node, weights: Weights) -> Layer | None:
    """Return the layer of torch that a node is, or None where a function computes it."""
    reads = LAYERS.get(node.op_type)
    if reads is None or node.domain not in ("", "ai.onnx"):
        return None
    try:
        return reads(node, weights)
    except _Computed:
        return None
