"""The network as integer hardware computes it, in torch: quantizers on its edges, integer weights and biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.activations import Affine, FloatingPoint, Quantizer, ends
from featherweight.capture.execution import Execution, Visit
from featherweight.capture.program import Program
from featherweight.capture.pytree import flatten_inputs
from featherweight.errors import UnsupportedError
from featherweight.formats.floating import MOST
from featherweight.graph.graph import Edge, Node
from featherweight.graph.operators import operator
from featherweight.integers import IntegerPlan, Operator, integer_plan
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Inputs
from featherweight.task.samples import mapped

# Positions of weight and bias among the arguments of a convolution or linear layer.
WEIGHT, BIAS = 1, 2
MOST_AVERAGED = 1 << 12  # integers, whose sum float32 tells from the next


def simulate(model: Model, example: Inputs) -> nn.Module:
    """Return the network of `model` as integer hardware computes it; it is called as the network is.

    The captured network runs in float32. Each activation with a quantizer is rounded to its integers, half to
    even. A layer whose weight is encoded as integers and whose input has a quantizer computes with the integer
    weights and with its bias rounded to int32 steps of input and weight, as a runtime has them. The products are
    summed in float32, so an activation may fall a step beside the runtime's where a sum is almost half way. An
    average of a few integers is often exactly half way: it is taken of their exact sum.

    Without quantizers it is the network itself.

    Raises:
        UnsupportedError: the network cannot be traced, or a quantizer is on no edge of it.
    """
    if not model.activations:
        return to_call(model.module)
    return Simulation(model, model.program(example))


def execution(model: Model, program: Program, visit: Visit, *, grad: bool = False) -> Execution:
    """Return what runs the network of `model` with integer weights and biases; `visit` sees each activation.

    Raises:
        UnsupportedError: a quantizer is on no edge of the network.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    reads = [edge for edge in model.activations if ends(edge)[1]]
    plan, sizes, arguments = plan_of(model, nodes), {"": 0}, {}
    for edge, layer in plan.layers.items():
        arguments[edge] = {WEIGHT: torch.from_numpy(layer.weights)}
        if layer.biases is not None:
            arguments[edge][BIAS] = torch.from_numpy(layer.biases)
    averaged_edges = {average.source for average in plan.averages.values()}

    def see(edge: Edge, value: Tensor) -> Tensor:
        if edge in averaged_edges:
            sizes[edge] = value.numel()
        if edge in plan.averages and value.numel():
            average = plan.averages[edge]
            value = exact(value, average.scale, average.count or sizes[average.source] // value.numel())
        return visit(edge, value)

    found = Execution(program, see, arguments=arguments, reads=reads, grad=grad)
    if unknown := sorted(model.activations.keys() - nodes.keys() - found.edges):
        raise UnsupportedError("a quantizer on no edge of the network", where=unknown[0])
    return found


def plan_of(model: Model, nodes: Mapping[Edge, Node]) -> IntegerPlan:
    """Return what of the network of `model` computes in integers."""
    found = list(operators(nodes))
    biases = {name: model.tensors[name].detach().numpy() for name in {op.bias for op in found} - {""}}
    return integer_plan(found, model.weights, biases, model.activations)


def operators(nodes: Mapping[Edge, Node]) -> Iterator[Operator]:
    """Yield the layers, averages and joins of a traced graph."""
    for edge, node in nodes.items():
        roles, inputs, kind = node.roles, node.inputs, operator(node.op).integer
        if kind == "layer" and len(inputs) == 1 and "weight" in roles:
            computed = "its bias is computed" if len(roles) < len(node.tensors) else ""
            yield Operator(edge, "layer", inputs, roles["weight"], roles.get("bias", ""), computed)
        elif kind == "average" and len(inputs) == 1:
            yield Operator(edge, "average", inputs, count=_count(node, nodes[inputs[0]].shape))
        elif kind == "join" and len(inputs) > 1 and not node.tensors:
            yield Operator(edge, "join", inputs)


def _count(node: Node, shape: tuple[int, ...]) -> int | None:
    """Return of how many numbers each result of an average is, as `Operator.count`; `shape`: of what it reads."""
    given = node.options
    if not node.op.startswith("avg_pool"):
        pairs = zip(shape[2:], node.shape[2:], strict=True) if node.op != "mean" else ()
        return 0 if all(whole % part == 0 for whole, part in pairs) else None
    kernel, padding = np.atleast_1d(given["kernel_size"]), np.atleast_1d(given.get("padding", 0))
    if padding.any() or given.get("ceil_mode", False) or given.get("divisor_override") is not None:
        return None
    count: int = int(kernel.prod()) ** (int(node.op[len("avg_pool")]) if kernel.size == 1 else 1)
    return count


def exact(average: Tensor, scale: float, count: int) -> Tensor:
    """Return averages of `count` integers times `scale`, float64, from those that were summed in float32."""
    if count > MOST_AVERAGED:
        return average
    return average.double().mul_(count / scale).round_().mul_(scale / count)


def fake_quantize(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return `x` rounded to the numbers of `quantizer`, float32; as `dequantize(quantize(x))` bit for bit."""
    if isinstance(quantizer, FloatingPoint):
        most = MOST[quantizer.kind]
        scaled = x.div(torch.tensor(quantizer.scale)).nan_to_num_(0.0, most, -most).clamp_(-most, most)
        return scaled.to(getattr(torch, quantizer.kind)).float().mul_(quantizer.scale)
    if not isinstance(quantizer, Affine):
        return torch.from_numpy(quantizer.dequantize(quantizer.quantize(x.detach().numpy())))
    least, most = (end - quantizer.zero_point for end in quantizer.grid)
    steps = x.div(torch.tensor(quantizer.scale, dtype=torch.float32)).round_().nan_to_num_(nan=0.0)
    return steps.clamp_(least, most).float().mul_(quantizer.scale)


class Simulation(nn.Module):
    """What `simulate` returns, of a model with quantizers and of its network, captured."""

    def __init__(self, model: Model, program: Program) -> None:
        super().__init__()
        self.module, self._program, self._activations = model.module, program, model.activations
        self._execution = execution(model, program, self._visit)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output; dataclasses and named tuples come as dictionaries."""
        inputs: Inputs = kwargs or (args[0] if len(args) == 1 else args)
        flat = self._execution(flatten_inputs(self.module, inputs))
        return mapped(flat.__getitem__, self._program.outputs)

    def _visit(self, edge: Edge, value: Tensor) -> Tensor:
        quantizer = self._activations.get(edge)
        return value if quantizer is None else fake_quantize(value, quantizer)
