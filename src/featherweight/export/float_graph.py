"""The complete float graph: the stored graph with the decoded tensors in their places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from featherweight.artifact import Artifact, StoredGraph
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.export.onnx_graph import LAYERS
from featherweight.export.stored_graph import parse
from featherweight.formats import Encoded

Array = NDArray[Any]

MOST_ONNX = (1 << 31) - (1 << 25)  # bytes of weights; protobuf stops at 2 GiB, and operators take room too


def build_onnx(graph: StoredGraph, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a plain ONNX model that any runtime opens, with a copy of the decoded tensors (by canonical name).

    Raises:
        IntegrityError: the graph is damaged, refers to other files, or does not fit the tensors.
    """
    model, table = parse(graph, {name: np.shape(tensor) for name, tensor in tensors.items()})
    for entry, kind in table:
        if entry.tensor not in tensors:
            raise IntegrityError("the stored graph needs a tensor that is not there", where=entry.tensor)
        try:
            array = np.asarray(tensors[entry.tensor])
            array = array.transpose(entry.permutation) if entry.permutation else array
            array = array.reshape(entry.shape) if entry.shape else array
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        except (ValueError, KeyError) as error:
            raise IntegrityError(f"does not fit the stored graph: {error}", where=entry.tensor) from None
        array = array.astype(dtype, copy=False)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, entry.name))
    _name_layers(model.graph, {entry.name: entry.tensor for entry, _ in table})
    return model


def _name_layers(graph: onnx.GraphProto, tensors: Mapping[str, str]) -> None:
    """Give layers the path of the module whose weight they multiply by: runtimes report them by it."""
    makers = {value: node for node in graph.node for value in node.output}
    taken = {node.name for node in graph.node}
    for node in graph.node:
        if node.op_type not in LAYERS or node.name or len(node.input) < 2:
            continue
        source = node.input[1]
        if source in makers and makers[source].op_type == "Transpose":
            source = makers[source].input[0]
        tensor = tensors.get(source, "")
        path = tensor.rpartition(".")[0] or tensor
        if path:  # another name for a module that is used again
            node.name = path if path not in taken else f"{path}/{node.output[0]}"
            taken.add(path)


def onnx_of(artifact: Artifact) -> onnx.ModelProto:
    """Return the complete float ONNX model of a file; raises as `opened` does."""
    graph, tensors, _ = opened(artifact)
    return build_onnx(graph, tensors)


def opened(artifact: Artifact) -> tuple[StoredGraph, dict[str, Array], dict[str, Encoded]]:
    """Return the graph of a file, its decoded tensors by every name, and those that are encoded.

    Raises:
        UnsupportedError: the file holds no graph; says why. Or its weights are too large for one.
        IntegrityError: the graph or a tensor is damaged.
    """
    graph = artifact.graph
    if graph is None:
        reason = artifact.facts.get("graph", "it was written without one")
        hint = "artifact.into(module) restores the weights in PyTorch"
        raise UnsupportedError(f"the file holds no graph to run: {reason}", hint=hint)
    shapes = {name: lazy.entry.shape for name, lazy in artifact.lazy.items()}
    _, table = parse(graph, shapes)
    check_size(
        math.prod(shapes[entry.tensor]) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        for entry, kind in table
    )
    return graph, *artifact.opened()


def serialized(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model; the same model, the same bytes.

    Raises:
        UnsupportedError: its weights exceed what an ONNX file holds.
    """
    check_size(len(tensor.raw_data) for tensor in model.graph.initializer)
    return bytes(model.SerializeToString(deterministic=True))


def check_size(nbytes: Iterable[int]) -> None:
    """Refuse weights that exceed what an ONNX file holds, before they are decoded or serialized.

    Raises:
        UnsupportedError: says how large they are.
    """
    total = sum(nbytes)
    if total > MOST_ONNX:
        raise UnsupportedError(
            "the weights are too large for an ONNX graph", where="graph", got=f"{total / 2**30:.2f} GiB",
            expected="under 2 GiB, as protobuf allows",
            hint="the file fills a module: artifact.into(module); or its weights: artifact.weights()",
        )  # fmt: skip


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
