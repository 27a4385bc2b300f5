"""Which activations need a quantizer for the network to run as integers, and which of them share one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from featherweight.activations import ends, read_by
from featherweight.graph.folding import foldable
from featherweight.graph.graph import Edge, Graph, Node
from featherweight.graph.operators import operator

# What is not read by layers alone is rounded as what is; by itself, and once more for each layer; or not at all.
Others = Literal["alike", "apart", "float"]

_READ = ("join", "product")  # in integers where an operator in integers reads them


@dataclass(frozen=True)
class Join:
    """A sum or a concatenation in integers.

    Attributes:
        op: `add` or `cat`.
        inputs: edges that it reads.
        written: the edge that it writes, behind a clamp that is part of it.
        shares: whether a quantizer that its inputs share is that of `written` as well.
    """

    op: str
    inputs: tuple[Edge, ...]
    written: Edge
    shares: bool


@dataclass(frozen=True)
class Plan:
    """What is to be quantized.

    Attributes:
        shared: edges that share one quantizer, together, each group and all groups in order of the graph.
        joins: sums and concatenations, whose edges may share one where their ranges are alike.
        readers: layers in integers (their operator) by the edge they read.
        skipped: layers with weights, and operators that were asked for, that compute in float, with the reason.
        wide: edges that others read beside layers or instead of them; none where all are rounded alike.
        reads: edges from those to the layers that read them, each with a quantizer of its own (`read_by`).
    """

    shared: tuple[tuple[Edge, ...], ...]
    joins: tuple[Join, ...]
    readers: Mapping[Edge, str]
    skipped: dict[str, str]
    wide: frozenset[Edge] = frozenset()
    reads: tuple[Edge, ...] = ()


def quantizable(
    graph: Graph, skip: Collection[str] = (), floats: Collection[Edge] = (), *, outputs: bool = False,
    others: Others = "alike",
) -> Plan:  # fmt: skip
    """Return which edges need a quantizer.

    Convolutions, linear layers, sums and concatenations of activations, products and averages read integers
    and, but for linear layers that nothing quantized follows, write them. A batch norm that can be folded into a
    layer, and a ReLU or clamp that alone reads what one of them writes, are part of it: the quantizer stands
    behind them, and its range clamps. What only moves numbers (max-pooling, reshaping, padding with zeros)
    shares the quantizer of what it reads.

    A sum, a concatenation or a product is in integers where an operator in integers reads it: rounding what a
    softmax, a layer norm or the caller reads gains nothing. With `outputs` the ends of the network are in integers too:
    what a last linear layer writes, and sums, concatenations and products that the caller reads.

    Args:
        graph: the network.
        skip: paths of modules, and names of operators, to compute in float.
        floats: edges that can have no quantizer. What reads or writes them computes in float.
        outputs: whether what the last layers write is quantized too.
        others: how activations are rounded that not only layers read: a skip connection, a sum, the caller. In `float`
            layers alone read integers, as in papers.
    """
    asked = [node for node in graph.nodes if _integer(graph, node) and not {node.module, node.name} & {*skip}]
    if others == "float":
        asked = [node for node in asked if kind(node) == "layer"]
    held, ends = {*floats}, _ends(graph, asked) if outputs else set()
    while True:
        if others == "float":
            chosen = [node for node in asked if not held & {*node.inputs}]
            groups = {edge: {edge} for node in chosen for edge in node.inputs}
        else:
            chosen = _read(graph, [node for node in asked if not held & _edges(graph, node, ends)], ends)
            groups = _groups(graph, chosen, ends)
        spread = {edge for group in groups.values() if group & held for edge in group}
        if spread <= held:
            break
        held |= spread
    order = {node.name: number for number, node in enumerate(graph.nodes)}
    wide = set[Edge]() if others == "alike" else _wide(graph, chosen, groups)
    shared = {
        tuple(sorted(group, key=order.__getitem__))
        for group in groups.values() if not (others == "float" and group & wide)
    }  # fmt: skip
    folded = [norm for node in chosen if (norm := foldable(graph, node))]
    names = {node.name for node in (*chosen, *folded)}
    skipped = {}
    for node in graph.nodes:
        if (node.tensors or node.name in skip) and node.name not in names and node.inputs:
            reason = f"{node.op} has no integer form here"
            if node.name in skip or node.module in skip:
                reason = "asked for"
            elif node in asked:
                reason = "what it reads or writes has no quantizer"
            skipped[node.module if node.tensors and node.module else node.name] = reason
    joined = [node for node in chosen if kind(node) == "join"]
    joins = tuple(Join(n.op, n.inputs, _result(graph, n), not absorbable(graph, n)) for n in joined)
    readers = {node.inputs[0]: node.op for node in chosen if kind(node) == "layer"}
    reads = tuple(
        read_by(edge, node.name)
        for node in chosen if kind(node) == "layer" for edge in node.inputs if edge in wide
    )  # fmt: skip
    return Plan(
        tuple(sorted(shared, key=lambda group: order[group[0]])), joins, readers, skipped, frozenset(wide), reads
    )  # fmt: skip


def read_at_peaks(graph: Graph) -> set[Edge]:
    """Return the edges of which the greatest numbers alone are what the network is asked for.

    A maximum over places reads them; or they become scores of many places, as those of a detector, which are looked at
    where they are large. Between may stand activation functions, sums, what moves numbers and, below scores,
    convolutions.
    """
    maxima = [n for n in graph.nodes if n.op == "amax" or n.op.startswith("adaptive_max_pool")]
    found: set[Edge] = set()
    for starts, stops in (
        (maxima, ("layer", "average", "product")),
        (_scores(graph), ("linear", "average", "product")),
    ):
        waiting, seen = [node.inputs[0] for node in starts], set[Edge]()
        while waiting:
            edge = waiting.pop()
            node = graph.node(edge)
            if edge not in seen and not {kind(node), node.op} & {*stops}:
                waiting += node.inputs
            seen.add(edge)
        found |= seen
    return found


def _scores(graph: Graph) -> list[Node]:
    """Return the sigmoids and softmaxes that write results of many places, `[n, channels, places, ...]`."""
    waiting, found = [graph.node(edge) for edge in graph.outputs], list[Node]()
    while waiting:
        node = waiting.pop()
        if node.op in ("sigmoid", "softmax", "_softmax") and len(node.shape) > 2:
            found.append(node)
        elif kind(node) == "move" or node.op == "cat":
            waiting += [graph.node(edge) for edge in node.inputs]
    return found


def _edges(graph: Graph, node: Node, ends: set[Edge]) -> set[Edge]:
    """Return the edges that need a quantizer for `node` to be in integers; a linear layer may write floats."""
    result = _result(graph, node)
    return {*node.inputs} if node.op == "linear" and result not in ends else {*node.inputs, result}


def _ends(graph: Graph, asked: list[Node]) -> set[Edge]:
    """Return what the last operators of `asked` write: those that the caller reads, and linear layers before no other.

    Between may stand clamps and what moves numbers; behind a last linear layer anything that is no layer.
    """
    returned = {*graph.outputs}
    for node in reversed(graph.nodes):
        if node.name in returned and kind(node) in ("move", "clamp"):
            returned |= {*node.inputs}
    found = {_result(graph, node) for node in asked} & returned
    followed = {
        e for node in asked if kind(node) not in _READ or _result(graph, node) in found for e in node.inputs
    }
    for node in reversed(graph.nodes):
        if node.name in followed:
            followed |= {*node.inputs}
    results = {_result(graph, node) for node in asked if node.op == "linear"}
    return found | (results - followed)


def _read(graph: Graph, chosen: list[Node], ends: set[Edge]) -> list[Node]:
    """Return `chosen` without the joins and products that neither one of them nor an end of the network reads."""
    while True:
        read = ends | {edge for node in chosen for edge in node.inputs}
        for node in reversed(graph.nodes):
            if node.name in read and kind(node) in ("move", "clamp"):
                read.add(node.inputs[0])
        kept = [node for node in chosen if kind(node) not in _READ or _result(graph, node) in read]
        if len(kept) == len(chosen):
            return kept
        chosen = kept


def _groups(graph: Graph, chosen: list[Node], ends: set[Edge]) -> dict[Edge, set[Edge]]:
    """Return the edges that need a quantizer, each with those that it shares it with."""
    wanted: dict[Edge, None] = dict.fromkeys(edge for node in chosen for edge in node.inputs)
    results = [(node.op, _result(graph, node)) for node in chosen]
    wanted |= dict.fromkeys(edge for op, edge in results if op != "linear" or edge in ends)
    groups = {edge: {edge} for edge in wanted}
    for first, second in _moved(graph, groups):
        merged = groups[first] | groups[second]
        groups |= dict.fromkeys(merged, merged)
    return groups


def _wide(graph: Graph, chosen: list[Node], groups: dict[Edge, set[Edge]]) -> set[Edge]:
    """Return the edges of groups that not only layers read, and what moves numbers within the group."""
    layers = {node.name for node in chosen if kind(node) == "layer"}
    found = set[Edge]()
    for edge, group in groups.items():
        if edge in graph.outputs or {node.name for node in graph.consumers(edge)} - layers - group:
            found |= group
    return found


def _integer(graph: Graph, node: Node) -> bool:
    """Return whether runtimes compute `node` from integers."""
    made = [graph.node(edge) for edge in node.inputs]
    if node.dtype != "float32" or any(source.dtype != "float32" for source in made):
        return False
    if kind(node) in ("layer", "average"):
        return len(made) == 1 and ("weight" in node.roles or kind(node) == "average")
    scaled = node.options.get("alpha", 1) != 1
    return kind(node) in _READ and len(made) > 1 and not node.tensors and not scaled


def _result(graph: Graph, node: Node) -> Edge:
    """Return the edge behind `node` and what is part of it."""
    return (absorbable(graph, node) or node).name


def absorbable(graph: Graph, node: Node) -> Node | None:
    """Return the last of what is part of `node`, if anything is: a batch norm that folds, a clamp that reads alone.

    A range can take the place of a clamp.
    """
    norm = foldable(graph, node) if kind(node) == "layer" else None
    node = norm or node
    readers = graph.consumers(node.name)
    alone = len(readers) == 1 and node.name not in graph.outputs and readers[0].inputs == (node.name,)
    return readers[0] if alone and kind(readers[0]) == "clamp" and node.op != "cat" else norm


def tied(graph: Graph, quantizers: Mapping[Edge, object]) -> tuple[tuple[Edge, ...], ...]:
    """Return the edges with quantizers, those together that share one: they move alike while ranges train.

    What only moves numbers shares the quantizer of what it reads; a join shares one where all that it reads have equal
    ones, and with what it writes if that is equal too and no clamp is part of it; edges to one reader share none.
    """
    groups = {node.name: {node.name} for node in graph.nodes if node.name in quantizers}
    for node in graph.nodes:
        if kind(node) not in ("move", "join"):
            continue
        written = "" if absorbable(graph, node) else node.name
        edges = [edge for edge in dict.fromkeys((*node.inputs, written)) if edge in groups]
        alike = [edge for edge in edges if quantizers[edge] == quantizers[edges[0]]]
        if {*node.inputs} <= {*alike}:
            merged = {edge for part in alike for edge in groups[part]}
            groups |= dict.fromkeys(merged, merged)
    order = {node.name: number for number, node in enumerate(graph.nodes)}
    shared = {tuple(sorted(group, key=order.__getitem__)) for group in groups.values()}
    alone = ((edge,) for edge in quantizers if ends(edge)[1])
    return (*sorted(shared, key=lambda group: order[group[0]]), *alone)


def _moved(graph: Graph, groups: dict[Edge, set[Edge]]) -> Iterator[tuple[Edge, Edge]]:
    """Yield pairs of edges before and behind an operator that moves numbers; the edge before becomes wanted."""
    for node in reversed(graph.nodes):
        if node.name in groups and kind(node) == "move":
            groups.setdefault(node.inputs[0], {node.inputs[0]})
            yield node.inputs[0], node.name


def kind(node: Node) -> str:
    """Return what a node is to a network in integers, as in `Operator`; padding with zeros moves numbers too."""
    found = operator(node.op).integer
    if node.op in ("pad", "constant_pad_nd"):
        zeros = node.options.get("mode", "constant") == "constant" and node.options.get("value", 0) == 0
        found = "move" if zeros else ""
    return "" if found == "move" and (len(node.inputs) != 1 or node.tensors) else found
