"""Of the parameters that make a channel, those that scale it as its readers see it: one factor on the channel."""

from __future__ import annotations

from collections.abc import Iterable

from featherweight.graph.graph import Edge, Graph, Node
from featherweight.graph.groups import Group

_GATES = {"sigmoid", "hardsigmoid", "softmax", "tanh"}
_CURVED = {"silu", "gelu", "elu", "celu", "selu", "mish", "softplus", "hardswish"}


def inner_makers(graph: Graph, groups: Iterable[Group]) -> frozenset[str]:
    """Return the tensors that make channels, of which others make the same again before anything reads them.

    A convolution before a batch norm or a depthwise convolution, whatever stands between; slopes of a PReLU; the gate
    of a product. Scaling them together with the others would scale the channel twice.
    """
    nodes = {node.name: node for node in graph.nodes}
    inner: set[str] = set()
    outer: set[str] = set()
    for group in groups:
        made = {member.tensor for member in group.makers}
        read = {member.tensor for member in group.members if member.reads}
        last = _Last(nodes, made)
        reading = [node.inputs[0] for node in graph.nodes if node.inputs and read.intersection(node.tensors)]
        found = {name for edge in reading for name in last.makers(edge)}
        outer |= found
        inner |= made - found if found else set()
    return frozenset(inner - outer)


class _Last:
    """The last makers of channels on the way to an edge."""

    def __init__(self, nodes: dict[Edge, Node], made: set[str]) -> None:
        self.nodes, self.made = nodes, made
        self.known: dict[Edge, frozenset[str]] = {}

    def makers(self, edge: Edge) -> frozenset[str]:
        """Return the tensors of the last layers before `edge` that make the channels."""
        if edge not in self.known:
            self.known[edge] = self._makers(self.nodes[edge])
        return self.known[edge]

    def _makers(self, node: Node) -> frozenset[str]:
        weight = dict(node.roles).get("weight")
        if node.op == "prelu":
            return self.makers(node.inputs[0])
        if weight is not None:
            return frozenset(self.made.intersection(node.tensors)) if weight in self.made else frozenset()
        factors = [edge for edge in node.inputs if self.makers(edge)]
        if node.op == "mul" and factors:
            return self.makers(min(factors, key=self._gates))
        return frozenset().union(*map(self.makers, factors))

    def _gates(self, edge: Edge) -> int:
        """Return how much a factor of a product is a gate on the other, by the activations on the way to it."""
        node, most = self.nodes[edge], 0
        while True:
            most = max(most, 2 if node.op in _GATES else int(node.op in _CURVED))
            if len(node.inputs) != 1 or "weight" in dict(node.roles):
                return most
            node = self.nodes[node.inputs[0]]
