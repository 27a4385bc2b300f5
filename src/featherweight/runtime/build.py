"""The complete float graph: the stored graph with the decoded tensors in their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from featherweight.artifact import Artifact, StoredGraph
from featherweight.errors import IntegrityError, UnsupportedError

Array = NDArray[Any]


def build_onnx(graph: StoredGraph, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a plain ONNX model that any runtime opens.

    Args:
        graph: the graph without its weights.
        tensors: decoded tensors by canonical name; they are copied.

    Raises:
        IntegrityError: the graph is damaged, refers to other files, or does not fit the tensors.
    """
    try:
        model = onnx.ModelProto.FromString(graph.onnx)
    except DecodeError:
        raise IntegrityError("the stored graph is not an ONNX model", where="graph") from None
    if any(tensor.external_data for tensor in _tensors(model.graph)):
        raise IntegrityError("the stored graph refers to other files", where="graph")
    _check_operators(model)
    types = {stub.name: stub.data_type for stub in model.graph.initializer if not _filled(stub)}
    constants = [tensor for tensor in model.graph.initializer if tensor.name not in types]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    for entry in graph.initialisers:
        if entry.tensor not in tensors:
            raise IntegrityError("the stored graph needs a tensor that is not there", where=entry.tensor)
        try:
            array = np.asarray(tensors[entry.tensor])
            array = array.transpose(entry.permutation) if entry.permutation else array
            array = array.reshape(entry.shape) if entry.shape else array
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types.get(entry.name, onnx.TensorProto.FLOAT))
        except (ValueError, KeyError) as error:
            raise IntegrityError(f"does not fit the stored graph: {error}", where=entry.tensor) from None
        array = np.ascontiguousarray(array.astype(dtype, copy=False))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.reshape(array.shape), entry.name))
    return model


def _check_operators(model: onnx.ModelProto) -> None:
    """Refuse operators that lack inputs, or whose attributes are not of their type; the runtime refuses the rest."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {entry.domain: entry.version for entry in model.opset_import}
    try:
        for node in model.graph.node:
            inner = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
            if (
                onnx.defs.has(node.op_type, node.domain) and not inner
            ):  # a graph inside reads values of this one
                onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        raise IntegrityError(
            f"the stored graph has a malformed operator: {str(error).splitlines()[0]}", where="graph"
        ) from None


def onnx_of(artifact: Artifact) -> onnx.ModelProto:
    """Return the complete float ONNX model of a file.

    Raises:
        UnsupportedError: the file holds no graph; says why.
        IntegrityError: the graph or a tensor is damaged.
    """
    return build_onnx(graph_of(artifact), artifact.weights())


def values_of(graph: StoredGraph) -> set[str]:
    """Return the names of the activations of a graph: its inputs, and what its operators write."""
    stored = onnx.ModelProto.FromString(graph.onnx).graph
    return {value.name for value in stored.input} | {name for node in stored.node for name in node.output}


def graph_of(artifact: Artifact) -> StoredGraph:
    """Return the stored graph of a file.

    Raises:
        UnsupportedError: there is none; says why.
    """
    graph = artifact.graph
    if graph is None:
        reason = artifact.facts.get("graph", "it was written without one")
        raise UnsupportedError(
            f"the file holds no graph to run: {reason}",
            hint="artifact.into(module) restores the weights in PyTorch",
        )
    return graph


def _filled(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor holds its data (one without elements needs none)."""
    return (
        any(data for field, data in tensor.ListFields() if field.name.endswith("_data")) or 0 in tensor.dims
    )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield attribute.t
        yield from attribute.tensors
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                yield from _tensors(inner)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in an ONNX file, with what it keeps in files beside it.

    Raises:
        OSError: it cannot be read.
        IntegrityError: it is no ONNX file, or a file beside it is missing or damaged.
    """
    content = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise IntegrityError("not an ONNX file", where=str(path)) from None
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise IntegrityError(
            "its weights are in another file, which cannot be read", where=str(path), got=str(error)[:200],
            hint="put that file (often FILE.onnx.data) beside it again",
        ) from None  # fmt: skip
    return model
