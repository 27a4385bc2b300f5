"""Whether a runtime computes each layer in integers as the simulation does, fed with the runtime's own integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from featherweight.artifact import StoredGraph
from featherweight.export.check import arrays
from featherweight.graph.graph import Edge
from featherweight.graph.program import eval_mode
from featherweight.graph.pytree import flatten_inputs
from featherweight.model import Model
from featherweight.runtime import Runtime, Session, build_qdq
from featherweight.simulation import fake_quantize, interpreter
from featherweight.task import Inputs

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerParity:
    """How what the runtime writes to one edge compares with the simulation.

    Attributes:
        edge: the edge.
        equal: share of the integers that are equal.
        most: the greatest difference, in steps.
    """

    edge: Edge
    equal: float
    most: int


def layer_parity(
    model: Model, graph: StoredGraph, inputs: Inputs, runtime: Runtime = "onnxruntime"
) -> tuple[LayerParity, ...]:
    """Return the parity of every quantized edge that an operator writes.

    The runtime hands out the integers of every edge. Each layer of the simulation reads the runtime's integers,
    not its own, so that a difference is made by that layer alone.

    Args:
        model: a model with quantizers.
        graph: the float graph of it.
        inputs: what it is run on.
        runtime: what runs it.
    """
    program = model.program(inputs)
    flat = flatten_inputs(model.module, inputs)
    integers = handed_out(model, graph, {name: tensor.numpy() for name, tensor in flat.items()}, runtime)
    found: list[LayerParity] = []

    def visit(edge: Edge, value: Tensor) -> Tensor:
        quantizer = model.activations.get(edge)
        if quantizer is None or edge not in integers:
            return value if quantizer is None else fake_quantize(value, quantizer)
        own = quantizer.quantize(fake_quantize(value, quantizer).numpy())
        apart = np.abs(own.astype(np.int16) - integers[edge])
        if edge not in flat:
            found.append(LayerParity(edge, float((apart == 0).mean()), int(apart.max(initial=0))))
        return torch.from_numpy(quantizer.dequantize(integers[edge]))

    run = interpreter(model, program, visit)
    with eval_mode(model.module):
        run(flat)
    return tuple(found)


def handed_out(
    model: Model, graph: StoredGraph, inputs: dict[str, Array], runtime: Runtime
) -> dict[Edge, Array]:
    """Return the integers of every quantized edge, as the runtime computes them."""
    qdq = build_qdq(graph, arrays(model.module), model.weights, model.activations).onnx
    codes = {
        name: node for node in qdq.graph.node if node.op_type == "QuantizeLinear" for name in node.output
    }
    edges = [edge for edge in model.activations if f"{edge}/integer" in codes]
    for edge in edges:
        dtype = helper.np_dtype_to_tensor_dtype(model.activations[edge].dtype)
        qdq.graph.output.append(helper.make_tensor_value_info(f"{edge}/integer", dtype, None))
    first = len(qdq.graph.output) - len(edges)
    places = list(range(first, first + len(edges)))
    results = Session.of_onnx(qdq, places, runtime=runtime).run(inputs)
    return dict(zip(edges, results, strict=True))
