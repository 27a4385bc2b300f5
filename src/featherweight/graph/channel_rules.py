"""How each operator passes labels of channels on. What no rule knows keeps every channel it touches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from featherweight.graph.graph import Graph, Node, Operand
from featherweight.graph.labels import Array, Axes, Axis, Labels, reshaped
from featherweight.graph.operators import rule


class Follower:
    """Follows labels through a graph, node by node.

    Attributes:
        labels: what has been found out.
    """

    def __init__(self, graph: Graph) -> None:
        self.labels = Labels()
        self._axes: dict[tuple[str, str], Axes] = {}
        for name in dict.fromkeys(
            (*graph.parameters, *graph.views)
        ):  # parameters come first: they name groups
            self._axes["stored", name] = self.labels.source(name, graph.views[name].shape)
        for kind, nodes in (("computed", graph.computed), ("edge", graph.nodes)):
            for node in nodes:
                self._axes[kind, node.name] = _RULES[rule(node.op, node.family)](self, node)
        for edge in graph.outputs:
            for axis in self._axes["edge", edge]:
                self.labels.fix(axis, "the network returns it")

    def of(self, operand: Operand | None) -> Axes:
        """Return the labels of a tensor; none of one that is absent."""
        if operand is None:
            return ()
        return self._axes.get((operand.kind, operand.name), (None,) * len(operand.shape))

    def merge(self, operands: Sequence[Operand], dims: int) -> Axes:
        """Return the labels of what is combined element by element; axes align at the end, size 1 gives way."""
        merged: list[Axis] = []
        for back in range(-dims, 0):
            found = [self.of(o)[back] for o in operands if len(o.shape) >= -back and o.shape[back] != 1]
            merged.append(self.merged(found))
        return tuple(merged)

    def merged(self, axes: Sequence[Axis]) -> Axis:
        """Tie axes that are combined index by index."""
        return self.labels.tie(axes, "it meets something of fixed size")

    def keep(self, operand: Operand, axes: Sequence[int], reason: str) -> list[Axis]:
        """Return the labels of `operand`, of which those of `axes` must stay."""
        found = list(self.of(operand))
        for axis in axes:
            self.labels.fix(found[axis], reason)
            found[axis] = None
        return found


Rule = Callable[[Follower, Node], Axes]


def _along(reason: str) -> Rule:
    """A rule for what mixes the indices of `dim` and nothing else."""
    return lambda follow, node: tuple(
        follow.keep(node.operands[0], [int(node.options.get("dim", 0))], reason)
    )


def _unknown(follow: Follower, node: Node) -> Axes:
    for operand in node.operands:
        for axis in follow.of(operand):
            follow.labels.fix(axis, f"it passes through {node.op}")
    return (None,) * len(node.shape)


def _pointwise(follow: Follower, node: Node) -> Axes:
    return follow.merge(node.operands, len(node.shape))


def _same(follow: Follower, node: Node) -> Axes:
    return follow.of(node.operands[0])


def _spatial(follow: Follower, node: Node) -> Axes:
    """Pooling and resizing: the axes behind the channels stay."""
    dims = len(node.operands[0].shape)
    found = re.search(r"([123])d", node.op)
    return tuple(
        follow.keep(node.operands[0], range(dims - int(found[1]) if found else 2, dims), "it is pooled over")
    )


def _convolution(follow: Follower, node: Node) -> Axes:
    x, weight = _layer(follow, node)
    read, out = follow.of(x)[-len(weight.shape) + 1], follow.of(weight)[0]
    groups, rows = int(node.options.get("groups", 1)), weight.shape[0]
    if groups == 1:
        follow.labels.contract(read, follow.of(weight)[1])
    elif weight.shape[1] == 1:  # depthwise: rows of the weight are the channels it reads
        out = follow.labels.tie([out, None if read is None else np.repeat(read, rows // groups)], "an image")
    else:
        follow.labels.contract(_every(follow, read, groups), follow.of(weight)[1])
        _every(follow, out, groups)
    return _outputs(follow, node, x, out, len(weight.shape) - 2)


def _transposed(follow: Follower, node: Node) -> Axes:
    """Weight `[in, out, k...]`; of a grouped one every channel stays."""
    x, weight = _layer(follow, node)
    read, out = follow.of(x)[-len(weight.shape) + 1], follow.of(weight)[1]
    if int(node.options.get("groups", 1)) > 1:
        for axis in (read, out, follow.of(weight)[0]):
            follow.labels.fix(axis, "it passes through a grouped transposed convolution")
        out = None
    else:
        follow.labels.contract(read, follow.of(weight)[0])
    return _outputs(follow, node, x, out, len(weight.shape) - 2)


def _linear(follow: Follower, node: Node) -> Axes:
    x, weight = _layer(follow, node)
    follow.labels.contract(follow.of(x)[-1], follow.of(weight)[1])
    return _outputs(follow, node, x, follow.of(weight)[0], 0)


def _layer(follow: Follower, node: Node) -> tuple[Operand, Operand]:
    """The input and the weight of a layer; a kernel's pixels stay."""
    x, weight = node.operands[:2]
    follow.keep(weight, range(2, len(weight.shape)), "a kernel's pixels")
    return x, weight


def _every(follow: Follower, axis: Axis, groups: int) -> Axis:
    """Tie channel i of every group; return those of the first."""
    if axis is None:
        return None
    rows = axis.reshape(groups, -1)
    follow.labels.ties += [(rows[0], row) for row in rows[1:]]
    return rows[0] if rows.shape[1] > 1 else None


