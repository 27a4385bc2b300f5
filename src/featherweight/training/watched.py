"""Captured networks whose activations are seen while they run; one of them trains beside the network that learns."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from featherweight.capture.execution import Execution, Visit
from featherweight.capture.program import Program
from featherweight.capture.pytree import flatten_inputs
from featherweight.errors import UnsupportedError
from featherweight.graph.graph import Edge
from featherweight.model import Model, share
from featherweight.task import Inputs, Output, Task
from featherweight.task.samples import mapped, size_of
from featherweight.training.methods.base import Group, Trained
from featherweight.training.state import places


class Watched:
    """A captured network: calling it returns its output, and its activations on some edges.

    Args:
        program: the network, captured.
        edges: those to see, as what reads them finds them.
        visit: what is done with each activation before; see `Execution`.
        reads: edges from an activation to one operator that reads it, which `visit` sees too.
        grad: whether gradients can be taken of what is computed.

    Raises:
        UnsupportedError: it computes no such activation; names it.
    """

    def __init__(
        self, program: Program, edges: Collection[Edge], visit: Visit | None = None, *,
        reads: Collection[Edge] = (), grad: bool = False,
    ) -> None:  # fmt: skip
        self._program, self._wanted, self._visit = program, frozenset(edges), visit
        self._seen: dict[Edge, Tensor] = {}
        self._execution = Execution(program, self._see, reads=reads, grad=grad)
        self.edges = self._execution.edges
        if gone := sorted(self._wanted - self.edges):
            raise UnsupportedError("is not computed as the network trains", where=gone[0])

    def __call__(
        self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None
    ) -> tuple[Output, dict[Edge, Tensor]]:
        """Return output and activations; `tensors` stand in for parameters and buffers, by canonical name."""
        if self._execution.batch not in (None, count := size_of(inputs)):
            raise UnsupportedError(
                "captured for one size of batch, which its code fixes",
                got=count,
                expected=self._execution.batch,
            )
        self._seen = {}
        flat = self._execution(flatten_inputs(self._program.flat.module, inputs), tensors)
        return mapped(flat.__getitem__, self._program.outputs), self._seen

    def _see(self, edge: Edge, value: Tensor) -> Tensor:
        value = value if self._visit is None else self._visit(edge, value)
        if edge in self._wanted:
            self._seen[edge] = value.clone()  # a network may write to it afterwards
        return value


class Companion(Trained):
    """A network that trains beside the one that learns, in training mode: calling it is calling `Watched`."""

    def __init__(self, model: Model, task: Task, edges: Collection[Edge]) -> None:
        program = model.program(task.example()).training(share(model.module).train())
        self._watched = Watched(program, edges, grad=True)
        _, tensors = places(model)
        self._names = [*tensors]
        for name, tensor in tensors.items():
            copy = tensor.detach().clone()
            vars(self)[f"of/{name}"] = nn.Parameter(copy) if tensor.requires_grad else copy

    def __call__(self, inputs: Inputs) -> tuple[Output, dict[Edge, Tensor]]:
        """Return its output and activations."""
        return self._watched(inputs, {name: vars(self)[f"of/{name}"] for name in self._names})

    def groups(self) -> list[Group]:
        """Return the parameters; weight decay applies to those of two and more dimensions."""
        every = self.parameters()
        return [
            Group([p for p in every if p.dim() > 1]),
            Group([p for p in every if p.dim() <= 1], decays=False),
        ]
