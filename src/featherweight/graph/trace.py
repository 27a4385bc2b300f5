"""From a captured module to its graph: one node for every activation."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from featherweight.graph.graph import Edge, Graph, Node
from featherweight.graph.macs import multiply_accumulates, operator_name
from featherweight.graph.program import Dynamic, Program, capture, is_free
from featherweight.graph.views import canonical_names, views
from featherweight.task import Inputs

# What changes no value, so that whoever reads its result reads its input.
_TRANSPARENT = {"clone", "alias", "detach", "contiguous", "dropout", "lift_fresh_copy"}


def trace(module: nn.Module, example: Inputs, *, dynamic: Dynamic = None) -> Graph:
    """Return the graph of `module` in eval mode on `example`; the module is left as it was.

    Raises:
        UnsupportedError: the network cannot be traced; names the layer and why.
        TaskError: the network fails on its own example.
    """
    return graph_of(module, capture(module, example, dynamic=dynamic))


def graph_of(module: nn.Module, program: Program) -> Graph:
    """Return the graph of a captured `module`."""
    reader = _read(module, program)
    return Graph(
        tuple(reader.nodes), tuple(reader.edges[output] for output in _outputs(program)), views(module)
    )


def edges_of(module: nn.Module, program: Program) -> dict[str, Edge]:
    """Return the name of every value in the captured function that is an activation, to its edge."""
    return {fx_node.name: edge for fx_node, edge in _read(module, program).edges.items()}


def _read(module: nn.Module, program: Program) -> _Reader:
    reader = _Reader(placeholders(program, canonical_names(module)), _batch(program), tuple(program.example))
    for fx_node in program.exported.graph.nodes:
        reader.read(fx_node)
        reader.skip(fx_node)
    for fx_node in _outputs(program):
        reader.read_output(fx_node)
    return reader


def _outputs(program: Program) -> list[fx.Node]:
    return list(program.exported.graph.output_node().args[0])


def placeholders(program: Program, names: dict[str, str]) -> dict[str, tuple[str, ...] | str]:
    """Return placeholder to the canonical tensors it stands for (none for constants), or the name of an input."""
    found: dict[str, tuple[str, ...] | str] = {}
    inputs = iter(program.example)
    for spec in program.exported.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            found[spec.arg.name] = next(inputs)
        else:
            name = (spec.target or "").removeprefix("module.")
            found[spec.arg.name] = (names[name],) if name in names else ()
    return found


def _batch(program: Program) -> int:
    """Samples in the example: axis 0 of the first input where it is free, else 1 (the whole example)."""
    placeholders = {node.name: node for node in program.exported.graph.nodes if node.op == "placeholder"}
    for name in program.exported.graph_signature.user_inputs:
        value = placeholders[str(name)].meta["val"]
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
        for same, op in fx_node.meta.get("merged", ()):
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
