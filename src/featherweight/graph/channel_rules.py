"""Which channels stand and fall together: a label for every index of every axis, and how each operator passes them on.

What no rule knows keeps every channel it touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.graph.channel_labels import WHOLE, Array, Axes, Axis, Labels, reshaped
from featherweight.graph.graph import Graph, Node, Operand
from featherweight.graph.operators import rule

SUMMED = "a product of activations sums over it"


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations.

    Attributes:
        macs: its multiply-accumulates of a sample.
        heads: labels of the axes along which it is many products, one beside the other.
        sizes: labels of its axes that may lose indices; `macs` is proportional to the size of each.
    """

    macs: int
    heads: tuple[Array, ...]
    sizes: tuple[Array, ...]


class Follower:
    """Follows labels through a graph, node by node; a rule of `featherweight.graph.operators` is a method `_rule`.

    Attributes:
        labels: what has been found out.
        products: of activations.
    """

    def __init__(self, graph: Graph) -> None:
        self.labels, self.products = Labels(), list[Product]()
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
        return self.aligned([self.of(operand) for operand in operands], [o.shape for o in operands], dims)

    def aligned(self, axes: Sequence[Axes], shapes: Sequence[Sequence[int]], dims: int) -> Axes:
        """Return the labels of `dims` axes that are combined element by element, as `merge`."""
        pairs = list(zip(axes, shapes, strict=True))
        return tuple(
            self.merged([of[back] for of, shape in pairs if len(shape) >= -back and shape[back] != 1])
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
        """Equal pieces lose the same indices, which `chunk` takes; others are cut at fixed places."""
        source, dim = node.operands[0], int(node.options.get("dim", 0)) % len(node.shape)
        axes, size, whole = list(self.of(source)), node.shape[dim], source.shape[dim]
        given = node.options.get("split_size", node.options.get("split_sizes"))
        equal = all(piece == size for piece in given) if isinstance(given, tuple) else given == size
        if axes[dim] is None:
            return tuple(axes)
        if not equal or whole % size or size == 1:
            return self._along(node, "it is split at fixed places")
        axes[dim] = self._every(axes[dim], whole // size)
        return tuple(axes)

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

    def _product(self, node: Node) -> Axes:
        """`[..., n, k]` by `[..., k, m]`, and something added."""
        *added, a, b = node.operands
        if min(len(a.shape), len(b.shape)) < 2:
            return self._unknown(node)
        left, right, dims = self.keep(a, [-1], SUMMED), self.keep(b, [-2], SUMMED), len(node.shape)
        batch = self.aligned([tuple(left[:-2]), tuple(right[:-2])], [a.shape[:-2], b.shape[:-2]], dims - 2)
        axes = self._multiplied(node.macs, batch, (left[-2], right[-1]))
        return self.aligned([axes, *map(self.of, added)], [node.shape, *(o.shape for o in added)], dims)

    def _attention(self, node: Node) -> Axes:
        """Queries `[..., n, e]`, keys and values of as many heads or fewer, each for several; a mask."""
        query, key, value, *mask = node.operands
        axes = [
            self.keep(query, [-1], SUMMED),
            self.keep(key, [-2, -1], SUMMED),
            self.keep(value, [-2], SUMMED),
        ]
        for operand, own in zip((key, value), axes[1:], strict=True):
            several = query.shape[-3] // operand.shape[-3] if len(query.shape) > 2 else 1
            heads = own[-3] if several > 1 else None
            if heads is not None:
                own[-3] = np.repeat(heads, several)
        lead, shapes = [tuple(own[:-2]) for own in axes], [query.shape[:-2]] * 3
        for operand in mask:
            kept = self.keep(operand, range(-min(2, len(operand.shape)), 0), "a mask of positions")
            lead.append(tuple(kept[:-2]))
            shapes.append(operand.shape[:-2])
        batch = self.aligned(lead, shapes, len(query.shape) - 2)
        part = (node.macs or 0) * query.shape[-1] // (query.shape[-1] + value.shape[-1])
        self._multiplied(part, batch, (axes[0][-2], None))
        return self._multiplied((node.macs or 0) - part, batch, (axes[0][-2], axes[2][-1]))

    def _einsum(self, node: Node) -> Axes:
        """Indices that are in the result and in several operands are heads; those that are not are summed over."""
        equation = str(node.options["equation"]).replace(" ", "")
        read, arrow, made = equation.partition("->")
        terms = list(zip(read.split(","), node.operands, strict=True))
        if not arrow or "." in equation or any(len(set(term)) < len(term) for term, _ in terms):
            return self._unknown(node)
        found: dict[str, list[Axis]] = {index: [] for index in made}
        for term, operand in terms:
            gone = [place for place, index in enumerate(term) if index not in made]
            for index, axis in zip(term, self.keep(operand, gone, SUMMED), strict=True):
                found.setdefault(index, []).append(axis)
        several = [index for index in made if len(found[index]) > 1]
        single = [index for index in made if index not in several]
        axes = {index: self.merged(found[index]) for index in made}
        self._multiplied(node.macs, [axes[i] for i in several], [axes[i] for i in single])
        return tuple(axes[index] for index in made)

    def _multiplied(self, macs: int | None, heads: Sequence[Axis], rest: Sequence[Axis]) -> Axes:
        """Note a product of activations, whose heads go as wholes; return its axes."""
        several = tuple(axis for axis in heads if axis is not None)
        if several:
            for axis in rest:
                self.labels.fix(axis, WHOLE)
            rest = [None] * len(rest)
        self.products.append(Product(macs or 0, several, several or tuple(a for a in rest if a is not None)))
        return (*heads, *rest)

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

    def _unbind(self, node: Node) -> Axes:
        dim = int(node.options.get("dim", 0))
        axes = self.keep(node.operands[0], [dim], "it is taken at a fixed place")
        del axes[dim]
        return tuple(axes)

    def _stack(self, node: Node) -> Axes:
        axes = list(self.merge(node.operands, len(node.operands[0].shape)))
        axes.insert(int(node.options.get("dim", 0)) % len(node.shape), None)
        return tuple(axes)

    def _repetition(self, node: Node) -> Axes:
        """Each index several times, in a row."""
        dim, repeats = node.options.get("dim"), node.options.get("repeats")
        if not isinstance(dim, int) or not isinstance(repeats, int):
            return self._unknown(node)
        axes = list(self.of(node.operands[0]))
        several = axes[dim]
        axes[dim] = None if several is None else np.repeat(several, repeats)
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
        source = node.operands[0]
        return reshaped(self.labels, self.of(source), source.shape, node.shape, node.name)

    def _lookup(self, node: Node) -> Axes:
        weight, indices = node.operands
        self.labels.fix(self.of(weight)[0], "its rows are looked up")
        return (*self.of(indices), self.of(weight)[1])
