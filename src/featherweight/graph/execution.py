"""A captured network run piece by piece, with tensors of the caller's in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from featherweight.graph.graph import Edge
from featherweight.graph.memory_format import ANY, channels_last
from featherweight.graph.program import Program
from featherweight.graph.trace import edges_of, size
from featherweight.graph.views import canonical_names

# What has been computed and is still to be read, by the node that makes it.
Values = Mapping[fx.Node, Any]
Tensors = Mapping[str, Tensor]


class Execution:
    """The operators of a captured `module` in order. Position p lies before the p-th of them.

    >>> import torch
    >>> from featherweight.graph.program import capture
    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    >>> execution = Execution(network, capture(network, torch.ones(2, 2)))
    >>> middle, end = execution.position("linear_1"), len(execution)
    >>> values = execution.run(execution.start({"input": torch.ones(2, 2)}), 0, middle)
    >>> execution.outputs(execution.run(values, middle, end))[0].equal(network(torch.ones(2, 2)))
    True

    Attributes:
        batch: samples that the network is captured for: an example of as many; None where any number will do.
        nbytes: bytes a sample of what is alive at each position, as on the example.
    """

    def __init__(self, module: nn.Module, program: Program) -> None:
        self._graph = program.exported.graph
        self._nodes = [node for node in self._graph.nodes if node.op == "call_function"]
        self._producers: dict[Edge, int] = {}
        edges = edges_of(module, program)
        for position, node in enumerate(self._nodes):
            if node.name in edges:
                self._producers.setdefault(edges[node.name], position)
        self._placeholders, self._names, self._stored = placeholders(module, program)
        self._last = {operand: len(self._nodes) for operand in self._graph.output_node().all_input_nodes}
        for position, node in reversed(list(enumerate(self._nodes))):
            for operand in node.all_input_nodes:
                self._last.setdefault(operand, position)
        samples = len(next(iter(program.example.values())))
        self.batch = None if program.dynamic else samples
        self.nbytes = [total / samples for total in self._alive()]

    def __len__(self) -> int:
        return len(self._nodes)

    def position(self, edge: Edge) -> int:
        """Return the position of the operator that produces `edge`."""
        return self._producers[edge]

    def start(self, inputs: Tensors) -> Values:
        """Return the values at position 0, given the network's inputs by name."""
        return {node: channels_last(inputs[name]) for name, node in self._placeholders.items()}

    def run(self, values: Values, start: int, stop: int, tensors: Tensors | None = None) -> Values:
        """Return the values that are alive at position `stop`, given those at `start`.

        Args:
            values: at `start`.
            start: where they are from.
            stop: not before `start`.
            tensors: what stands in for parameters and buffers, by canonical name.
        """
        alive = dict(values)
        with torch.no_grad():
            for position in range(start, stop):
                node = self._nodes[position]
                args, kwargs = fx.map_arg(
                    (node.args, node.kwargs), lambda operand: self._value(operand, alive, tensors or {})
                )
                alive[node] = ANY.get(node.target, node.target)(*args, **kwargs)
                for operand in (*node.all_input_nodes, node):
                    if self._last.get(operand, -1) <= position:
                        alive.pop(operand, None)
        return alive

    def operand(self, values: Values, position: int) -> Tensor:
        """Return the first argument, an activation, of the operator at `position`, whose values these are."""
        first: Tensor = values[self._nodes[position].all_input_nodes[0]]
        return first

    def outputs(self, values: Values) -> tuple[Tensor, ...]:
        """Return the network's outputs, flat, from the values at the end."""
        found = (self._value(node, values, {}) for node in self._graph.output_node().args[0])
        return tuple(found)

    def _value(self, operand: fx.Node, alive: Values, tensors: Tensors) -> Any:
        if operand in alive:
            return alive[operand]
        return tensors.get(self._names[operand], self._stored[operand])

    def _alive(self) -> list[int]:
        """Bytes of the activations that are alive at each position on the example."""
        change = [0] * (len(self._nodes) + 2)
        made = [*((node, 0) for node in self._placeholders.values())]
        made += [(node, position + 1) for position, node in enumerate(self._nodes)]
        for node, since in made:
            value = node.meta["val"]
            if isinstance(value, Tensor) and node in self._last:
                nbytes = prod(size(n) for n in value.shape) * value.dtype.itemsize
                change[since] += nbytes
                change[self._last[node] + 1] -= nbytes
        return list(accumulate(change))[: len(self._nodes) + 1]


def placeholders(
    module: nn.Module, program: Program
) -> tuple[dict[str, fx.Node], dict[fx.Node, str], dict[fx.Node, Any]]:
    """Return the nodes of a program's inputs by name; of its state, the canonical names, and the values."""
    canonical, exported = canonical_names(module), program.exported
    inputs, names, stored = iter(program.example), {}, {}
    found: dict[str, fx.Node] = {}
    places = (node for node in exported.graph.nodes if node.op == "placeholder")
    for node, spec in zip(places, exported.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            found[next(inputs)] = node
        else:
            target = spec.target or ""
            names[node] = canonical.get(target.removeprefix("module."), "")
            stored[node] = program.state.get(target)
    return found, names, stored
