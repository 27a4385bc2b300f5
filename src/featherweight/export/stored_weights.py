"""The float graph with its weights as they are rounded: integers, codebooks, half precision, widened when it is loaded.

The nodes that widen them see constants alone, which runtimes compute once, before anything runs: the file is small, and
as fast as a float one. `DequantizeLinear` would say the same, but ONNX Runtime computes it again in every call.
OpenVINO sees linear layers of integers, and rounds what they read to 8 bits in groups, unless it is told not to:
`DYNAMIC_QUANTIZATION_GROUP_SIZE` of 0 gives the float model's numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from featherweight.artifact import Artifact, Initialiser
from featherweight.export.float_graph import build_onnx, opened, rewriting
from featherweight.export.onnx_graph import Writer, replace
from featherweight.export.qdq import Qdq, build_qdq
from featherweight.export.signature import signed
from featherweight.formats import Clustered, Encoded, Float, Int

Array = NDArray[Any]

_SMALL = 1 << 10  # bytes of a tensor that is not worth a node
_BITS = 8  # of an element, at most


@rewriting("with weights as they are stored")
def weights_of(artifact: Artifact) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the float model of a file, its weights as they are stored, and those left in float32, with the reason.

    Its numbers are those of the float model bit for bit. Raises as `onnx_of` does.
    """
    graph, tensors, weights = opened(artifact)
    model = build_onnx(graph, tensors)
    floats = _store(model, graph.initialisers, weights)
    return signed(model, graph.outputs), floats


@rewriting("in integers, with weights as they are stored")
def integers_of(artifact: Artifact) -> Qdq:
    """Return the graph of a file in integers; weights of its layers in float are as they are stored. As `qdq_of`."""
    graph, tensors, weights = opened(artifact)
    made = build_qdq(graph, tensors, weights, artifact.activations)
    _store(made.onnx, graph.initialisers, weights)
    signed(made.onnx, graph.outputs)
    return made


def _store(
    model: onnx.ModelProto, initialisers: Iterable[Initialiser], weights: Mapping[str, Encoded]
) -> dict[str, str]:
    """Write large float32 initialisers as they are stored; return those that stay, with the reason."""
    table = {entry.name: entry for entry in initialisers}
    writer, floats, packed = Writer(), dict[str, str](), set[str]()
    for tensor in model.graph.initializer:
        entry = table.get(tensor.name)
        if entry is None or tensor.data_type != TensorProto.FLOAT or 4 * prod(tensor.dims) <= _SMALL:
            continue
        reason = _write(writer, entry, weights.get(entry.tensor), numpy_helper.to_array(tensor))
        if reason:
            floats[entry.tensor] = reason
        else:
            packed.add(tensor.name)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in packed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    replace(model.graph, [*writer.nodes, *model.graph.node], writer.tensors.values())
    return floats


def _write(writer: Writer, entry: Initialiser, encoded: Encoded | None, array: Array) -> str:
    """Write the nodes that make an initialiser `array` of a stored tensor, or return why it stays as it is."""
    if encoded is None:
        return "it is not encoded"
    found = _parts(encoded)
    if isinstance(found, str):
        return found
    stored, steps = found
    order, view = entry.permutation or tuple(range(len(encoded.view.shape))), encoded.view
    inner = tuple(view.shape[axis] for axis in view.permutation)  # the matrix, unfolded
    moves = tuple(view.permutation.index(axis) for axis in order)
    if not np.array_equal(
        _computed(stored, steps).reshape(inner).transpose(moves).reshape(array.shape), array
    ):
        return "its numbers are not those of its elements alone"
    name = entry.name
    last = tuple(range(len(moves))) == moves and array.shape == stored.shape
    names = iter([*(f"{name}/{n}" for n in range(len(steps) + 2)), name])
    value = writer.constant(stored, f"{name}/stored")
    todo: list[tuple[str, dict[str, Any], Array | None]] = list(steps)
    if not last:
        if stored.shape != inner:
            todo.append(("Reshape", {}, np.array(inner, np.int64)))
        if tuple(range(len(moves))) != moves:
            todo.append(("Transpose", {"perm": list(moves)}, None))
        if tuple(inner[axis] for axis in moves) != array.shape:
            todo.append(("Reshape", {}, np.array(array.shape, np.int64)))
    for place, (op, options, operand) in enumerate(todo):
        output = name if place == len(todo) - 1 else next(names)
        inputs = [value] if operand is None else [value, writer.constant(operand, f"{output}/{op}")]
        if op == "Gather":
            inputs = inputs[::-1]
        value = writer.add(op, inputs, output, **options)
    return ""


_Steps = list[tuple[str, dict[str, Any], Array | None]]


def _parts(encoded: Encoded) -> tuple[Array, _Steps] | str:
    """Return the elements of a tensor, and the operators that make its numbers of them; or why it has none."""
    kind, view = encoded.format, encoded.view
    cast = ("Cast", {"to": TensorProto.FLOAT}, None)
    inner = tuple(view.shape[axis] for axis in view.permutation)
    if isinstance(kind, Float) and kind.kind == "float16" and kind.per == "none":
        return encoded.decode().transpose(view.permutation).astype(np.float16), [cast]
    if isinstance(kind, Clustered) and kind.bits <= _BITS:
        places = encoded.symbols.astype(np.uint8).reshape(inner)
        codebook = encoded.parts["codebook"].astype(np.float32)
        return places, [("Cast", {"to": TensorProto.INT32}, None), ("Gather", {}, codebook)]
    if not isinstance(kind, Int) or kind.bits > _BITS:
        return f"{type(kind).__name__} has no elements of 8 bits"
    scale = encoded.parts["scale"].astype(np.float32)
    groups = scale.size // view.rows if scale.size > view.rows else 1
    if scale.size not in (1, view.rows * groups) or view.cols % groups:
        return "its groups do not divide its rows"
    shape = (view.rows, groups, -1) if groups > 1 else inner
    lead = (view.rows, groups, 1) if groups > 1 else (inner[0], *[1] * (len(inner) - 1))
    if scale.size not in (1, prod(lead)):
        return "its scales are not those of its first axis"
    zero = np.asarray(encoded.parts.get("zero_point", 0), np.int16)
    zero = zero.reshape(lead if zero.size > 1 else ())
    counted = encoded.symbols.astype(np.int16).reshape(shape)  # steps from the zero point, modulo 2**bits
    over = counted > (1 << kind.bits - 1) - 1 - zero
    stored = (np.where(over, counted - (1 << kind.bits), counted) + zero).astype(np.int8)
    less: _Steps = [("Sub", {}, zero.astype(np.float32))] if zero.any() else []
    return stored, [cast, *less, ("Mul", {}, scale.reshape(lead if scale.size > 1 else ()))]


def _computed(stored: Array, steps: _Steps) -> Array:
    """Return what the operators make of the elements."""
    found: Mapping[str, Any] = {
        "Cast": lambda x, _: x.astype(np.float32), "Sub": np.subtract, "Mul": np.multiply,
        "Gather": lambda x, codebook: codebook[x.astype(np.int64)],
    }  # fmt: skip
    for op, _, operand in steps:
        stored = found[op](stored, operand)
    return stored
