"""Which channels stand and fall together: a label for every index of every axis, and how each operator passes them on.

What no rule knows keeps every channel it touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featherweight.graph.graph import Graph, Node, Operand
from featherweight.graph.operators import rule

Array = NDArray[Any]
# Labels `[size]` of one axis; None: an axis whose size stays (batch, pixels, channels of an image).
Axis = Array | None
Axes = tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Slot:
    """Axis number `axis` of a parameter or buffer (its canonical name), as a source of `labels: [size]`."""

    tensor: str
    axis: int
    labels: Array


@dataclass(eq=False)
class Labels:
    """Labels and what is known of them: which are tied, which must stay and why, which a weight sums over.

    Filled by following a network, then read by `components`.
    """

    slots: list[Slot] = field(default_factory=list)
    count: int = 0
    ties: list[tuple[Array, Array]] = field(default_factory=list)
    stay: list[tuple[Array, str]] = field(default_factory=list)
    read: list[Array] = field(default_factory=list)

    def fresh(self, size: int) -> Array:
        """Return `size` new labels."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def source(self, tensor: str, shape: Sequence[int]) -> Axes:
        """Return new labels for a parameter or buffer; an axis of one index has none."""
        axes = tuple(self.fresh(size) if size > 1 else None for size in shape)
        self.slots += [Slot(tensor, number, axis) for number, axis in enumerate(axes) if axis is not None]
        return axes

    def fix(self, axis: Axis, reason: str) -> None:
        """Say that every index of `axis` must stay."""
        if axis is not None:
            self.stay.append((axis, reason))

    def tie(self, axes: Sequence[Axis], reason: str) -> Axis:
        """Say that axes of one size stand and fall together; one that stays fixes the others, for `reason`."""
        labelled = [axis for axis in axes if axis is not None]
        if len(labelled) < len(axes):
            for axis in labelled:
                self.fix(axis, reason)
            return None
        self.ties += [(labelled[0], other) for other in labelled[1:]]
        return labelled[0] if labelled else None

    def contract(self, axis: Axis, weight: Axis) -> None:
        """Say that an axis of a weight is summed over together with one of an activation."""
        self.tie([axis, weight], "it reads an input of fixed size")
        if weight is not None:
            self.read.append(weight)

    def components(self) -> tuple[Array, dict[int, str]]:
        """Return the component of each label `[count]`, and those that must stay with the reason."""
        pairs = [np.concatenate(side) for side in zip(*self.ties, strict=True)] or [np.zeros(0, int)] * 2
        edges = coo_array((np.ones(pairs[0].size, bool), tuple(pairs)), shape=(self.count, self.count))
        component = connected_components(edges, directed=False)[1]
        fixed: dict[int, str] = {}
        for labels, reason in self.stay:
            for number in np.unique(component[labels]).tolist():
                fixed.setdefault(number, reason)
        return component, fixed


def reshaped(labels: Labels, axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Return the labels after `old` sizes became `new` ones, row-major.

    Axes that merge repeat their labels; a labelled axis that is cut must stay.

    >>> two = Labels()
    >>> channels = two.fresh(2)
    >>> reshaped(two, (None, channels, None), (5, 2, 3), (5, 6))[1].tolist()
    [0, 0, 0, 1, 1, 1]
    """
    found: list[Axis] = [None] * len(new)
    for before, after in blocks(old, new):
        labelled = [axis for axis in before if axes[axis] is not None]
        if len(labelled) == 1 and len(after) == 1:
            axis, sizes = labelled[0], [old[a] for a in before]
            shape = [old[a] if a == axis else 1 for a in before]
            found[after[0]] = np.broadcast_to(np.reshape(axes[axis], shape), sizes).reshape(-1)  # type: ignore[arg-type]
        else:
            for axis in labelled:
                labels.fix(axes[axis], "it is reshaped into several axes")
    return tuple(found)


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return runs of axes of `old` and `new` that hold the same elements, as short as they can be.

    Axes of size 1 hold nothing and are left out.

    >>> blocks((2, 1, 3, 4), (6, 2, 2))
    [([0, 2], [0]), ([3], [1, 2])]
    """
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    found = []
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := prod(old[n] for n in before)) != (b := prod(new[n] for n in after)):
            if a < b:
                before.append(left.pop(0))
            else:
                after.append(right.pop(0))
        found.append((before, after))
    return found


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
