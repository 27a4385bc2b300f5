"""Where factors on the channels that linear layers read can come from: a norm, a gain, a gate; or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featherweight.graph.graph import Edge, Graph, Node

TOKENS = 3  # axes of what the layers of a transformer read: `[n, tokens, channels]`


@dataclass(frozen=True)
class SmoothSite:
    """An activation that linear layers read, and the tensors that its channels can be divided by.

    Attributes:
        edge: the activation `[..., channels]`.
        weights: canonical names of the weights `[out, channels]` of the layers that read it.
        layers: paths of their modules.
        sources: canonical names of the tensors whose first axis is its channels: divided, they divide it. None: it
            is read elsewhere too, or comes from what does not scale.
    """

    edge: Edge
    weights: tuple[str, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]


def smooth_sites(graph: Graph) -> tuple[tuple[SmoothSite, ...], dict[str, str]]:
    """Return the activations whose channels can be scaled; and of every other linear layer's weight, why not."""
    readers: dict[Edge, list[Node]] = {}
    without: dict[str, str] = {}
    for node in graph.nodes:
        weight = node.roles.get("weight")
        if node.op != "linear" or weight is None:
            continue
        if len(graph.readers(weight)) > 1:
            without[weight] = "it is used more than once"
        elif len(node.inputs) != 1 or len(graph.node(node.inputs[0]).shape) < TOKENS:
            without[weight] = "what it reads are no tokens `[n, tokens, channels]`"
        else:
            readers.setdefault(node.inputs[0], []).append(node)
    sites = []
    for edge, nodes in readers.items():
        alone = set(graph.consumers(edge)) == set(nodes) and edge not in graph.outputs
        sources = _sources(graph, graph.node(edge)) if alone else ()
        names = tuple(node.roles["weight"] for node in nodes)
        sites.append(SmoothSite(edge, names, tuple(node.module for node in nodes), sources))
    return tuple(sites), without


def _sources(graph: Graph, node: Node) -> tuple[str, ...]:
    """Return the tensors that divide what `node` alone writes where they are divided, or nothing."""
    channels = node.shape[-1:]
    if node.op in ("layer_norm", "rms_norm"):
        last = tuple(node.options.get("normalized_shape", ())) in ((), channels)
        return _own(graph, node, channels) if last and "weight" in node.roles else ()
    if node.op == "linear":
        return _own(graph, node, channels)
    if node.op == "_to_copy" and len(node.inputs) == 1:
        return _above(graph, node.inputs[0], node)
    if node.op not in ("mul", "add") or node.options.get("alpha", 1) != 1:
        return ()
    if len(node.inputs) == 1 and len(node.tensors) == 1:
        vector = _own(graph, node, channels)
        above = _above(graph, node.inputs[0], node) if node.op == "add" and vector else ()
        return vector if node.op == "mul" else vector + above if above else ()
    for edge in node.inputs if node.op == "mul" and len(set(node.inputs)) == 2 and not node.tensors else ():
        if graph.node(edge).op == "linear" and (found := _above(graph, edge, node)):
            return found
    return ()


def _above(graph: Graph, edge: Edge, reader: Node) -> tuple[str, ...]:
    """Return the sources of what `reader` alone reads."""
    node = graph.node(edge)
    alone = graph.consumers(edge) == (reader,) and edge not in graph.outputs and node.shape == reader.shape
    return _sources(graph, node) if alone else ()


def _own(graph: Graph, node: Node, channels: tuple[int, ...]) -> tuple[str, ...]:
    """Return the stored tensors of a node if it alone reads them and their first axis is the channels."""
    stored: list[Any] = [o for o in node.operands if o.kind != "edge"]
    fits = all(
        o.kind == "stored" and o.shape[:1] == channels and len(graph.readers(o.name)) == 1 for o in stored
    )
    return tuple(o.name for o in stored) if fits else ()
