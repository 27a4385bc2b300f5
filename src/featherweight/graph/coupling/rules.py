"""How each operator passes labels of channels on. What no rule knows keeps every channel it touches."""

from __future__ import annotations

import operator
import re
from typing import Any

import numpy as np
import torch
from torch import fx

from featherweight.graph.coupling.follower import Follower, Rule, shape_of
from featherweight.graph.coupling.labels import Axes, Axis
from featherweight.graph.coupling.reshaping import reshaped
from featherweight.graph.macs import operator_name


def rule_of(node: fx.Node) -> Rule:
    """Return the rule for an operator."""
    name = operator_name(node.target)
    if node.target is operator.getitem:
        return _item
    if name in _RULES:
        return _RULES[name]
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return _pointwise
    if re.search(r"pool[123]d$|^upsample", name):
        return _spatial
    return _unknown


def _unknown(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> None:
    for operand in node.all_input_nodes:
        axes = follow.of(operand)
        for axis in axes if all(isinstance(a, np.ndarray | None) for a in axes) else ():
            follow.labels.fix(axis, f"it passes through {operator_name(node.target)}")


def _item(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Any:
    return follow.of(node.args[0])[int(node.args[1])]  # type: ignore[arg-type]


def _pointwise(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    return tuple(follow.merge(node.all_input_nodes, len(shape_of(node))))


def _same(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    return follow.of(node.args[0])


def _spatial(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """Pooling and resizing: the axes behind the channels stay."""
    source, dims = node.args[0], len(shape_of(node.args[0]))
    found = re.search(r"([123])d", operator_name(node.target))
    axes = tuple(follow.keep(source, range(dims - int(found[1]) if found else 2, dims), "it is pooled over"))
    return (axes, axes) if isinstance(node.meta["val"], tuple | list) else axes


def _convolution(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    x, weight = arguments["input"], arguments["weight"]
    read, out = follow.of(x)[-len(shape_of(weight)) + 1], follow.of(weight)[0]
    groups, rows = int(arguments.get("groups", 1)), shape_of(weight)[0]
    follow.keep(weight, range(2, len(shape_of(weight))), "a kernel's pixels")
    if groups == 1:
        follow.labels.contract(read, follow.of(weight)[1])
    elif shape_of(weight)[1] == 1:  # depthwise: rows of the weight are the channels it reads
        out = follow.labels.tie([out, None if read is None else np.repeat(read, rows // groups)], "an image")
    else:
        follow.labels.contract(_every(follow, read, groups), follow.of(weight)[1])
        _every(follow, out, groups)
    return _outputs(follow, x, out, arguments.get("bias"), len(shape_of(weight)) - 2)


def _transposed(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Weight `[in, out, k...]`; of a grouped one every channel stays."""
    x, weight = arguments["input"], arguments["weight"]
    follow.keep(weight, range(2, len(shape_of(weight))), "a kernel's pixels")
    read, out = follow.of(x)[-len(shape_of(weight)) + 1], follow.of(weight)[1]
    if int(arguments.get("groups", 1)) > 1:
        reason = "it passes through a grouped transposed convolution"
        for axis in (read, out, follow.of(weight)[0]):
            follow.labels.fix(axis, reason)
        out = None
    else:
        follow.labels.contract(read, follow.of(weight)[0])
    return _outputs(follow, x, out, arguments.get("bias"), len(shape_of(weight)) - 2)


def _every(follow: Follower, axis: Axis, groups: int) -> Axis:
    """Tie channel i of every group; return those of the first."""
    if axis is None:
        return None
    rows = axis.reshape(groups, -1)
    follow.labels.ties += [(rows[0], row) for row in rows[1:]]
    return rows[0] if rows.shape[1] > 1 else None


def _outputs(follow: Follower, x: Any, out: Axis, bias: Any, spatial: int) -> Axes:
    if follow.of(bias):
        out = follow.merged([out, follow.of(bias)[0]])
    lead = follow.of(x)[: len(follow.of(x)) - spatial - 1]
    return (*lead, out, *[None] * spatial)


def _linear(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    x, weight = arguments["input"], arguments["weight"]
    follow.labels.contract(follow.of(x)[-1], follow.of(weight)[1])
    return _outputs(follow, x, follow.of(weight)[0], arguments.get("bias"), 0)


def _batch_norm(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Any:
    x, *others = (n for n in node.all_input_nodes if shape_of(n))
    channels = follow.merged([follow.of(x)[1], *(follow.of(n)[0] for n in others)])
    axes = (follow.of(x)[0], channels, *follow.of(x)[2:])
    return (axes, (channels,), (channels,))[: len(node.meta["val"])]


def _slopes(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """A slope for each channel, or one for all."""
    x, slopes = follow.of(node.args[0]), follow.of(node.args[1])
    return (x[0], follow.merged([x[1], slopes[0]]), *x[2:]) if shape_of(node.args[1]) != (1,) else x


def _layer_norm(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Any:
    x, *others = (n for n in node.all_input_nodes if shape_of(n))
    count, dims = len(arguments["normalized_shape"]), len(shape_of(x))
    for n in others:
        follow.keep(n, range(len(shape_of(n))), "it is normalised over")
    axes = tuple(follow.keep(x, range(dims - count, dims), "it is normalised over"))
    several = isinstance(node.meta["val"], tuple | list)
    return (axes, (None,) * dims, (None,) * dims) if several else axes


def _along(reason: str) -> Rule:
    """A rule for what mixes the indices of `dim` and nothing else."""

    def rule(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
        return tuple(follow.keep(node.args[0], [int(arguments["dim"])], reason))

    return rule


def _reduction(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    dims = len(shape_of(node.args[0]))
    given = arguments.get("dim")
    given = [given] if isinstance(given, int) else given
    gone = {axis % dims for axis in (given or range(dims))}
    axes = follow.keep(node.args[0], sorted(gone), "it is reduced over")
    kept = arguments.get("keepdim", False)
    return tuple(axis for number, axis in enumerate(axes) if kept or number not in gone)


def _concatenation(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    parts = [n for n in arguments["tensors"] if len(shape_of(n)) == len(shape_of(node))]
    dim = int(arguments.get("dim", 0)) % len(shape_of(node))
    along = [follow.of(n)[dim] for n in parts]
    if all(axis is None for axis in along):
        joined = None
    else:
        sizes = [shape_of(n)[dim] for n in parts]
        joined = np.concatenate(
            [_constant(follow, n) if axis is None else axis for n, axis in zip(sizes, along, strict=True)]
        )
    merged = [
        joined if axis == dim else follow.merged([follow.of(n)[axis] for n in parts])
        for axis in range(len(shape_of(node)))
    ]
    return tuple(merged)


def _constant(follow: Follower, count: int) -> Any:
    fixed = follow.labels.fresh(count)
    follow.labels.fix(fixed, "it meets channels of fixed number")
    return fixed


def _padding(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Zeros around the channels are as many after pruning as before."""
    amounts = [int(n) if isinstance(n, int) else 0 for n in arguments["pad"]]
    axes = list(follow.of(node.args[0]))
    for number, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        axis = axes[-1 - number]
        if axis is not None and (before or after):
            if min(before, after) < 0 or arguments.get("mode", "constant") != "constant":
                follow.labels.fix(axis, "it is cropped or mirrored")
                axes[-1 - number] = None
            else:
                axes[-1 - number] = np.concatenate(
                    [_constant(follow, before), axis, _constant(follow, after)]
                )
    return tuple(axes)


def _slice(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    dim = int(arguments.get("dim", 0))
    if shape_of(node)[dim] == shape_of(node.args[0])[dim]:
        return follow.of(node.args[0])
    return tuple(follow.keep(node.args[0], [dim], "it is sliced at fixed places"))


def _select(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    axes = follow.keep(node.args[0], [int(arguments["dim"])], "it is taken at a fixed place")
    del axes[int(arguments["dim"])]
    return tuple(axes)


def _pieces(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Any:
    axes = tuple(follow.keep(node.args[0], [int(arguments.get("dim", 0))], "it is split at fixed places"))
    return (axes,) * len(node.meta["val"])


def _permutation(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    return tuple(follow.of(node.args[0])[int(axis)] for axis in arguments["dims"])


def _transposition(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    axes = list(follow.of(node.args[0]))
    first, second = int(arguments["dim0"]), int(arguments["dim1"])
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def _expansion(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    axes, old, new = follow.of(node.args[0]), shape_of(node.args[0]), shape_of(node)
    kept = [
        axis if a == b else None for axis, a, b in zip(axes, old, new[len(new) - len(old) :], strict=True)
    ]
    return (*[None] * (len(new) - len(old)), *kept)


def _reshape(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    return reshaped(follow.labels, follow.of(node.args[0]), shape_of(node.args[0]), shape_of(node))


def _lookup(follow: Follower, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    follow.labels.fix(follow.of(arguments["weight"])[0], "its rows are looked up")
    return (*follow.of(arguments["indices"]), follow.of(arguments["weight"])[1])


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax"), _along("it is normalised over")),
    **dict.fromkeys(("clone", "alias", "detach", "contiguous", "dropout", "_to_copy"), _same),
    **dict.fromkeys(("hardswish", "relu6", "elu", "celu", "selu", "leaky_relu", "hardtanh"), _pointwise),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduction),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _pieces),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padding),
    "linear": _linear, "batch_norm": _batch_norm, "layer_norm": _layer_norm, "prelu": _slopes, "cat": _concatenation,
    "slice": _slice, "select": _select, "permute": _permutation, "transpose": _transposition,
    "expand": _expansion, "embedding": _lookup,
}  # fmt: skip
