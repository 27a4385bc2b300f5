"""What is known of each operator, a row for each: what integers, channels and factors do in it, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from featherweight.graph.graph import Operand

Shape = tuple[int, ...]
# Multiply-accumulates: of the shape that is written, what is read, and other arguments; None: they cannot be told.
Formula = Callable[[Shape, Sequence["Operand"], Mapping[str, Any]], int | None]


class Operator(NamedTuple):
    """One row.

    Attributes:
        couples: the rule by which channels pass through; see `featherweight.graph.channel_rules`.
        macs: formula of its multiply-accumulates, one of `_FORMULAS`.
        integer: what it is to a network in integers: a `layer` with a weight, an `average`, a `product`; a `join`
            of several activations; a `clamp`, which is part of what it follows; a `move` of numbers that stay.
        axes: spatial axes of a layer that multiplies a stored weight; None: it is none.
        scales: how it passes on factors on channels: `element` by element, within each `channel`, by a `reshape`.
        layer: class of `torch.nn` that computes it alone.
        activation: whether it is an activation function.
        gate: how much a factor of a product is a gate on the other behind it: 2 a gate, 1 perhaps.
        still: whether it returns its operand where the shape stays.
        same: whether it changes no value, so that whoever reads its result reads its input.
    """

    couples: str = ""
    macs: str = ""
    integer: str = ""
    axes: int | None = None
    scales: str = ""
    layer: str = ""
    activation: bool = False
    gate: int = 0
    still: bool = False
    same: bool = False


def operator(op: str) -> Operator:
    """Return the row of an operator; of one that is not known, an empty one."""
    return _TABLE.get(op, _UNKNOWN)


def rule(op: str, family: str) -> str:
    """Return how channels pass through an operator, `unknown` if nobody knows."""
    spatial = "pool" in op or op.startswith("upsample")
    other = "pointwise" if family == "pointwise" else "spatial" if spatial else "unknown"
    return operator(op).couples or other


def multiply_accumulates(
    op: str, family: str, shape: Shape, operands: Sequence[Operand], arguments: Mapping[str, Any]
) -> int | None:
    """Return the multiply-accumulates of an operator; None where no formula is known.

    Args:
        op: the operator.
        family: as in `featherweight.graph.Node`.
        shape: of what it writes.
        operands: what it reads.
        arguments: the others, by name.
    """
    if formula := operator(op).macs:
        return _FORMULAS[formula](shape, operands, arguments)
    return 0 if family or op in _NO_PRODUCT or "pool" in op or op.startswith("upsample") else None


def _attention(shape: Shape, operands: Sequence[Operand], _: Mapping[str, Any]) -> int:
    """`softmax(Q K') V` with `Q: [..., L, E]`, `K: [..., S, E]`, `V: [..., S, F]`."""
    query, key, value = (operand.shape for operand in operands[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(shape: Shape, operands: Sequence[Operand], _: Mapping[str, Any]) -> int:
    """Every step of every sequence meets every matrix once; of a cell there is one step."""
    matrices = [o.shape for o in operands if o.argument.startswith(("params", "w_")) and len(o.shape) == 2]
    return prod(operands[0].shape[:-1]) * sum(map(prod, matrices))


def _einsum(shape: Shape, operands: Sequence[Operand], arguments: Mapping[str, Any]) -> int | None:
    """One product for every combination of the indices, as if the operands were multiplied at once."""
    equation = str(arguments["equation"]).replace(" ", "")
    if "." in equation:
        return None
    sizes: dict[str, int] = {}
    for indices, operand in zip(equation.partition("->")[0].split(","), operands, strict=True):
        sizes |= dict(zip(indices, operand.shape, strict=True))
    return prod(sizes.values())


_FORMULAS: dict[str, Formula] = {
    # `[..., in]` by `[out, in]`: every output sums over `in`.
    "linear": lambda shape, read, _: prod(shape) * read[0].shape[-1],
    # `addmm(bias, a, b)`.
    "second": lambda shape, read, _: prod(shape) * read[1].shape[-1],
    # Weight `[out, in / groups, k...]`: every output sums over one row.
    "convolution": lambda shape, read, _: prod(shape) * prod(read[1].shape[1:]),
    # Weight `[in, out / groups, k...]`: every input is spread over one row.
    "transposed": lambda _, read, __: prod(read[0].shape) * prod(read[1].shape[1:]),
    # Weight `[out, in1, in2]`, all of it for every output row.
    "bilinear": lambda shape, read, _: prod(shape[:-1]) * prod(read[2].shape),
    "attention": _attention, "recurrent": _recurrent, "einsum": _einsum,
}  # fmt: skip


def _each(names: str, row: Operator) -> dict[str, Operator]:
    return dict.fromkeys(names.split(), row)


_UNKNOWN = Operator()
_TABLE: dict[str, Operator] = {
    # Layers and products.
    "linear": Operator("linear", "linear", "layer", 0),
    **{f"conv{n}d": Operator("convolution", "convolution", "layer", n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": Operator("transposed", "transposed", axes=n) for n in (1, 2, 3)},
    **_each("mm bmm matmul", Operator("product", "linear")),
    **_each("mv dot", Operator(macs="linear")),
    **_each("addmm baddbmm", Operator("product", "second")),
    "addmv": Operator(macs="second"),
    **_each("lstm gru rnn_tanh rnn_relu", Operator(macs="recurrent")),
    **_each("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", Operator(macs="recurrent")),
    **{name: Operator(macs=name) for name in ("convolution", "bilinear")},
    "einsum": Operator("einsum", "einsum"),
    "scaled_dot_product_attention": Operator("attention", "attention"),
    "embedding": Operator("lookup"),
    "mul": Operator(integer="product"),
    "add": Operator(integer="join"),
    "cat": Operator("concatenation", integer="join", still=True),
    # Norms, averages and maxima.
    "batch_norm": Operator("batch_norm"),
    **_each("layer_norm rms_norm", Operator("layer_norm")),
    "mean": Operator("reduction", integer="average", scales="mean"),
    **_each("sum amax amin", Operator("reduction")),
    **{f"{kind}avg_pool{n}d": Operator("spatial", integer="average", scales="channel")
       for kind in ("", "adaptive_") for n in (1, 2, 3)},
    **{f"max_pool{n}d": Operator("spatial", integer="move", scales="channel") for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": Operator("spatial", scales="channel") for n in (1, 3)},
    "adaptive_max_pool2d": Operator("spatial", integer="move", scales="channel"),
    "max_pool2d_with_indices": Operator("spatial", integer="move"),
    # Activations.
    "relu": Operator("pointwise", integer="clamp", scales="element", layer="ReLU", activation=True),
    "hardtanh": Operator("pointwise", integer="clamp", scales="clip", layer="Hardtanh", activation=True),
    "relu6": Operator("pointwise", integer="clamp", scales="clip", activation=True),
    "clamp": Operator(integer="clamp", activation=True),
    "leaky_relu": Operator("pointwise", scales="element", layer="LeakyReLU", activation=True),
    "prelu": Operator("slopes", scales="channel", activation=True),
    "silu": Operator(layer="SiLU", activation=True, gate=1),
    "gelu": Operator(layer="GELU", activation=True, gate=1),
    "hardswish": Operator("pointwise", layer="Hardswish", activation=True, gate=1),
    **_each("elu celu selu", Operator("pointwise", activation=True, gate=1)),
    **_each("mish softplus", Operator(activation=True, gate=1)),
    "sigmoid": Operator(layer="Sigmoid", activation=True, gate=2),
    "tanh": Operator(activation=True, gate=2),
    "hardsigmoid": Operator(gate=2),
    "softmax": Operator("softmax", gate=2),
    **_each("log_softmax _softmax _log_softmax", Operator("softmax")),
    # What moves numbers.
    **_each("view reshape", Operator("reshape", integer="move", scales="reshape", still=True)),
    **_each("flatten squeeze", Operator("reshape", integer="move", scales="reshape", still=True)),
    **_each("unflatten unsqueeze", Operator("reshape", integer="move")),
    **_each("split split_with_sizes chunk", Operator("pieces", integer="move")),
    **_each("t pixel_shuffle channel_shuffle", Operator(integer="move")),
    "unbind": Operator("unbind", integer="move"),
    "stack": Operator("stack"),
    "repeat_interleave": Operator("repetition"),
    **_each("pad constant_pad_nd", Operator("padding")),
    "transpose": Operator("transposition", integer="move"),
    "permute": Operator("permutation", integer="move"),
    "slice": Operator("slice", integer="move", still=True),
    "select": Operator("select", integer="move"),
    "expand": Operator("expansion", integer="move", still=True),
    # What changes nothing, or the type alone.
    "_to_copy": Operator("same", still=True),
    "alias": Operator("same", still=True, same=True),
    **_each("to repeat", Operator(still=True)),
    "where": Operator("pointwise"),
    **_each("clone detach contiguous dropout", Operator("same", same=True)),
    "lift_fresh_copy": Operator(same=True),
    "constant": Operator("same"),
}  # fmt: skip

# Sums, moves and look-ups: no product of activation and weight that hardware counts.
_NO_PRODUCT = {
    *_TABLE,
    "group_norm", "instance_norm", "embedding_bag", "roll", "flip", "gather", "index",
    "index_select", "select_scatter", "slice_scatter", "index_put", "scatter", "fill", "topk", "sort",
    "cumsum", "argmax", "argmin", "one_hot", "tril", "triu", "masked_fill",
    "zeros_like", "ones_like", "full_like", "glu", "rrelu", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d", "scatter_add", "unfold", "max", "min", "any", "all",
    "native_dropout", "copy", "batch_norm_of_batch", "im2col",
}  # fmt: skip
