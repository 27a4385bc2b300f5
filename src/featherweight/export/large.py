"""ONNX models as files: one, or, where protobuf's 2 GiB are not enough, one with its weights in a file beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from featherweight.errors import WriteError
from featherweight.export import float_graph
from featherweight.export.float_graph import serialized
from featherweight.files import write_whole

Array = NDArray[Any]

DATA = ".data"  # behind the name of the model: the file of its weights
ALIGNED = 1 << 16  # bytes: runtimes map weights that lie so into memory
SMALL = 1 << 10  # bytes of a tensor that stays in the model: shapes are inferred from such


def write_onnx(
    model: onnx.ModelProto, path: str | Path, fed: Mapping[str, Array] = MappingProxyType({}), *,
    limit: int | None = None,
) -> tuple[Path, ...]:  # fmt: skip
    """Write a model, whole or not at all; return its files: the model, and that of its weights if there is one.

    Of a model that replaces one with weights beside it, the old one goes before the new weights come: no model ever
    lies beside weights of another.

    Args:
        model: complete; its weights may have any size.
        path: of the model; its weights lie beside it, under its name and `.data`.
        fed: weights that are inputs of the model, as of `fed_onnx`; then they lie beside it in any case.
        limit: bytes of weights from which they lie beside the model; by default what protobuf allows.

    Raises:
        WriteError: a file cannot be written.
    """
    path = Path(path)
    if not fed and nbytes(model) <= (float_graph.MOST_ONNX if limit is None else limit):
        return (write_whole(path, serialized(model)),)
    data, end, parts = path.with_name(path.name + DATA), 0, list[memoryview]()
    shell = without_weights(model)
    for number, value in reversed([*enumerate(shell.graph.input)]):
        if value.name in fed:
            del shell.graph.input[number]
    large = [(t, memoryview(t.raw_data)) for t in model.graph.initializer if len(t.raw_data) >= SMALL]
    inputs = {value.name: value for value in model.graph.input}
    for name, array in fed.items():
        kind = inputs[name].type.tensor_type.elem_type
        stub = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        large.append((stub, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data))
    for tensor, content in large:
        stub = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", end), ("length", content.nbytes)):
            stub.external_data.add(key=key, value=str(value))
        shell.graph.initializer.append(stub)
        parts += [content, memoryview(bytes(-content.nbytes % ALIGNED))]
        end += content.nbytes + parts[-1].nbytes
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error
    write_whole(data, parts)
    return write_whole(path, shell.SerializeToString(deterministic=True)), data


@contextmanager
def opened_onnx(
    model: onnx.ModelProto, fed: Mapping[str, Array] = MappingProxyType({}), *, limit: int | None = None
) -> Iterator[bytes | Path]:
    """Hand out a model as a runtime opens it: its bytes; of more than `limit`, a file that is gone at the end.

    `fed`, as in `write_onnx`, makes it a file, too.

    Raises:
        WriteError: the folder of temporary files has no room.
    """
    if not fed and nbytes(model) <= (float_graph.MOST_ONNX if limit is None else limit):
        yield serialized(model)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield write_onnx(model, Path(folder) / "model.onnx", fed, limit=limit)[0]


def nbytes(model: onnx.ModelProto) -> int:
    """Return the bytes of the weights of a model."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model without its large initialisers, which are never copied."""
    shell = onnx.ModelProto()
    _copy(model, shell, "graph")
    _copy(model.graph, shell.graph, "initializer")
    small = (tensor for tensor in model.graph.initializer if len(tensor.raw_data) < SMALL)
    shell.graph.initializer.extend(small)
    return shell


def shapes_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose large initialisers are inputs: shapes are inferred of it whatever their size."""
    shell = without_weights(model)
    shell.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if len(tensor.raw_data) >= SMALL
    )
    return shell


def _copy(source: Message, into: Message, left_out: str) -> None:
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if isinstance(value, Message):
            getattr(into, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(into, field.name, value)
        else:
            getattr(into, field.name).extend(value)
