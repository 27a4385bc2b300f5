"""Which operator of a trace writes which activation: the graph's edges in a network as torch traced it."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from torch import fx
from torch.export import ExportedProgram

from featherweight.capture.trace import operator_name, path_of, type_of
from featherweight.graph.graph import Edge


@dataclass(frozen=True)
class Step:
    """An operator as torch traced it, which may write to its arguments.

    Attributes:
        name: of the traced node.
        op: of the operator, `add` for one that writes to its argument (`add_`) too.
        module: path of the module whose code it is part of.
        type: data type and sizes of the result.
        edge: the activation that it writes, where it is one of the graph.
    """

    name: str
    op: str
    module: str
    type: str
    edge: Edge | None = None


def steps_of(graph: fx.Graph) -> list[Step]:
    """Return the operators of a traced function."""
    return [
        Step(node.name, operator_name(node.target).rstrip("_"), path_of(node), type_of(node))
        for node in graph.nodes
        if node.op == "call_function"
    ]


def with_edges(
    steps: Iterable[Step], traced: fx.Graph, exported: ExportedProgram, edges: Mapping[str, Edge]
) -> list[Step]:
    """Return the steps of `traced` with the edges that they write, after `exported` was made of it."""
    results = {n.args: n.name for n in traced.nodes if n.target is operator.getitem}
    found = {node.name: node for node in traced.nodes}
    written: dict[tuple[str, str], Edge] = {}
    for node in exported.graph.nodes:
        equal = [(other, same) for same, _, other in node.meta.get("merged", ())]
        for value, known in ((node, node), *equal):
            if known.name in edges:
                name = origin(value, traced)
                if value.target is operator.getitem:
                    name = results.get((found.get(name), value.args[1]), name)
                written[name, type_of(value)] = edges[known.name]
    return [replace(step, edge=written.get((step.name, step.type))) for step in steps]


def aligned(steps: Sequence[Step], others: Sequence[Step]) -> list[Step]:
    """Return steps with the edges of others, a like sequence: of the same operators of the same modules in order."""
    mine, theirs = ([(step.op, step.module) for step in side] for side in (steps, others))
    found = list(steps)
    for old, new, count in SequenceMatcher(None, theirs, mine, autojunk=False).get_matching_blocks():
        for i in range(count):
            found[new + i] = replace(steps[new + i], edge=others[old + i].edge)
    return found


def origin(node: fx.Node, graph: fx.Graph) -> str:
    """Return the name of the node of `graph`, an earlier form of the function, that `node` came from."""
    source = node.meta.get("from_node")
    while source and source[-1].graph_id != id(graph):
        source = source[-1].from_node
    return source[-1].name if source else node.name if node.graph is graph else ""
