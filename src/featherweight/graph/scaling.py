"""Where channels between two layers can be scaled: up in one, down in the other, the function unchanged."""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.graph.graph import Graph, Node
from featherweight.graph.operators import operator


@dataclass(frozen=True)
class ScalePair:
    """Two layers, the second of which alone reads the first, through operators that scale with their input.

    Attributes:
        first: canonical name of the first layer's weight `[channels, ...]`.
        bias: of its bias, or None.
        second: of the second layer's weight `[out, channels / groups, ...]`.
        groups: of the second layer.
    """

    first: str
    bias: str | None
    second: str
    groups: int


def scale_pairs(graph: Graph) -> tuple[tuple[ScalePair, ...], dict[str, str]]:
    """Return the pairs, in order of execution; and of each other layer's weight, why it begins none."""
    pairs: list[ScalePair] = []
    without: dict[str, str] = {}
    for node in graph.nodes:
        weight = node.roles.get("weight")
        if operator(node.op).integer != "layer" or weight is None:
            continue
        end = _reader(graph, node)
        if isinstance(end, str):
            without[weight] = end
            continue
        groups = int(end.options.get("groups", 1))
        pairs.append(ScalePair(weight, node.roles.get("bias"), end.roles["weight"], groups))
    return tuple(pairs), without


def _reader(graph: Graph, node: Node) -> Node | str:
    """Return the layer that alone reads what `node` produces, or why there is none."""
    if _own(graph, node) != node.tensors:
        return "its tensors are used more than once, or computed"
    at = node
    while True:
        readers = graph.consumers(at.name)
        if at.name in graph.outputs or len(readers) != 1:
            return "what it produces is read in more than one place, or returned"
        (reader,) = readers
        if operator(reader.op).integer == "layer" and reader.inputs == (at.name,):
            return _checked(graph, node, at, reader)
        if reason := _obstacle(node, at, reader):
            return reason
        at = reader


def _checked(graph: Graph, node: Node, at: Node, reader: Node) -> Node | str:
    """Return the layer `reader` if its input channels are the output channels of `node`, or why they are not."""
    if _own(graph, reader) != reader.tensors or "weight" not in reader.roles:
        return f"the tensors of {reader.module} are used more than once, or computed"
    if len(at.shape) > 2 and (node.op == "linear") != (reader.op == "linear"):
        return f"{reader.module} takes its channels from another axis"
    return reader


def _own(graph: Graph, node: Node) -> tuple[str, ...]:
    """Return the tensors that `node` alone reads, as they are stored."""
    stored = {*node.roles.values()}
    return tuple(name for name in node.tensors if name in stored and len(graph.readers(name)) == 1)


def _obstacle(node: Node, at: Node, reader: Node) -> str:
    """Return why scaled channels do not come out of `reader` as they came in, or an empty string."""
    scales = operator(reader.op).scales
    if scales == "element":
        return ""
    if scales == "clip":
        return f"{reader.op} clips at a fixed value, which does not scale"
    if reader.op.startswith("batch_norm"):
        return "a batch norm follows: fold it first"
    if node.op == "linear" and len(at.shape) > 2:
        return f"{reader.op} may mix its channels with other axes"
    if scales == "reshape":
        kept = at.shape[:2] == reader.shape[:2] or (len(reader.shape) == 2 and at.shape[0] == reader.shape[0])
        return "" if kept else f"{reader.op} mixes its channels with other axes"
    if scales == "mean":
        axes = {axis % len(at.shape) for axis in reader.options.get("dim") or range(len(at.shape))}
        return "mean is taken over its channels" if axes & {0, 1} else ""
    zeros = reader.options.get("mode", "constant") == "constant" and not reader.options.get("value")
    if scales == "channel" or (reader.op == "pad" and zeros):
        return ""
    return f"{reader.op} does not scale with its input"
