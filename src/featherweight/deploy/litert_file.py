"""A LiteRT file (`.tflite`) being written: tensors, operators and names, by the schema of LiteRT's own library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import MissingExtraError

Array = NDArray[Any]

ALIGNED = 16  # bytes: where data of tensors lie, as the schema demands
SIGNATURE = "serving_default"  # by which runtimes find the names of inputs and outputs
_IDENTIFIER = b"TFL3"
# Versions of operators that runtimes ask for: of float32, of int8 and of int16 activations.
_VERSIONS = {
    "CONV_2D": (1, 3, 4), "DEPTHWISE_CONV_2D": (1, 3, 5), "FULLY_CONNECTED": (1, 12, 12),
    "TRANSPOSE_CONV": (3, 3, 4), "ADD": (1, 2, 3), "SUB": (1, 3, 5), "MUL": (1, 2, 4), "QUANTIZE": (1, 2, 2),
    "DEQUANTIZE": (1, 2, 3), "AVERAGE_POOL_2D": (1, 2, 3), "MAX_POOL_2D": (1, 2, 3), "MEAN": (1, 2, 3),
    "CONCATENATION": (1, 2, 3), "PAD": (1, 2, 3), "TRANSPOSE": (1, 2, 4), "RESIZE_BILINEAR": (3, 3, 3),
    "RESIZE_NEAREST_NEIGHBOR": (3, 3, 3), "STRIDED_SLICE": (1, 2, 4), "SPLIT": (1, 2, 4), "SPLIT_V": (1, 2, 2),
    "REDUCE_MAX": (1, 2, 3), "LEAKY_RELU": (1, 2, 2), "GATHER": (1, 2, 4), "DEPTH_TO_SPACE": (1, 2, 2),
    "BATCH_MATMUL": (2, 2, 3), "BROADCAST_TO": (2, 2, 2), "MAXIMUM": (1, 2, 3), "MINIMUM": (1, 2, 3),
}  # fmt: skip
_TYPES = {
    "float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "uint8": "UINT8", "int16": "INT16", "int32": "INT32",
    "int64": "INT64", "bool": "BOOL", "float64": "FLOAT64",
}  # fmt: skip


@dataclass(frozen=True)
class Quantized:
    """What the integers of a tensor stand for: `scale * (q - zero)`.

    Attributes:
        dtype: `int8`, `int16`; of biases `int32` or `int64`.
        scale: one, or one a slice of `axis`, float32 `[n]`.
        zero: 0 where there are several scales.
        axis: along which the scales go.
    """

    dtype: str
    scale: tuple[float, ...]
    zero: int = 0
    axis: int = 0

    def quantize(self, numbers: Array) -> Array:
        """Return the integers of numbers, float32 of any shape, of one scale; ties go to even."""
        ends = np.iinfo(self.dtype)
        steps = np.rint(numbers / np.float32(self.scale[0])) + np.float32(self.zero)
        return np.asarray(np.clip(steps, ends.min, ends.max), self.dtype)

    def dequantize(self, integers: Array) -> Array:
        """Return the numbers of integers of one scale, float32."""
        return np.asarray((integers.astype(np.float32) - self.zero) * np.float32(self.scale[0]), np.float32)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: as people read it.
        shape: its sizes; those of free axes are 1.
        dtype: of its numbers, by numpy's name.
        quantized: what they stand for; None: themselves.
        data: of a constant.
        free: axes whose size the caller chooses.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantized: Quantized | None = None
    data: Array | None = None
    free: tuple[int, ...] = ()


@dataclass(frozen=True)
class Operator:
    """An operator: its kind by the schema's name, tensors by number (-1: absent), options by the schema's names."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(eq=False)
