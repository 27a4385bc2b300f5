"""A captured network run node by node, each activation handed out under the name of its edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from featherweight.graph.graph import Edge
from featherweight.graph.memory_format import ANY, channels_last
from featherweight.graph.program import Program
from featherweight.graph.trace import edges_of

# What is done with an activation: it is read, and what is returned takes its place.
Visit = Callable[[Edge, Tensor], Tensor]


class Interpreter(fx.Interpreter):
    """Runs a captured network; `visit` sees the activation of every edge once, in order, and may replace it.

    Args:
        module: the network.
        program: the network, captured.
        visit: see `Visit`.
        arguments: by edge, the arguments that its operator is called with in the place of its own, by
            position.
    """

    def __init__(
        self,
        module: nn.Module,
        program: Program,
        visit: Visit,
        arguments: Mapping[Edge, Mapping[int, Tensor]] | None = None,
    ) -> None:
        super().__init__(program.exported.graph_module)
        self._program, self._visit, self._arguments = program, visit, arguments or {}
        first = {edge: name for name, edge in reversed(edges_of(module, program).items())}
        self._edges = {name: edge for edge, name in first.items()}

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the flat outputs of flat inputs, by name."""
        return tuple(self.run(*arguments(self._program, inputs)))

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        edge = self._edges.get(n.name, "")
        if edge in self._arguments:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            own = self._arguments[edge]
            positions = range(max(len(args), *(place + 1 for place in own)))
            args = tuple(own.get(place, args[place] if place < len(args) else None) for place in positions)
            result = self.call_function(n.target, args, kwargs)
        else:
            result = super().run_node(n)
        return self._visit(edge, result) if edge and isinstance(result, Tensor) else result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator on arguments of any layout."""
        return super().call_function(ANY.get(target, target), args, kwargs)


def arguments(program: Program, inputs: Mapping[str, Tensor]) -> list[Any]:
    """Return the captured function's arguments: the network's tensors, its constants, its inputs."""
    given = map(channels_last, inputs.values())
    found = []
    for spec in program.exported.graph_signature.input_specs:
        own = spec.kind != InputKind.USER_INPUT
        found.append(program.state.get(spec.target or "") if own else next(given))
    return found
