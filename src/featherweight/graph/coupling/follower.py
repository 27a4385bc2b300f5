"""Follows labels of channels through a captured network, node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from featherweight.graph.coupling.labels import Axes, Axis, Labels
from featherweight.graph.trace import named_arguments, size

Rule = Callable[["Follower", fx.Node, dict[str, Any]], Any]


class Follower:
    """Follows labels through a captured function, node by node.

    Attributes:
        labels: what has been found out.
        axes: labels of each value, by node; a tuple of them where an operator has several results.
    """

    def __init__(self, sources: dict[str, tuple[str, ...] | str]) -> None:
        self.labels = Labels()
        self.axes: dict[fx.Node, Any] = {}
        self._sources = sources
        self._named: dict[str, Axes] = {}

    def visit(self, node: fx.Node, rule: Callable[[fx.Node], Rule]) -> None:
        """Take in the next node; `rule` gives that of an operator."""
        value = node.meta.get("val")
        if node.op == "placeholder":
            target = self._sources[node.name]
            named = isinstance(target, tuple) and len(target) == 1
            self.axes[node] = self._source(target[0], node) if named else unlabelled(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                for axis in self.of(result):
                    self.labels.fix(axis, "the network returns it")
        elif isinstance(value, Tensor | tuple | list):
            arguments = dict(named_arguments(node))
            known = rule(node)(self, node, arguments)
            self.axes[node] = unlabelled(node) if known is None else known

    def _source(self, name: str, node: fx.Node) -> Axes:
        if name not in self._named:
            self._named[name] = self.labels.source(name, shape_of(node))
        return self._named[name]

    def of(self, node: Any) -> Axes:
        """Return the labels of a tensor; none of one that is absent or a number."""
        return self.axes.get(node, ()) if isinstance(node, fx.Node) else ()

    def merge(self, nodes: Sequence[Any], dims: int) -> list[Axis]:
        """Return the labels of what is combined element by element; axes align at the end, size 1 gives way."""
        merged: list[Axis] = []
        for back in range(-dims, 0):
            found = [
                self.of(node)[back]
                for node in nodes
                if len(shape_of(node)) >= -back and shape_of(node)[back] != 1
            ]
            merged.append(self.merged(found))
        return merged

    def merged(self, axes: Sequence[Axis]) -> Axis:
        """Tie axes that are combined index by index."""
        return self.labels.tie(axes, "it meets something of fixed size")

    def keep(self, node: Any, axes: Sequence[int], reason: str) -> list[Axis]:
        """Return the labels of `node`, of which those of `axes` must stay."""
        found = list(self.of(node))
        for axis in axes:
            self.labels.fix(found[axis], reason)
            found[axis] = None
        return found


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the sizes of a tensor on the example."""
    value = node.meta["val"] if isinstance(node, fx.Node) else None
    return tuple(size(n) for n in value.shape) if isinstance(value, Tensor) else ()


def unlabelled(node: fx.Node) -> Any:
    """Return labels for a value of which every axis stays."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return tuple((None,) * (part.dim() if isinstance(part, Tensor) else 0) for part in value)
    return (None,) * len(shape_of(node))