def _outputs(follow: Follower, node: Node, x: Operand, out: Axis, spatial: int) -> Axes:
    if len(node.operands) > 2:
        out = follow.merged([out, follow.of(node.operands[2])[0]])
    lead = follow.of(x)[: len(follow.of(x)) - spatial - 1]
    return (*lead, out, *[None] * spatial)


def _batch_norm(follow: Follower, node: Node) -> Axes:
    x, *others = (operand for operand in node.operands if operand.shape)
    channels = follow.merged([follow.of(x)[1], *(follow.of(o)[0] for o in others)])
    return (channels,) if node.result else (follow.of(x)[0], channels, *follow.of(x)[2:])


def _slopes(follow: Follower, node: Node) -> Axes:
    """A slope for each channel, or one for all."""
    x, slopes = map(follow.of, node.operands)
    return x if node.operands[1].shape == (1,) else (x[0], follow.merged([x[1], slopes[0]]), *x[2:])


def _layer_norm(follow: Follower, node: Node) -> Axes:
    x, *others = (operand for operand in node.operands if operand.shape)
    count, dims = len(node.options["normalized_shape"]), len(x.shape)
    for other in others:
        follow.keep(other, range(len(other.shape)), "it is normalised over")
    axes = tuple(follow.keep(x, range(dims - count, dims), "it is normalised over"))
    return (None,) * dims if node.result else axes


def _reduction(follow: Follower, node: Node) -> Axes:
    dims = len(node.operands[0].shape)
    given = node.options.get("dim")
    given = [given] if isinstance(given, int) else given
    gone = {axis % dims for axis in (given or range(dims))}
    axes = follow.keep(node.operands[0], sorted(gone), "it is reduced over")
    kept = node.options.get("keepdim", False)
    return tuple(axis for number, axis in enumerate(axes) if kept or number not in gone)


def _concatenation(follow: Follower, node: Node) -> Axes:
    parts = [operand for operand in node.operands if len(operand.shape) == len(node.shape)]
    dim = int(node.options.get("dim", 0)) % len(node.shape)
    merged = [
        follow.merged([follow.of(o)[axis] for o in parts]) if axis != dim else None
        for axis in range(len(node.shape))
    ]
    along = [follow.of(part)[dim] for part in parts]
    if any(axis is not None for axis in along):
        sizes = [part.shape[dim] for part in parts]
        merged[dim] = np.concatenate(
            [_constant(follow, n) if axis is None else axis for n, axis in zip(sizes, along, strict=True)]
        )
    return tuple(merged)


def _constant(follow: Follower, count: int) -> Array:
    fixed = follow.labels.fresh(count)
    follow.labels.fix(fixed, "it meets channels of fixed number")
    return fixed


def _padding(follow: Follower, node: Node) -> Axes:
    """Zeros around the channels are as many after pruning as before."""
    if "pad" not in node.options:  # it depends on the sizes of the inputs
        return _unknown(follow, node)
    amounts = node.options["pad"]
    axes = list(follow.of(node.operands[0]))
    for number, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        axis = axes[-1 - number]
        if axis is not None and (before or after):
            if min(before, after) < 0 or node.options.get("mode", "constant") != "constant":
                follow.labels.fix(axis, "it is cropped or mirrored")
                axes[-1 - number] = None
            else:
                padded = [_constant(follow, before), axis, _constant(follow, after)]
                axes[-1 - number] = np.concatenate(padded)
    return tuple(axes)


def _slice(follow: Follower, node: Node) -> Axes:
    dim, source = int(node.options.get("dim", 0)), node.operands[0]
    if node.shape[dim] == source.shape[dim]:
        return follow.of(source)
    return tuple(follow.keep(source, [dim], "it is sliced at fixed places"))


def _select(follow: Follower, node: Node) -> Axes:
    axes = follow.keep(node.operands[0], [int(node.options["dim"])], "it is taken at a fixed place")
    del axes[int(node.options["dim"])]
    return tuple(axes)


def _permutation(follow: Follower, node: Node) -> Axes:
    return tuple(follow.of(node.operands[0])[int(axis)] for axis in node.options["dims"])


def _transposition(follow: Follower, node: Node) -> Axes:
    axes = list(follow.of(node.operands[0]))
    first, second = int(node.options["dim0"]), int(node.options["dim1"])
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def _expansion(follow: Follower, node: Node) -> Axes:
    axes, old = follow.of(node.operands[0]), node.operands[0].shape
    new = node.shape[len(node.shape) - len(old) :]
    kept = [axis if a == b else None for axis, a, b in zip(axes, old, new, strict=True)]
    return (*[None] * (len(node.shape) - len(old)), *kept)


def _reshape(follow: Follower, node: Node) -> Axes:
    return reshaped(follow.labels, follow.of(node.operands[0]), node.operands[0].shape, node.shape)


def _lookup(follow: Follower, node: Node) -> Axes:
    weight, indices = node.operands
    follow.labels.fix(follow.of(weight)[0], "its rows are looked up")
    return (*follow.of(indices), follow.of(weight)[1])


_RULES: dict[str, Rule] = {
    "": _unknown, "pointwise": _pointwise, "same": _same, "spatial": _spatial, "convolution": _convolution,
    "transposed": _transposed, "linear": _linear, "batch_norm": _batch_norm, "slopes": _slopes,
    "layer_norm": _layer_norm, "reduction": _reduction, "concatenation": _concatenation, "padding": _padding,
    "slice": _slice, "select": _select, "permutation": _permutation, "transposition": _transposition,
    "expansion": _expansion, "reshape": _reshape, "lookup": _lookup,
    "softmax": _along("it is normalised over"), "pieces": _along("it is split at fixed places"),
}  # fmt: skip
