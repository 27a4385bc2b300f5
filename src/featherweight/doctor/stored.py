"""What the file of another tool stores (ONNX, OpenVINO IR, LiteRT), why that is not smaller, and what runs in float."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from featherweight.deploy.litert_file import schema_of_litert
from featherweight.deploy.litert_runtime import opened_litert
from featherweight.doctor.size import WORTH, Finding
from featherweight.doctor.speed import WEIGHTED, executed_in_openvino
from featherweight.engines import openvino_core, refusals, said
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.export.float_graph import all_nodes
from featherweight.runtime import usable
from featherweight.units import nbytes, percent

Array = NDArray[Any]

LITERT_MARK = b"TFL3"  # at byte 4
_LITERT_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
_INTEGERS = "quantize weights to 8 bits, a scale for each channel: featherweight compress w8a8, then export"


@dataclass(frozen=True)
class Held:
    """A tensor that a file stores.

    Attributes:
        name: of it, or of what reads it.
        dtype: as numpy names it.
        nbytes: in the file.
        axes: how many it has: scales and biases have one.
        digest: of its type, shape and content.
        single: whether it is one number, many times.
    """

    name: str
    dtype: str
    nbytes: int
    axes: int
    digest: bytes
    single: bool

    @classmethod
    def of(cls, name: str, array: Array) -> Held:
        """Describe an array."""
        content = np.ascontiguousarray(array)
        flat = content.reshape(-1)
        single = flat.size > 1 and bool((flat == flat[0]).all())
        head = f"{content.dtype.str} {content.shape} ".encode()
        return cls(
            name,
            str(content.dtype),
            content.nbytes,
            content.ndim,
            sha256(head + content.tobytes()).digest(),
            single,
        )


def onnx_held(model: onnx.ModelProto) -> list[Held]:
    """Return what an ONNX model stores: initialisers and constants, those of graphs within it too."""
    found = [Held.of(tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
    for node in all_nodes(model.graph.node):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                found.append(Held.of(node.name or node.output[0], numpy_helper.to_array(attribute.t)))
            for inner in (attribute.g, *attribute.graphs):
                found += [Held.of(tensor.name, numpy_helper.to_array(tensor)) for tensor in inner.initializer]
    return found


def size_of_stored(held: Iterable[Held], total: int) -> Iterator[Finding]:
    """Yield why a file is not smaller: float weights, tensors stored twice, tensors of one number.

    Args:
        held: what it stores.
        total: bytes of the file.
    """
    held = list(held)
    floats = sorted(
        (one for one in held if one.axes > 1 and one.dtype.startswith(("float", "bfloat"))),
        key=lambda one: -one.nbytes,
    )
    taken = sum(one.nbytes for one in floats)
    if taken >= WORTH * total:
        yield Finding(
            "stored as floats", "size", [one.name for one in floats],
            f"{len(floats)} tensors are stored as floats: {_share(taken, total)}", _INTEGERS,
        )  # fmt: skip
    seen: set[bytes] = set()
    again = [one for one in held if one.digest in seen or seen.add(one.digest)]  # type: ignore[func-returns-value]
    twice = sum(one.nbytes for one in again)
    if twice >= WORTH * total:
        yield Finding(
            "duplicates", "size", [one.name for one in again],
            f"{len(again)} tensors are stored a second time: {_share(twice, total)}",
            "let their readers share one: onnxscript's optimizer does, or tie them before the export",
        )  # fmt: skip
    filled = [one for one in held if one.single]
    spent = sum(one.nbytes for one in filled)
    if spent >= WORTH * total:
        yield Finding(
            "constants", "size", [one.name for one in filled],
            f"{len(filled)} tensors are one number, many times: {_share(spent, total)}",
            "store the number, which operators broadcast; or let the file be coded: featherweight compress",
        )  # fmt: skip


def _share(part: int, total: int) -> str:
    return f"{nbytes(part)}, {percent(part / max(total, 1))} of the file"


def ir_findings(path: Path, threads: int) -> list[Finding]:
    """Return the findings about an OpenVINO IR, read and run by OpenVINO; equal constants lie in it once.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        IntegrityError: it cannot read the file.
    """
    usable("openvino")
    try:
        model = openvino_core().read_model(path)
    except Exception as error:
        raise IntegrityError("OpenVINO cannot read it", where=str(path), got=said(error)) from error
    held = [
        Held.of(operator.get_friendly_name(), np.asarray(operator.data))
        for operator in model.get_ordered_ops()
        if operator.get_type_name() == "Constant"
    ]
    weights = path.with_suffix(".bin")
    once = {one.digest: one for one in held}
    total = path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)
    found = list(size_of_stored(once.values(), total))
    try:
        with refusals("OpenVINO cannot run it"):
            options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino_core().compile_model(model, "CPU", options)
    except UnsupportedError as error:
        return [
            *found,
            Finding(
                "refused",
                "speed",
                ["graph"],
                f"OpenVINO does not run it at all: {error.what}",
                "write it again",
            ),
        ]
    layers = [kernel for kernel in executed_in_openvino(compiled) if kernel.op in WEIGHTED]
    floats = [name for kernel in layers if kernel.precision == "float32" for name in kernel.layer[:1]]
    return [*found, *_float_layers("OpenVINO", floats, len(layers))]


def litert_findings(path: Path, threads: int) -> list[Finding]:
    """Return the findings about a LiteRT file, read by the schema of LiteRT and opened in it.

    Raises:
        MissingExtraError: LiteRT is not installed.
        IntegrityError: it is no LiteRT file, or a damaged one.
    """
    schema, content = schema_of_litert(), path.read_bytes()
    if content[4:8] != LITERT_MARK:
        raise IntegrityError(
            "not a LiteRT file", where=str(path), got=ascii(content[4:8]), expected=ascii(LITERT_MARK)
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        held, layers, floats = _read_litert(schema, model)
    except (
        struct.error,
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        KeyError,
    ) as error:
        raise IntegrityError("a damaged LiteRT file", where=str(path), got=str(error)[:200]) from error
    found = list(size_of_stored(held, len(content)))
    try:
        opened_litert(content, threads)
    except UnsupportedError as error:
        return [
            *found,
            Finding(
                "refused",
                "speed",
                ["graph"],
                f"LiteRT does not run it at all: {error.what}",
                "write it again",
            ),
        ]
    return [*found, *_float_layers("LiteRT", floats, layers)]


def _read_litert(schema: Any, model: Any) -> tuple[list[Held], int, list[str]]:
    """Return what a LiteRT model stores, how many layers it has, and the names of those that read floats."""
    dtypes = {
        number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)
    }
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    codes = [
        kinds.get(max(code.builtinCode, code.deprecatedBuiltinCode), "") for code in model.operatorCodes or []
    ]
    held: dict[int, Held] = {}
    layers, floats = 0, []
    for graph in model.subgraphs or []:
        for tensor in graph.tensors or []:
            data = model.buffers[tensor.buffer].data
            if tensor.buffer and data is not None and len(data):
                dtype = dtypes.get(tensor.type, "int8")
                raw = np.asarray(data, np.uint8)
                known = dtype in ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64")
                numbers = raw.view(dtype) if known and len(raw) % np.dtype(dtype).itemsize == 0 else raw
                fits = tensor.shape is not None and np.prod(tensor.shape) == numbers.size
                numbers = numbers.reshape(tensor.shape) if fits else numbers
                held.setdefault(tensor.buffer, Held.of(_text(tensor.name), numbers))
        for operator in graph.operators or []:
            if codes[operator.opcodeIndex] in _LITERT_LAYERS:
                layers += 1
                first = graph.tensors[
                    operator.inputs[2 if codes[operator.opcodeIndex] == "TRANSPOSE_CONV" else 0]
                ]
                if dtypes.get(first.type) in ("float32", "float16"):
                    floats.append(_text(graph.tensors[operator.outputs[0]].name))
    return list(held.values()), layers, floats


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")


def _float_layers(title: str, floats: list[str], layers: int) -> Iterator[Finding]:
    if floats:
        yield Finding(
            "float", "speed", floats, f"{len(floats)} of {layers} layers compute in float in {title}",
            "quantize weights and activations with a calibration set: featherweight compress w8a8, then export",
        )  # fmt: skip
