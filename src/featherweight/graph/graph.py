"""The read-only graph of a network, as plain data: activations, what makes them, uses of parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from featherweight.formats import View

Edge = str


@dataclass(frozen=True)
class Node:
    """One activation and the operator that makes it. An `Edge` is the name of the node that produces it.

    Attributes:
        name: unique; the same in every process and every later trace of the same network.
        op: the aten operator (`conv2d`, `linear`, `batch_norm`, `add`), or `input`.
        inputs: the activations it reads, in order of its arguments.
        tensors: canonical names of the parameters and buffers it reads, directly or through operators that
            see no activation (a transposed or a normalised weight), in order of its arguments.
        roles: argument (`weight`, `bias`, `running_mean`) to tensor, for those of `tensors` read as they are
            stored.
        module: path of the module whose code it is part of; empty for the network's own.
        shape: sizes on the example; -1 where the size depends on values.
        free: axes of `shape` that vary with the sizes of the inputs.
        dtype: as torch names it (`float32`).
        macs: multiply-accumulates of one sample; None where no formula is known. Element-wise operators,
            normalisations, pooling and look-ups count none.
        arguments: the operator's other arguments by name, without trailing ones that have their default.
    """

    name: str
    op: str
    inputs: tuple[Edge, ...]
    tensors: tuple[str, ...]
    roles: tuple[tuple[str, str], ...]
    module: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    dtype: str
    macs: int | None
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Layer:
    """One use of parameters: a module called twice is two layers.

    Attributes:
        name: path of the module, or the node's name where the network's own code uses its parameters.
        node: the node's name.
        op: as in `Node`.
        tensors: canonical names of what it reads.
        views: how each of `tensors` is a matrix.
        inputs: shapes of the activations it reads, on the example.
        shape: shape of what it returns, on the example.
        macs: multiply-accumulates of one sample, or None if unknown.
    """

    name: str
    node: str
    op: str
    tensors: tuple[str, ...]
    views: tuple[View, ...]
    inputs: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    macs: int | None


@dataclass(frozen=True)
class Graph:
    """A network as it was traced on one example; holds no tensor and no object of torch.

    Attributes:
        nodes: in an order in which they can be computed; the inputs come first.
        outputs: the activations the network returns, flat.
        views: how each parameter and buffer is a matrix, by canonical name.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Edge, ...]
    views: dict[str, View] = field(repr=False)

    def node(self, edge: Edge) -> Node:
        """Return the node that produces `edge`."""
        return next(node for node in self.nodes if node.name == edge)

    def consumers(self, edge: Edge) -> tuple[Node, ...]:
        """Return the nodes that read `edge`."""
        return tuple(node for node in self.nodes if edge in node.inputs)

    def readers(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read a parameter or buffer."""
        return tuple(node for node in self.nodes if tensor in node.tensors)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every use of parameters and buffers, in order of execution."""
        shapes = {node.name: node.shape for node in self.nodes}
        return tuple(
            Layer(
                node.module or node.name,
                node.name,
                node.op,
                node.tensors,
                tuple(self.views[name] for name in node.tensors),
                tuple(shapes[edge] for edge in node.inputs),
                node.shape,
                node.macs,
            )
            for node in self.nodes
            if node.tensors
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample, over all nodes of which they are known; see `uncounted`."""
        return sum(node.macs or 0 for node in self.nodes)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Operators whose multiply-accumulates are not known."""
        return tuple(dict.fromkeys(node.op for node in self.nodes if node.macs is None))
