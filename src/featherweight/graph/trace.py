"""From a captured module to its graph: one node for every activation."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from featherweight.graph.graph import Edge, Graph, Node
from featherweight.graph.macs import multiply_accumulates, operator_name
from featherweight.graph.views import canonical_names, views

# What changes no value, so that whoever reads its result reads its input.
_TRANSPARENT = {"clone", "alias", "detach", "contiguous", "dropout", "lift_fresh_copy"}


def read(
    module: nn.Module, exported: ExportedProgram, names: tuple[str, ...]
) -> tuple[Graph, dict[str, Edge]]:
    """Return the graph of a captured `module`, and the edge of each value of the captured function by its name.

    Args:
        module: the network.
        exported: the function, without mutation.
        names: of its inputs.
    """
    reader = _Reader(placeholders(exported, names, canonical_names(module)), _batch(exported), names)
    for fx_node in exported.graph.nodes:
        reader.read(fx_node)
        reader.skip(fx_node)
    outputs = list(exported.graph.output_node().args[0])
    for fx_node in outputs:
        reader.read_output(fx_node)
    graph = Graph(tuple(reader.nodes), tuple(reader.edges[output] for output in outputs), views(module))
    return graph, {fx_node.name: edge for fx_node, edge in reader.edges.items()}


def placeholders(
    exported: ExportedProgram, inputs: tuple[str, ...], names: dict[str, str]
) -> dict[str, tuple[str, ...] | str]:
    """Return placeholder to the canonical tensors it stands for (none for constants), or the name of an input."""
    found: dict[str, tuple[str, ...] | str] = {}
    remaining = iter(inputs)
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            found[spec.arg.name] = next(remaining)
        else:
            name = (spec.target or "").removeprefix("module.")
            found[spec.arg.name] = (names[name],) if name in names else ()
    return found


def _batch(exported: ExportedProgram) -> int:
    """Samples in the example: axis 0 of the first input where it is free, else 1 (the whole example)."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for name in exported.graph_signature.user_inputs:
        value = nodes[str(name)].meta["val"]
        if value.dim() and is_free(value.shape[0]):
            return max(size(value.shape[0]), 1)
    return 1


class _Reader:
    """Reads fx nodes in order: activations become `nodes`, what sees none becomes their `tensors`."""

    def __init__(self, targets: dict[str, tuple[str, ...] | str], batch: int, taken: tuple[str, ...]) -> None:
        self.targets, self.batch, self.taken = targets, batch, set(taken)
        self.nodes: list[Node] = []
        self.edges: dict[fx.Node, Edge] = {}
        self.static: dict[fx.Node, tuple[str, ...]] = {}
        self.counted: set[fx.Node] = set()

    def read(self, fx_node: fx.Node) -> None:
        """Take in the next node."""
        if fx_node.op == "placeholder":
            target = self.targets[fx_node.name]
            if isinstance(target, tuple):
                self.static[fx_node] = target
            else:
                self._add(fx_node, fx_node, target, op="input")
        elif fx_node.op == "call_function" and isinstance(fx_node.meta.get("val"), Tensor):
            source = _source(fx_node)
            tensors = [n for n in _operands(source) if n in self.edges or n in self.static]
            if not any(n in self.edges for n in tensors):
                self.static[fx_node] = tuple(dict.fromkeys(t for n in tensors for t in self.static[n]))
            elif _operator(source) in _TRANSPARENT:
                self.edges[fx_node] = self.edges[tensors[0]]
            else:
                self._add(fx_node, source, self._name(_operator(source)), op=_operator(source))

    def skip(self, fx_node: fx.Node) -> None:
        """Use up the names of the activations behind `fx_node` that were merged with others."""
        for same, op, _ in fx_node.meta.get("merged", ()):
            if same in self.edges and op not in _TRANSPARENT:
                self._name(op)

    def read_output(self, fx_node: fx.Node) -> None:
        """Make a node of a value that the network returns though it sees no activation."""
        if fx_node not in self.edges:
            self._add(fx_node, _source(fx_node), self._name("constant"), op="constant")

    def _name(self, op: str) -> Edge:
        """The operator's name, numbered from the second on."""
        names = itertools.chain([op], (f"{op}_{count}" for count in itertools.count(1)))
        name = next(name for name in names if name not in self.taken)
        self.taken.add(name)
        return name

    def _add(self, fx_node: fx.Node, source: fx.Node, name: str, *, op: str) -> None:
        value = fx_node.meta["val"]
        reads = [n for n in _operands(source) if n in self.static] if op != "constant" else [fx_node]
        macs = 0 if op in ("input", "constant") or source in self.counted else multiply_accumulates(source)
        self.counted.add(source)
        self.edges[fx_node] = name
        self.nodes.append(
            Node(
                name,
                op,
                inputs=tuple(self.edges[n] for n in _operands(source) if n in self.edges),
                tensors=tuple(dict.fromkeys(t for n in reads for t in self.static[n])),
                roles=tuple(
                    (role, self.static[n][0])
                    for role, n in named_arguments(source)
                    if isinstance(n, fx.Node) and n.op == "placeholder" and self.static.get(n)
                ),
                module=path_of(source),
                shape=tuple(size(n) for n in value.shape),
                free=tuple(axis for axis, n in enumerate(value.shape) if is_free(n)),
                dtype=str(value.dtype).removeprefix("torch."),
                macs=None if macs is None else macs // self.batch,
                arguments=tuple(_arguments(source)) if op not in ("input", "constant") else (),
            )
        )


def _source(fx_node: fx.Node) -> fx.Node:
    """The operator itself, where `fx_node` is one of its several results."""
    while fx_node.target is operator.getitem:
        fx_node = fx_node.args[0]  # type: ignore[assignment]
    return fx_node


def _operator(fx_node: fx.Node) -> str:
    return operator_name(fx_node.target)


def path_of(fx_node: fx.Node) -> str:
    """Return the path of the innermost module that a captured node is part of."""
    stack = [path for path, _ in (fx_node.meta.get("nn_module_stack") or {}).values()]
    return re.sub(r"@\d+", "", stack[-1].removeprefix("module").removeprefix(".")) if stack else ""


def _operands(fx_node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, in order; one that is read twice stands there twice."""
    found: list[fx.Node] = []
    fx.map_arg((fx_node.args, fx_node.kwargs), lambda operand: found.append(operand))
    return found


def named_arguments(fx_node: fx.Node) -> list[tuple[str, Any]]:
    """Return the arguments of a captured node by the names of its operator's schema."""
    schema = getattr(fx_node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    return [*zip(names, fx_node.args, strict=False), *fx_node.kwargs.items()]


def _arguments(fx_node: fx.Node) -> Iterator[tuple[str, Any]]:
    """The arguments that are neither tensors nor symbolic sizes."""
    for name, value in named_arguments(fx_node):
        if isinstance(value, (bool, int, float, str)):
            yield name, value
        elif isinstance(value, (list, tuple)) and all(isinstance(part, (bool, int, float)) for part in value):
            yield name, tuple(value)


def size(number: int | torch.SymInt) -> int:
    """Return a size on the example; -1 where it depends on values."""
    if isinstance(number, int):
        return number
    hint = number.node.hint
    return -1 if hint is None else int(hint)


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


def type_of(node: fx.Node) -> str:
    """Return the data type and the sizes of a value; nothing of what is no tensor."""
    value = node.meta.get("val")
    return f"{value.dtype}{[size(n) for n in value.shape]}" if isinstance(value, Tensor) else ""


def is_free(size: int | torch.SymInt) -> bool:
    """Return whether a size of a captured network may change; torch keeps symbols for some that it has fixed."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number
