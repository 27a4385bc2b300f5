"""A captured network run operator by operator: whole or piece by piece, its activations seen, its tensors replaced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from featherweight.activations import ends
from featherweight.capture.memory_format import ANY, channels_last
from featherweight.capture.program import Program
from featherweight.capture.trace import canonical_names, operator_name, size
from featherweight.graph.graph import Edge

aten = torch.ops.aten


def _embedding(table: Tensor, places: Tensor, *options: Any) -> Any:
    return aten.embedding.default(table, torch.where(places < 0, places + len(table), places), *options)


def _index_select(x: Tensor, axis: int, places: Tensor) -> Any:
    return aten.index_select.default(x, axis, torch.where(places < 0, places + x.shape[axis], places))


# What runs in the place of operators; in networks that come from ONNX, negative indices count from the end.
_CALLS: dict[Any, Callable[..., Any]] = {
    **ANY,
    aten.embedding.default: _embedding,
    aten.index_select.default: _index_select,
}

# What has been computed and is still to be read, by the node that makes it.
Values = Mapping[fx.Node, Any]
Tensors = Mapping[str, Tensor]
# What is done with an activation: it is read, and what is returned takes its place.
Visit = Callable[[Edge, Tensor], Tensor]


class Execution:
    """The operators of a captured network in order. Position p lies before the p-th of them.

    >>> from torch import nn
    >>> from featherweight.capture.program import capture
    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    >>> execution, x = Execution(capture(network, torch.ones(2, 2))), {"input": torch.ones(2, 2)}
    >>> execution(x)[0].equal(network(torch.ones(2, 2)))
    True
    >>> middle, end = execution.position("linear_1"), len(execution)
    >>> values = execution.run(execution.start(x), 0, middle)
    >>> execution.outputs(execution.run(values, middle, end))[0].equal(execution(x)[0])
    True

    Of a program captured in training mode it writes the buffers and draws the random numbers that the network
    itself would; activations are overwritten where the network overwrites them.

    Args:
        program: the network, captured.
        visit: sees the activation of every edge, in order, and may replace it; in training as often as the network's
            code computes it.
        arguments: by edge, the arguments that its operator is called with in the place of its own, by position.
        reads: edges from an activation to one operator that reads it (`read_by`), as its first argument: `visit` sees
            them too, and what it returns is what that operator reads.
        grad: whether gradients can be taken of what is computed.

    Attributes:
        edges: those that `visit` sees.
        batch: samples that the network is captured for: an example of as many; None where any number will do.
        nbytes: bytes a sample of what is alive at each position, as on the example.
        read: the last position at which each parameter or buffer is read, by canonical name.
    """

    def __init__(
        self, program: Program, visit: Visit | None = None, *,
        arguments: Mapping[Edge, Mapping[int, Tensor]] | None = None, reads: Collection[Edge] = (),
        grad: bool = False,
    ) -> None:  # fmt: skip
        self._visit, self._arguments, self._grad = visit, arguments or {}, grad
        graph = program.exported.graph
        self._results = graph.output_node().args[0]
        self._nodes = [node for node in graph.nodes if node.op == "call_function"]
        self._read_placeholders(program)
        self._producers: dict[Edge, int] = {}
        self._written: dict[int, Edge] = {}
        ops = {node.name: node.op for node in program.graph.nodes}
        for position, node in enumerate(self._nodes):
            edge = program.edges.get(node.name)
            if edge is None or edge in self._inputs:
                continue
            if edge not in self._producers or operator_name(node.target).rstrip("_") == ops[edge]:
                self._producers.setdefault(edge, position)
                self._written[position] = edge
        self._reads = self._read_edges(program, reads)
        self.edges = frozenset({*self._inputs, *self._producers, *self._reads.values()})
        self._last = {operand: len(self._nodes) for operand in graph.output_node().all_input_nodes}
        for position, node in reversed(list(enumerate(self._nodes))):
            for operand in node.all_input_nodes:
                self._last.setdefault(operand, position)
        self.read: dict[str, int] = {}
        for operand, name in self._names.items():
            self.read[name] = max(self.read.get(name, -1), self._last.get(operand, -1))
        samples = len(next(iter(program.example.values())))
        self.batch = None if program.dynamic else samples
        self.nbytes = [total / samples for total in self._alive()]

    def __len__(self) -> int:
        return len(self._nodes)

    def __call__(self, inputs: Tensors, tensors: Tensors | None = None) -> tuple[Tensor, ...]:
        """Return the network's outputs, flat, of its inputs by name; `tensors` as in `run`."""
        return self.outputs(self.run(self.start(inputs), 0, len(self), tensors), tensors)

    def position(self, edge: Edge) -> int:
        """Return the position of the operator that produces `edge`."""
        return self._producers[edge]

    def makes(self, edge: Edge) -> bool:
        """Return whether an operator produces `edge`."""
        return edge in self._producers

    def start(self, inputs: Tensors) -> Values:
        """Return the values at position 0, given the network's inputs by name."""
        return {node: self._seen(name, channels_last(inputs[name])) for name, node in self._inputs.items()}

    def run(self, values: Values, start: int, stop: int, tensors: Tensors | None = None) -> Values:
        """Return the values that are alive at position `stop`, given those at `start`.

        Args:
            values: at `start`.
            start: where they are from.
            stop: not before `start`.
            tensors: what stands in for parameters and buffers, by canonical name.
        """
        alive, own = dict(values), tensors or {}
        with torch.set_grad_enabled(self._grad):
            for position in range(start, stop):
                node, edge = self._nodes[position], self._written.get(position, "")
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._value(n, alive, own))
                if read := self._reads.get(position):
                    args = (self._seen(read, args[0]), *args[1:])
                for place, argument in sorted(self._arguments.get(edge, {}).items()):
                    args = (*args[:place], *[None] * (place - len(args)), argument, *args[place + 1 :])
                value = _CALLS.get(node.target, node.target)(*args, **kwargs)
                alive[node] = self._seen(edge, value) if edge else value
                for operand in (*node.all_input_nodes, node):
                    if self._last.get(operand, -1) <= position:
                        alive.pop(operand, None)
        return alive

    def kept(self, values: Values, start: int, stop: int) -> Values:
        """Return those of `values` at `start` that are read before `stop`."""
        read = {operand for node in self._nodes[start:stop] for operand in node.all_input_nodes}
        return {node: value for node, value in values.items() if node in read}

    def value(self, values: Values, edge: Edge) -> Tensor:
        """Return the activation of an edge that is alive; an input, or what the operator at `position` made."""
        found: Tensor = values[self._inputs.get(edge) or self._nodes[self._producers[edge]]]
        return found

    def carried(self, values: Values, other: Execution) -> Values:
        """Return values of another program of the same network: activations by their edges, the others by name."""
        theirs, own = ({node: edge for edge, node in it._places().items()} for it in (other, self))
        places, names = {edge: node for node, edge in own.items()}, {node.name: node for node in self._nodes}
        found = {node: places.get(theirs.get(node, ""), names.get(node.name)) for node in values}
        return {place: values[node] for node, place in found.items() if place is not None}

    def _places(self) -> dict[Edge, fx.Node]:
        """Return the node that makes the activation of each edge."""
        return {**self._inputs, **{edge: self._nodes[at] for edge, at in self._producers.items()}}

    def operand(self, values: Values, position: int) -> Tensor:
        """Return the first argument, an activation, of the operator at `position`, whose values these are."""
        first: Tensor = values[self._nodes[position].all_input_nodes[0]]
        return first

    def outputs(self, values: Values, tensors: Tensors | None = None) -> tuple[Tensor, ...]:
        """Return the network's outputs, flat, from the values at the end; `tensors` as in `run`."""
        return tuple(self._value(node, values, tensors or {}) for node in self._results)

    def _seen(self, edge: Edge, value: Any) -> Any:
        return self._visit(edge, value) if self._visit and isinstance(value, Tensor) else value

    def _value(self, operand: fx.Node, alive: Values, tensors: Tensors) -> Any:
        if operand in alive:
            return alive[operand]
        return tensors.get(self._names[operand], self._stored[operand])

    def _read_edges(self, program: Program, reads: Collection[Edge]) -> dict[int, Edge]:
        """Return those of `reads` that are edges of the program, by the position of the operator that reads."""
        carried = {placeholder: name for name, placeholder in self._inputs.items()}
        found = {}
        for edge in reads:
            source, reader = ends(edge)
            if (position := self._producers.get(reader)) is None:
                continue
            operands = self._nodes[position].all_input_nodes
            if operands and source == carried.get(operands[0], program.edges.get(operands[0].name)):
                found[position] = edge
        return found

    def _read_placeholders(self, program: Program) -> None:
        """Find the nodes of the inputs by name; of the network's state, the canonical names, and the values.

        State are pieces of the function too, which torch has apart where they switch gradients off or on.
        """
        self._inputs: dict[str, fx.Node] = {}
        graph, parts = program.exported.graph, program.exported.graph_module
        pieces = graph.find_nodes(op="get_attr")
        self._names: dict[fx.Node, str] = dict.fromkeys(pieces, "")
        self._stored: dict[fx.Node, Any] = {node: getattr(parts, node.target) for node in pieces}
        canonical, inputs = canonical_names(program.flat.module), iter(program.example)
        specs = program.exported.graph_signature.input_specs
        for node, spec in zip(graph.find_nodes(op="placeholder"), specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self._inputs[next(inputs)] = node
            else:
                target = spec.target or ""
                self._names[node] = canonical.get(target.removeprefix("module."), "")
                self._stored[node] = program.state.get(target)

    def _alive(self) -> list[int]:
        """Return the bytes of the activations that are alive at each position on the example."""
        change = [0] * (len(self._nodes) + 2)
        made = dict.fromkeys(self._inputs.values(), 0) | {n: at for at, n in enumerate(self._nodes, start=1)}
        for node, since in made.items():
            value = node.meta["val"]
            if isinstance(value, Tensor) and node in self._last:
                nbytes = prod(size(n) for n in value.shape) * value.dtype.itemsize
                change[since] += nbytes
                change[self._last[node] + 1] -= nbytes
        return list(accumulate(change))[: len(self._nodes) + 1]
