"""Where an exported graph stops being the network: the first layer that differs or is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.artifact import StoredGraph
from featherweight.capture.execution import Execution
from featherweight.capture.program import Program
from featherweight.export.float_graph import build_onnx, serialized
from featherweight.graph.graph import Edge, Node

Array = NDArray[Any]
Named = Mapping[str, Tensor]

TOLERANCE = 1e-5  # of the largest magnitude of an output


def difference(expected: Tensor, got: Array, tolerance: float = TOLERANCE) -> str:
    """Return how far `got` is from `expected`, or an empty string if it is within the tolerance.

    Args:
        expected: what the network computes.
        got: what the graph does.
        tolerance: of the largest magnitude of the output.

    >>> difference(torch.ones(3), np.float32([1, 1, 1.1]))
    '0.1 of its largest value'
    """
    wanted = (
        expected.detach().float().numpy() if expected.dtype == torch.bfloat16 else expected.detach().numpy()
    )
    if wanted.shape != got.shape:
        return f"its shape {list(got.shape)}, expected {list(wanted.shape)}"
    if wanted.dtype.kind != "f":
        wrong = int((wanted != got).sum())
        return f"{wrong} of {wanted.size} values" if wrong else ""
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)) or not np.array_equal(
        a[~np.isfinite(a)], b[~np.isfinite(a)], equal_nan=True
    ):
        return "NaN or infinity in other places"
    finite = np.isfinite(a)
    scale = float(np.abs(a[finite]).max(initial=0.0))
    gap = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (scale or 1.0)
    return f"{gap:.2g} of its largest value" if gap > _tolerance(expected.dtype, tolerance) else ""


def _tolerance(dtype: torch.dtype, least: float) -> float:
    return max(least, 8 * torch.finfo(dtype).eps) if dtype != torch.float64 else least


def first_difference(
    stored: StoredGraph, tensors: Mapping[str, Array], module: nn.Module, program: Program, inputs: Named
) -> str:
    """Return the first layer whose output differs from the network's, or the network's own name."""
    model = build_onnx(stored, tensors)
    made = {name for node in model.graph.node for name in node.output}
    known: list[tuple[Edge, Tensor]] = []

    def record(edge: Edge, value: Tensor) -> Tensor:
        if edge in made:
            known.append((edge, value))
        return value

    Execution(program, record)(inputs)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(edge) for edge, _ in known)
    try:
        session = onnxruntime.InferenceSession(serialized(model), providers=["CPUExecutionProvider"])
        results = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception:  # the whole graph ran: only this closer look is not to be had
        return type(module).__name__
    for (edge, value), result in zip(known, results, strict=True):
        if difference(value, result):
            return _said(program.graph.node(edge))
    return type(module).__name__


def refusing_layer(stored: StoredGraph, module: nn.Module, program: Program, message: str) -> str:
    """Return the layer with the ONNX operator that `message` names, or the network's own name."""
    nodes = list(onnx.ModelProto.FromString(stored.onnx).graph.node)
    made = {node.name: node for node in program.graph.nodes}
    named = [n for n, node in enumerate(nodes) if re.search(rf"\b{node.op_type}\b", message)]
    reached = set(nodes[named[0]].output) if named else set()
    for node in nodes[named[0] :] if named else ():
        edges = [made[name] for name in node.output if name in made and name in reached]
        if edges:
            return _said(edges[0])
        if reached & set(node.input):
            reached.update(node.output)
    return type(module).__name__


def _said(node: Node) -> str:
    return f"{node.module} ({node.op})" if node.module else node.op