class LitertFile:
    """A graph under construction. Operators are appended in order of execution."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    _constants: dict[bytes, int] = field(default_factory=dict)

    def tensor(self, tensor: Tensor) -> int:
        """Add a tensor; return its number."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, array: Any, name: str, quantized: Quantized | None = None) -> int:
        """Return the number of a constant; equal ones are one."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = sha256(f"{array.dtype} {array.shape} {quantized}".encode() + array.tobytes()).digest()
        if key not in self._constants:
            made = Tensor(name, array.shape, str(array.dtype), quantized, array)
            self._constants[key] = self.tensor(made)
        return self._constants[key]

    def add(self, kind: str, inputs: Iterable[int], outputs: Iterable[int], **options: Any) -> None:
        """Append an operator."""
        self.operators.append(Operator(kind, tuple(inputs), tuple(outputs), options))

    def part(self, given: Iterable[int], output: int) -> tuple[LitertFile, list[int]]:
        """Return the file of what computes one tensor from those that are given, and which of these it reads."""
        inputs = [*given]
        wanted, kept = {output}, []
        for operator in reversed(self.operators):
            if wanted & {*operator.outputs}:
                kept.append(operator)
                wanted |= {*operator.inputs} - {-1, *inputs}
        used = [*dict.fromkeys(n for o in kept for n in (*o.inputs, *o.outputs) if n >= 0)]
        place = {number: new for new, number in enumerate(used)} | {-1: -1}
        read = [number for number in inputs if number in place]
        made = LitertFile(
            [self.tensors[number] for number in used],
            [
                Operator(o.kind, tuple(place[n] for n in o.inputs), tuple(place[n] for n in o.outputs), o.options)
                for o in reversed(kept)
            ],
            [place[number] for number in read], [place[output]],
        )  # fmt: skip
        return made, read

    def serialized(self) -> bytes:
        """Return the bytes of the file; the same graph, the same bytes.

        Raises:
            MissingExtraError: the library with the schema is not installed.
        """
        schema, builder = schema_of_litert(), _builder()
        buffers, tensors = [schema.BufferT()], []
        for tensor in self.tensors:
            made = schema.TensorT(
                shape=list(tensor.shape), type=getattr(schema.TensorType, _TYPES[tensor.dtype]),
                name=tensor.name, hasRank=True,
            )  # fmt: skip
            if tensor.free:
                made.shapeSignature = [
                    -1 if axis in tensor.free else n for axis, n in enumerate(tensor.shape)
                ]
            if tensor.quantized is not None:
                made.quantization = schema.QuantizationParametersT(
                    scale=list(tensor.quantized.scale), quantizedDimension=tensor.quantized.axis,
                    zeroPoint=[tensor.quantized.zero] * len(tensor.quantized.scale),
                )  # fmt: skip
            if tensor.data is not None:
                made.buffer = len(buffers)
                buffers.append(_aligned(schema)(tensor.data))
            tensors.append(made)
        codes: dict[tuple[str, int], int] = {}
        operators = [self._operator(schema, operator, codes) for operator in self.operators]
        graph = schema.SubGraphT(
            tensors=tensors, inputs=self.inputs, outputs=self.outputs, operators=operators, name="main"
        )
        model = schema.ModelT(
            version=3, subgraphs=[graph], buffers=buffers, description="featherweight",
            operatorCodes=[_code(schema, *key) for key in codes], signatureDefs=[self._signature(schema)],
        )  # fmt: skip
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _operator(self, schema: Any, operator: Operator, codes: dict[tuple[str, int], int]) -> Any:
        dtype = next((self.tensors[n].dtype for n in operator.inputs if n >= 0), "float32")
        if operator.kind == "QUANTIZE":
            dtype = self.tensors[operator.outputs[0]].dtype
        versions = _VERSIONS.get(operator.kind, (1, 1, 1))
        version = versions[{"int8": 1, "int16": 2}.get(dtype, 0)]
        made = schema.OperatorT(
            opcodeIndex=codes.setdefault((operator.kind, version), len(codes)),
            inputs=list(operator.inputs), outputs=list(operator.outputs),
        )  # fmt: skip
        if name := _options_of(schema, operator.kind):
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            made.builtinOptions = getattr(schema, f"{name}T")()
            for key, value in operator.options.items():
                vars(made.builtinOptions)[key] = value
        return made

    def _signature(self, schema: Any) -> Any:
        def named(numbers: Iterable[int]) -> list[Any]:
            return [schema.TensorMapT(self.names.get(n, self.tensors[n].name), n) for n in numbers]

        return schema.SignatureDefT(named(self.inputs), named(self.outputs), SIGNATURE, 0)


def schema_of_litert() -> Any:
    """Return the module of the schema.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ai_edge_litert.schema_py_generated as schema
    except ModuleNotFoundError as error:
        hint = "pip install 'featherweight[litert]'"
        raise MissingExtraError("not installed", where="LiteRT", hint=hint) from error
    return schema


def _builder() -> Any:
    import flatbuffers

    return flatbuffers.Builder(1 << 20)


def _aligned(schema: Any) -> Any:
    """Return the class of buffers that lie where the schema demands, which its own code leaves to chance."""

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:
            data = self.data.tobytes()
            builder.StartVector(1, len(data), ALIGNED)
            builder.head = builder.head - len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return Aligned


def _code(schema: Any, kind: str, version: int) -> Any:
    number = getattr(schema.BuiltinOperator, kind)
    return schema.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), version=version, builtinCode=number)


_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "MEAN": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions", "SUM": "ReducerOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions", "BATCH_MATMUL": "BatchMatMulOptions", "PADV2": "PadV2Options",
    "SPLIT_V": "SplitVOptions",
}  # fmt: skip


def _options_of(schema: Any, kind: str) -> str:
    """Return the name of the options of an operator; an empty string: it has none."""
    name = _OPTIONS.get(kind) or "".join(part.capitalize() for part in kind.split("_")) + "Options"
    return name if hasattr(schema.BuiltinOptions, name) else ""
