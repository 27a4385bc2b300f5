"""Multiply-accumulates of an aten operator, by formula."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

_SHORT = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "batch_norm_of_batch",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_unsafe_view": "view",
}

# Sums, moves and look-ups: no product of activation and weight that hardware counts.
_NONE = {
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "embedding", "embedding_bag",
    "softmax", "log_softmax", "_softmax", "_log_softmax", "cat", "stack", "pad", "constant_pad_nd", "roll",
    "flip", "gather", "index", "index_select", "select_scatter", "slice_scatter", "index_put", "scatter",
    "fill", "topk", "sort", "cumsum", "where", "argmax", "argmin", "one_hot", "repeat", "clone",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "repeat_interleave", "prelu", "tril", "triu",
    "masked_fill", "expand", "reshape", "zeros_like", "ones_like", "full_like", "glu", "rrelu",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "scatter_add",
    "unfold", "max", "min", "mean", "sum", "amax", "amin", "any", "all", "unbind", "split", "chunk",
    "_to_copy", "view", "hardswish", "relu6", "elu", "celu", "selu", "native_dropout", "copy",
    "lift_fresh_copy", "batch_norm_of_batch", "im2col",
}  # fmt: skip


def operator_name(target: Any) -> str:
    """Return the short name of an aten operator: `conv2d` of `aten::conv2d.default`."""
    schema = getattr(target, "_schema", None)
    name = schema.name.rpartition("::")[2] if schema else getattr(target, "__name__", str(target))
    return _SHORT.get(name, name)


def multiply_accumulates(node: fx.Node) -> int | None:
    """Return the multiply-accumulates of `node` on its example; None where no formula is known."""
    name = operator_name(node.target)
    if name in _FORMULAS:
        return _FORMULAS[name](node)
    tags = getattr(node.target, "tags", ())
    if name in _NONE or "pool" in name or torch.Tag.pointwise in tags or torch.Tag.reduction in tags:
        return 0
    return 0 if name.startswith("upsample") or getattr(node.target, "is_view", False) else None


def _shape(argument: Any) -> tuple[int, ...]:
    value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
    value = value[0] if isinstance(value, (tuple, list)) else value
    sizes = (
        [n if isinstance(n, int) else n.node.hint for n in value.shape] if isinstance(value, Tensor) else []
    )
    return tuple(int(n or 0) for n in sizes)


def _linear(node: fx.Node) -> int:
    """`[..., in]` by `[out, in]`: every output sums over `in`."""
    return prod(_shape(node)) * _shape(node.args[0])[-1]


def _convolution(node: fx.Node) -> int:
    """Weight `[out, in / groups, k...]`: every output sums over one row."""
    return prod(_shape(node)) * prod(_shape(node.args[1])[1:])


def _transposed(node: fx.Node) -> int:
    """Weight `[in, out / groups, k...]`: every input is spread over one row."""
    return prod(_shape(node.args[0])) * prod(_shape(node.args[1])[1:])


def _second_product(node: fx.Node) -> int:
    """`addmm(bias, a, b)`."""
    return prod(_shape(node)) * _shape(node.args[1])[-1]


def _attention(node: fx.Node) -> int:
    """`softmax(Q K') V` with `Q: [..., L, E]`, `K: [..., S, E]`, `V: [..., S, F]`."""
    query, key, value = (_shape(argument) for argument in node.args[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: fx.Node) -> int:
    """Every step of every sequence meets every matrix once."""
    tokens = prod(_shape(node.args[0])[:-1])
    weights = next(
        a for a in node.args[2:] if isinstance(a, (list, tuple)) and a and isinstance(a[0], fx.Node)
    )
    return tokens * sum(prod(_shape(weight)) for weight in weights if len(_shape(weight)) == 2)


def _cell(node: fx.Node) -> int:
    """One step: both matrices, once for every row."""
    return prod(_shape(node.args[0])[:-1]) * sum(prod(_shape(weight)) for weight in node.args[2:4])


def _bilinear(node: fx.Node) -> int:
    """Weight `[out, in1, in2]`, all of it for every output row."""
    return prod(_shape(node)[:-1]) * prod(_shape(node.args[2]))


def _einsum(node: fx.Node) -> int | None:
    """One product for every combination of the indices, as if the operands were multiplied at once."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    if "." in equation or not isinstance(operands, (list, tuple)):
        return None
    sizes: dict[str, int] = {}
    for indices, operand in zip(equation.partition("->")[0].split(","), operands, strict=True):
        sizes |= dict(zip(indices, _shape(operand), strict=True))
    return prod(sizes.values())


_FORMULAS: dict[str, Callable[[fx.Node], int | None]] = {
    **dict.fromkeys(("linear", "mm", "bmm", "matmul", "mv", "dot"), _linear),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _second_product),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    "scaled_dot_product_attention": _attention,
    "bilinear": _bilinear,
    "einsum": _einsum,
}
