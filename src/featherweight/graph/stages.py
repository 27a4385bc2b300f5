"""Where a network is cut into stages, which can be trained one by one: between blocks, around layers, or by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from featherweight.errors import ConfigError
from featherweight.graph.graph import Edge, Graph, Node
from featherweight.graph.operators import operator
from featherweight.graph.quantizable import absorbable

By = Literal["block", "layer"] | Sequence[Edge]


@dataclass(frozen=True)
class Stage:
    """A part of a network that ends in one activation, or in the outputs.

    Attributes:
        name: path of the block or of the layer that it is, or the edge that it ends in.
        nodes: what it computes, in order.
        targets: what it ends in.
        tensors: the parameters and buffers that it reads.
    """

    name: str
    nodes: tuple[Edge, ...]
    targets: tuple[Edge, ...]
    tensors: tuple[str, ...]


def stages_of(
    graph: Graph, by: By, blocks: Sequence[str] = (), known: Callable[[Edge], bool] = lambda edge: True
) -> tuple[Stage, ...]:
    """Return the stages of a network, in order of execution.

    Args:
        graph: the network.
        by: `layer`: each layer with a weight, and the norm and activation function that are part of it; `block`: cut
            between `blocks`, and between layers that are in none, wherever all that follows reads a single activation,
            before what only moves numbers or leaves fewer; or the edges where to cut, which have to be such places.
        blocks: paths of modules, none within another.
        known: whether it is known what an activation ought to be: stages end in no other.

    Raises:
        ConfigError: an edge to cut at is none, or other activations pass by it; names those that can be.
    """
    if by == "layer":
        every = [_around(graph, node) for node in graph.nodes if _weighted(node)]
        return tuple(stage for stage in every if known(stage.targets[0]))
    cuts = [edge for edge in cuts_of(graph) if known(edge)]
    if by != "block":
        if wrong := [edge for edge in by if edge not in cuts]:
            names = ", ".join(cuts) or "none"
            raise ConfigError("no place to cut", where=wrong[0], expected=f"one of {names}")
        return _between(graph, set(by), {})
    chosen, last, inside = set[Edge](), "", {node.name: _block(node, blocks) for node in graph.nodes}
    open_ = ""  # the last place to cut behind the last layer
    for node in graph.nodes:
        if _weighted(node):
            if last and inside[node.name] != last and open_:
                chosen.add(open_)
            last, open_ = inside[node.name], ""
        moves = operator(node.op).same or operator(node.op).integer == "move"
        if node.name in cuts and not (open_ and (moves or prod(node.shape) < prod(graph.node(open_).shape))):
            open_ = node.name
    return _between(graph, chosen, inside)


def cuts_of(graph: Graph) -> tuple[Edge, ...]:
    """Return the activations that are all that what follows reads of what came before, in order.

    What sees no weight (a mask, positions) may pass by them.
    """
    number = {node.name: place for place, node in enumerate(graph.nodes)}
    last = dict.fromkeys(graph.outputs, len(graph.nodes))
    for node in graph.nodes:
        for edge in node.inputs:
            last[edge] = max(last.get(edge, 0), number[node.name])
    seen, found, reach = set[Edge](), list[Edge](), 0  # reach: the last reader of all but the last activation
    previous: Edge | None = None
    for place, node in enumerate(graph.nodes):
        if not (node.tensors or seen & {*node.inputs}):
            continue
        seen.add(node.name)
        if previous is not None:
            reach = max(reach, last.get(previous, 0))
        previous = node.name
        if reach <= place and place < last.get(node.name, 0) and node.name not in graph.outputs:
            found.append(node.name)
    return tuple(found)


def _weighted(node: Node) -> bool:
    return operator(node.op).axes is not None and bool(node.tensors)


def _block(node: Node, blocks: Sequence[str]) -> str:
    """Return the block that a node is in, or its own module."""
    return next(
        (path for path in blocks if f"{node.module}.".startswith(f"{path}.")), node.module or node.name
    )


def _around(graph: Graph, node: Node) -> Stage:
    """Return a layer, and what is part of it, as a stage."""
    nodes, last = [node], absorbable(graph, node)
    while last and nodes[-1].name != last.name:
        nodes += graph.consumers(nodes[-1].name)
    read = tuple(dict.fromkeys(name for part in nodes for name in part.tensors))
    names = tuple(part.name for part in nodes)
    return Stage(node.module or node.name, names, (names[-1],), read)


def _between(graph: Graph, cuts: set[Edge], inside: Mapping[Edge, str]) -> tuple[Stage, ...]:
    """Return what lies between cuts as stages; behind the last one without weights it is no stage of its own."""
    parts: list[list[Node]] = [[]]
    for node in graph.nodes:
        if node.op != "input":
            parts[-1].append(node)
        if node.name in cuts:
            parts.append([])
    if len(parts) > 1 and not any(node.tensors for node in parts[-1]):
        parts[-2:] = [parts[-2] + parts[-1]]
    found = []
    for part in parts:
        layers = [inside.get(node.name, "") for node in part if _weighted(node)]
        targets = (part[-1].name,) if part is not parts[-1] else graph.outputs
        read = tuple(dict.fromkeys(name for node in part for name in node.tensors))
        name = layers[0] if layers and layers[0] else targets[0]
        found.append(Stage(name, tuple(node.name for node in part), targets, read))
    return tuple(found)
