"""The read-only graph of a network, as plain data: activations, what makes them, uses of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from featherweight.activations import Edge as Edge
from featherweight.formats import View


@dataclass(frozen=True)
class Operand:
    """A tensor that an operator reads.

    Attributes:
        argument: its name in the operator's schema; of several in a list, with its place (`tensors.0`).
        kind: an activation; a parameter or buffer as it is `stored`; what is `computed` of those; a `constant`.
        name: the edge; the canonical name; the name of the node in `Graph.computed`; of a constant, its own.
        shape: sizes on the example; -1 where the size depends on values.
        tensors: canonical names of the parameters and buffers that it is, or that it is computed of.
    """

    argument: str
    kind: Literal["edge", "stored", "computed", "constant"]
    name: str
    shape: tuple[int, ...]
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """One activation and the operator that makes it. An `Edge` is the name of the node that produces it.

    Attributes:
        name: unique; the same in every process and every later trace of the same network.
        op: the aten operator (`conv2d`, `linear`, `batch_norm`, `add`), or `input`, or `constant`.
        operands: the tensors it reads, in order of its arguments.
        module: path of the module whose code it is part of; empty for the network's own.
        shape: sizes on the example; -1 where the size depends on values.
        free: axes of `shape` that vary with the sizes of the inputs.
        dtype: as torch names it (`float32`).
        macs: multiply-accumulates of one sample; None where no formula is known. Element-wise operators,
            normalisations, pooling and look-ups count none.
        arguments: the operator's other arguments by name, without trailing ones that have their default.
        family: what torch says of the operator: `pointwise`, `reduction`, `view`, or nothing.
        result: which of several results of the operator it is.
    """

    name: str
    op: str
    operands: tuple[Operand, ...]
    module: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    dtype: str
    macs: int | None
    arguments: tuple[tuple[str, Any], ...] = ()
    family: str = ""
    result: int = 0

    @cached_property
    def inputs(self) -> tuple[Edge, ...]:
        """The activations it reads, in order of its arguments; one that is read twice stands there twice."""
        return tuple(operand.name for operand in self.operands if operand.kind == "edge")

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Parameters and buffers it reads, directly or through operators that see no activation."""
        return tuple(dict.fromkeys(name for operand in self.operands for name in operand.tensors))

    @cached_property
    def roles(self) -> Mapping[str, str]:
        """Argument (`weight`, `bias`, `running_mean`) to tensor, for those read as they are stored."""
        stored = (o for o in self.operands if o.kind == "stored" and o.argument.isidentifier())
        return {operand.argument: operand.name for operand in stored}

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """`arguments`, to look them up."""
        return dict(self.arguments)


@dataclass(frozen=True)
class Graph:
    """A network as it was traced on one example; holds no tensor and no object of torch.

    Attributes:
        nodes: in an order in which they can be computed; the inputs come first.
        outputs: the activations the network returns, flat.
        views: how each parameter and buffer is a matrix, by canonical name.
        computed: values that see no activation (a transposed or a normalised weight), in order.
        parameters: canonical names of the parameters among the tensors.
        rigid: tensors that must keep their shape, with the reason.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Edge, ...]
    views: dict[str, View] = field(repr=False)
    computed: tuple[Node, ...] = ()
    parameters: tuple[str, ...] = ()
    rigid: Mapping[str, str] = field(default_factory=dict, repr=False)

    def node(self, edge: Edge) -> Node:
        """Return the node that produces `edge`."""
        return self._by_name[edge]

    def consumers(self, edge: Edge) -> tuple[Node, ...]:
        """Return the nodes that read `edge`."""
        return self._consumers.get(edge, ())

    def readers(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read a parameter or buffer."""
        return self._readers.get(tensor, ())

    @cached_property
    def _by_name(self) -> dict[Edge, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _consumers(self) -> dict[str, tuple[Node, ...]]:
        return self._grouped([node.inputs for node in self.nodes])

    @cached_property
    def _readers(self) -> dict[str, tuple[Node, ...]]:
        return self._grouped([node.tensors for node in self.nodes])

    def _grouped(self, names: list[tuple[str, ...]]) -> dict[str, tuple[Node, ...]]:
        found: dict[str, dict[str, Node]] = {}
        for node, read in zip(self.nodes, names, strict=True):
            for name in read:
                found.setdefault(name, {})[node.name] = node
        return {name: tuple(nodes.values()) for name, nodes in found.items()}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample, over all nodes of which they are known; see `uncounted`."""
        return sum(node.macs or 0 for node in self.nodes)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Operators whose multiply-accumulates are not known."""
        return tuple(dict.fromkeys(node.op for node in self.nodes if node.macs is None))
