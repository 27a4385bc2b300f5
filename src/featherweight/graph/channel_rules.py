"""How each operator passes labels of channels on. What no rule knows keeps every channel it touches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from featherweight.graph.graph import Graph, Node, Operand
from featherweight.graph.labels import Array, Axes, Axis, Labels, reshaped
from featherweight.graph.operators import rule


class Follower:
    """Follows labels through a graph, node by node; a rule of `featherweight.graph.operators` is a method `_rule`.

    Attributes:
        labels: what has been found out.
    """

    def __init__(self, graph: Graph) -> None:
        self.labels = Labels()
        self._axes: dict[tuple[str, str], Axes] = {}
        for name in dict.fromkeys((*graph.parameters, *graph.views)):  # parameters first: they name groups
            self._axes["stored", name] = self.labels.source(name, graph.views[name].shape)
        for kind, nodes in (("computed", graph.computed), ("edge", graph.nodes)):
            for node in nodes:
                follow: Callable[[Node], Axes] = getattr(self, f"_{rule(node.op, node.family)}")
                self._axes[kind, node.name] = follow(node)
        for edge in graph.outputs:
            for axis in self._axes["edge", edge]:
                self.labels.fix(axis, "the network returns it")

    def of(self, operand: Operand) -> Axes:
        """Return the labels of a tensor."""
        return self._axes.get((operand.kind, operand.name), (None,) * len(operand.shape))

    def merge(self, operands: Sequence[Operand], dims: int) -> Axes:
        """Return the labels of what is combined element by element; axes align at the end, size 1 gives way."""
        return tuple(
            self.merged([self.of(o)[back] for o in operands if len(o.shape) >= -back and o.shape[back] != 1])
            for back in range(-dims, 0)
        )

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

    def _softmax(self, node: Node) -> Axes:
        return self._along(node, "it is normalised over")

    def _pieces(self, node: Node) -> Axes:
        return self._along(node, "it is split at fixed places")

    def _along(self, node: Node, reason: str) -> Axes:
        """Return the labels behind what mixes the indices of `dim` and nothing else."""
        return tuple(self.keep(node.operands[0], [int(node.options.get("dim", 0))], reason))

    def _unknown(self, node: Node) -> Axes:
        for operand in node.operands:
            for axis in self.of(operand):
                self.labels.fix(axis, f"it passes through {node.op}")
        return (None,) * len(node.shape)

    def _pointwise(self, node: Node) -> Axes:
        return self.merge(node.operands, len(node.shape))

    def _same(self, node: Node) -> Axes:
        return self.of(node.operands[0])

    def _spatial(self, node: Node) -> Axes:
        """Pooling and resizing: the axes behind the channels stay."""
        dims = len(node.operands[0].shape)
        found = re.search(r"([123])d", node.op)
        axes = range(dims - int(found[1]) if found else 2, dims)
        return tuple(self.keep(node.operands[0], axes, "it is pooled over"))

    def _convolution(self, node: Node) -> Axes:
        x, weight = self._layer(node)
        read, out = self.of(x)[-len(weight.shape) + 1], self.of(weight)[0]
        groups, rows = int(node.options.get("groups", 1)), weight.shape[0]
        if groups == 1:
            self.labels.contract(read, self.of(weight)[1])
        elif weight.shape[1] == 1:  # depthwise: rows of the weight are the channels it reads
            repeated = None if read is None else np.repeat(read, rows // groups)
            out = self.labels.tie([out, repeated], "an image")
        else:
            self.labels.contract(self._every(read, groups), self.of(weight)[1])
            self._every(out, groups)
        return self._outputs(node, x, out, len(weight.shape) - 2)

    def _transposed(self, node: Node) -> Axes:
        """Weight `[in, out, k...]`; of a grouped one every channel stays."""
        x, weight = self._layer(node)
        read, out = self.of(x)[-len(weight.shape) + 1], self.of(weight)[1]
        if int(node.options.get("groups", 1)) > 1:
            for axis in (read, out, self.of(weight)[0]):
                self.labels.fix(axis, "it passes through a grouped transposed convolution")
            out = None
        else:
            self.labels.contract(read, self.of(weight)[0])
        return self._outputs(node, x, out, len(weight.shape) - 2)

    def _linear(self, node: Node) -> Axes:
        x, weight = self._layer(node)
        self.labels.contract(self.of(x)[-1], self.of(weight)[1])
        return self._outputs(node, x, self.of(weight)[0], 0)

    def _layer(self, node: Node) -> tuple[Operand, Operand]:
        """Return the input and the weight of a layer; a kernel's pixels stay."""
        x, weight = node.operands[:2]
        self.keep(weight, range(2, len(weight.shape)), "a kernel's pixels")
        return x, weight

    def _every(self, axis: Axis, groups: int) -> Axis:
        """Tie channel i of every group; return those of the first."""
        if axis is None:
            return None
        rows = axis.reshape(groups, -1)
        self.labels.ties += [(rows[0], row) for row in rows[1:]]
        return rows[0] if rows.shape[1] > 1 else None

    def _outputs(self, node: Node, x: Operand, out: Axis, spatial: int) -> Axes:
        if len(node.operands) > 2:
            out = self.merged([out, self.of(node.operands[2])[0]])
        lead = self.of(x)[: len(self.of(x)) - spatial - 1]
        return (*lead, out, *[None] * spatial)

    def _batch_norm(self, node: Node) -> Axes:
        x, *others = (operand for operand in node.operands if operand.shape)
        channels = self.merged([self.of(x)[1], *(self.of(o)[0] for o in others)])
        return (channels,) if node.result else (self.of(x)[0], channels, *self.of(x)[2:])

    def _slopes(self, node: Node) -> Axes:
        """A slope for each channel, or one for all."""
        x, slopes = map(self.of, node.operands)
        return x if node.operands[1].shape == (1,) else (x[0], self.merged([x[1], slopes[0]]), *x[2:])

    def _layer_norm(self, node: Node) -> Axes:
        x, *others = (operand for operand in node.operands if operand.shape)
        count, dims = len(node.options["normalized_shape"]), len(x.shape)
        for other in others:
            self.keep(other, range(len(other.shape)), "it is normalised over")
        axes = tuple(self.keep(x, range(dims - count, dims), "it is normalised over"))
        return (None,) * dims if node.result else axes

    def _reduction(self, node: Node) -> Axes:
        dims = len(node.operands[0].shape)
        given = node.options.get("dim")
        given = [given] if isinstance(given, int) else given
        gone = {axis % dims for axis in (given or range(dims))}
        axes = self.keep(node.operands[0], sorted(gone), "it is reduced over")
        kept = node.options.get("keepdim", False)
        return tuple(axis for number, axis in enumerate(axes) if kept or number not in gone)

    def _concatenation(self, node: Node) -> Axes:
        parts = [operand for operand in node.operands if len(operand.shape) == len(node.shape)]
        dim = int(node.options.get("dim", 0)) % len(node.shape)
        merged = [
            self.merged([self.of(o)[axis] for o in parts]) if axis != dim else None
            for axis in range(len(node.shape))
        ]
        along = [self.of(part)[dim] for part in parts]
        if any(axis is not None for axis in along):
            sizes = [part.shape[dim] for part in parts]
            pairs = zip(sizes, along, strict=True)
            merged[dim] = np.concatenate([self._constant(n) if axis is None else axis for n, axis in pairs])
        return tuple(merged)

    def _constant(self, count: int) -> Array:
        fixed = self.labels.fresh(count)
        self.labels.fix(fixed, "it meets channels of fixed number")
        return fixed

    def _padding(self, node: Node) -> Axes:
        """Zeros around the channels are as many after pruning as before."""
        if "pad" not in node.options:  # it depends on the sizes of the inputs
            return self._unknown(node)
        amounts = node.options["pad"]
        axes = list(self.of(node.operands[0]))
        for number, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
            axis = axes[-1 - number]
            if axis is not None and (before or after):
                if min(before, after) < 0 or node.options.get("mode", "constant") != "constant":
                    self.labels.fix(axis, "it is cropped or mirrored")
                    axes[-1 - number] = None
                else:
                    padded = [self._constant(before), axis, self._constant(after)]
                    axes[-1 - number] = np.concatenate(padded)
        return tuple(axes)

    def _slice(self, node: Node) -> Axes:
        dim, source = int(node.options.get("dim", 0)), node.operands[0]
        whole = node.shape[dim] == source.shape[dim]
        return self.of(source) if whole else self._along(node, "it is sliced at fixed places")

    def _select(self, node: Node) -> Axes:
        axes = self.keep(node.operands[0], [int(node.options["dim"])], "it is taken at a fixed place")
        del axes[int(node.options["dim"])]
        return tuple(axes)

    def _permutation(self, node: Node) -> Axes:
        return tuple(self.of(node.operands[0])[int(axis)] for axis in node.options["dims"])

    def _transposition(self, node: Node) -> Axes:
        axes = list(self.of(node.operands[0]))
        first, second = int(node.options["dim0"]), int(node.options["dim1"])
        axes[first], axes[second] = axes[second], axes[first]
        return tuple(axes)

    def _expansion(self, node: Node) -> Axes:
        axes, old = self.of(node.operands[0]), node.operands[0].shape
        new = node.shape[len(node.shape) - len(old) :]
        kept = [axis if a == b else None for axis, a, b in zip(axes, old, new, strict=True)]
        return (*[None] * (len(node.shape) - len(old)), *kept)

    def _reshape(self, node: Node) -> Axes:
        return reshaped(self.labels, self.of(node.operands[0]), node.operands[0].shape, node.shape)

    def _lookup(self, node: Node) -> Axes:
        weight, indices = node.operands
        self.labels.fix(self.of(weight)[0], "its rows are looked up")
        return (*self.of(indices), self.of(weight)[1])
