"""An ONNX graph on its way into a LiteRT file: which tensor each value is, how its axes lie, what its integers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from featherweight.deploy.check import made_up
from featherweight.deploy.litert_file import LitertFile, Quantized, Tensor
from featherweight.engines import onnxruntime_session, refusals
from featherweight.errors import UnsupportedError
from featherweight.export import serialized
from featherweight.export.onnx_graph import CLAMPS, OnnxGraph, attributes

Array = NDArray[Any]
Values = dict[str, Array]
Order = tuple[int, ...]

LAST = (0, 2, 3, 1)  # channels last: axis k of the tensor is axis LAST[k] of the value
MORE = 3  # samples: a batch of so many and one of 1 tell free axes from fixed ones
FUSED = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
_ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


@dataclass(frozen=True)
class Edge:
    """A value of the ONNX graph in the file.

    Attributes:
        tensor: its number.
        order: axis k of the tensor is axis `order[k]` of the value.
        quantized: what its integers stand for; None: it holds the numbers themselves.
    """

    tensor: int
    order: Order
    quantized: Quantized | None = None


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant as integers: `scale * (q - zero)`, the scales along an axis."""

    integers: Array
    scale: Array
    zero: Array
    axis: int

    @property
    def high(self) -> Stored:
        """The same with an axis of 1 behind the others."""
        return Stored(self.integers[..., None], self.scale, self.zero, self.axis)

    @property
    def numbers(self) -> Array:
        """The numbers, float32, of any shape."""
        shape = [-1 if self.scale.size > 1 and k == self.axis else 1 for k in range(self.integers.ndim)]
        steps = self.integers.astype(np.int32) - self.zero.astype(np.int32).reshape(shape)
        return np.asarray(steps.astype(np.float32) * self.scale.reshape(shape), np.float32)


@dataclass(eq=False)
class Translation:
    """The state of a translation, in the order of the nodes.

    Attributes:
        graph: what is translated.
        shapes: of every value; a free axis counts 1.
        free: the free axes of values that have some.
        kinds: type of every value, by numpy's name.
        constants: what is known before anything runs.
        batched: what is computed of shapes that depend on the batch.
        edges: where values are in the file.
        named: by tensor, the value whose integers it holds, and the order of its axes.
        floats: layers that compute in float between integers, with the reason.
        done: nodes that are part of another.
        reused: tensors that were made of others (reordered, requantized, padded), by what made them.
    """

    graph: OnnxGraph
    shapes: dict[str, tuple[int, ...]]
    free: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]
    file: LitertFile = field(default_factory=LitertFile)
    constants: dict[str, Array | Stored] = field(default_factory=dict)
    batched: set[str] = field(default_factory=set)
    edges: dict[str, Edge] = field(default_factory=dict)
    named: dict[int, tuple[str, Order]] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    reused: dict[tuple[Any, ...], int] = field(default_factory=dict)

    # Constants

    def number(self, name: str) -> Array | None:
        """Return the numbers of a constant, or None."""
        found = self.constants.get(name)
        return found.numbers if isinstance(found, Stored) else found

    def known(self, name: str, node: NodeProto, what: str) -> Array:
        """Return a constant that an operator must have.

        Raises:
            UnsupportedError: it is computed when the network runs.
        """
        found = self.number(name)
        if found is None:
            raise UnsupportedError(
                f"{what} of {node.op_type} is computed, LiteRT wants a constant", where=place(node)
            )
        return found

    # Values

    def activation(self, value: str, order: Order | None = None, *, real: bool = True) -> int:
        """Return the tensor of a value, its axes in `order`: of numbers, or (not `real`) as it is."""
        if value in self.constants:
            numbers = self.number(value)
            assert numbers is not None
            order = tuple(range(numbers.ndim)) if order is None else order
            if len(order) > numbers.ndim:  # broadcasting: axes of 1 in front
                numbers = numbers.reshape((1,) * (len(order) - numbers.ndim) + numbers.shape)
            return self.file.constant(numbers.transpose(order), value)
        edge = self.edge(value)
        order = tuple(range(len(edge.order))) if order is None else order
        tensor, quantized = self.ordered(edge, order), edge.quantized
        if real and quantized is not None:
            tensor = self._converted("DEQUANTIZE", tensor, None)
        return tensor

    def edge(self, value: str) -> Edge:
        """Return where a value is.

        Raises:
            UnsupportedError: it is a size that depends on the batch, which LiteRT's operators take as constants.
        """
        if value in self.batched:
            hint = "fix the batch: --size NAME=1"
            raise UnsupportedError("a size that depends on the batch is no constant", where=value, hint=hint)
        return self.edges[value]

    def ordered(self, edge: Edge, order: Order) -> int:
        """Return the tensor of an edge with its axes in another order."""
        if edge.order == order or len(order) < 2:
            return edge.tensor
        key = (edge.tensor, edge.order, order)
        if key not in self.reused:
            source = self.file.tensors[edge.tensor]
            moves = tuple(edge.order.index(axis) for axis in order)
            shape = tuple(source.shape[k] for k in moves)
            free = tuple(k for k, axis in enumerate(moves) if axis in source.free)
            made = self.file.tensor(Tensor(source.name, shape, source.dtype, source.quantized, free=free))
            wide = [k for k in moves if source.shape[k] != 1 or k in source.free]
            if wide == sorted(wide):
                self.file.add(
                    "RESHAPE", [edge.tensor, self.sizes(shape, free)], [made], newShape=_sizes(shape, free)
                )
            else:
                self.file.add("TRANSPOSE", [edge.tensor, self.integers(moves)], [made])
            self.reused[key] = made
        return self.reused[key]

    def linear(self, value: str) -> int:
        """Return a tensor that holds a value's integers or numbers in the value's own order, whatever its shape."""
        edge = self.edge(value)
        tensor = self.file.tensors[edge.tensor]
        wide = [axis for k, axis in enumerate(edge.order) if tensor.shape[k] != 1 or k in tensor.free]
        return edge.tensor if wide == sorted(wide) else self.ordered(edge, tuple(range(len(edge.order))))

    def requantized(self, tensor: int, quantized: Quantized) -> int:
        """Return a tensor of integers in other steps."""
        return (
            tensor
            if self.file.tensors[tensor].quantized == quantized
            else self._converted("QUANTIZE", tensor, quantized)
        )

    def _converted(self, kind: str, tensor: int, quantized: Quantized | None) -> int:
        key = (kind, tensor, quantized)
        if key not in self.reused:
            source = self.file.tensors[tensor]
            dtype = quantized.dtype if quantized is not None else "float32"
            made = Tensor(source.name, source.shape, dtype, quantized, free=source.free)
            self.reused[key] = self.file.tensor(made)
            self.file.add(kind, [tensor], [self.reused[key]])
        return self.reused[key]

    def dequantized(self, stored: Stored, name: str) -> int:
        """Return the numbers of a constant that the file keeps as integers."""
        scale = tuple(float(s) for s in stored.scale.reshape(-1))
        kept = self.file.constant(
            stored.integers, name, Quantized(str(stored.integers.dtype), scale, 0, stored.axis)
        )
        return self._converted("DEQUANTIZE", kept, None)

    def write(
        self, kind: str, inputs: list[int], value: str, order: Order | None = None,
        quantized: Quantized | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Append the operator that writes a value, its axes in `order`, as numbers or as integers."""
        order = tuple(range(len(self.shapes[value]))) if order is None else order
        tensor = self.room(value, order, quantized)
        self.file.add(kind, inputs, [tensor], **options)
        self.edges[value] = Edge(tensor, order, quantized)

    def room(self, value: str, order: Order, quantized: Quantized | None = None) -> int:
        """Return a new tensor for a value."""
        shape = tuple(self.shapes[value][axis] for axis in order)
        free = tuple(k for k, axis in enumerate(order) if axis in self.free.get(value, ()))
        dtype = quantized.dtype if quantized is not None else self.kinds.get(value, "float32")
        return self.file.tensor(Tensor(value, shape, dtype, quantized, free=free))

    def integers(self, numbers: Any) -> int:
        """Return a constant of int32."""
        array = np.asarray(numbers, np.int32)
        return self.file.constant(array, f"int32{list(array.shape)}")

    def sizes(self, shape: tuple[int, ...], free: tuple[int, ...]) -> int:
        """Return a constant of the sizes that a RESHAPE gives."""
        return self.integers(_sizes(shape, free))

    # Integers

    def quantized(self, value: str) -> Quantized | None:
        """Return what the integers of a value stand for, or None."""
        return self.edges[value].quantized if value in self.edges else None

    def target(self, value: str) -> Quantized | None:
        """Return the one quantizer that all readers of a value apply to it first; None: some read its numbers."""
        readers = self.graph.readers.get(value, [])
        if not readers or value in self.graph.outputs or any(n.op_type != "QuantizeLinear" for n in readers):
            return None
        found = {self.quantizer(node) for node in readers}
        return found.pop() if len(found) == 1 else None

    def quantizer(self, node: NodeProto) -> Quantized:
        """Return the integers of a QuantizeLinear or DequantizeLinear of activations, as LiteRT holds them.

        Unsigned ones of 8 bits move by 128, which changes no number.

        Raises:
            UnsupportedError: LiteRT has no such integers.
        """
        scale = self.number(node.input[1])
        zero = self.number(node.input[2]) if len(node.input) > 2 else np.uint8(0)
        if scale is None or zero is None or scale.size != 1:
            raise UnsupportedError(
                "a quantizer of activations is no constant of one scale", where=place(node)
            )
        zero, step = np.asarray(zero), (float(scale.reshape(())),)
        if zero.dtype == np.uint8:
            return Quantized("int8", step, int(zero.reshape(())) - 128)
        if zero.dtype == np.int8 or (zero.dtype == np.int16 and not zero.any()):
            return Quantized(str(zero.dtype), step, int(zero.reshape(())))
        hint = "litert-16x8 makes them of any calibrated file"
        got = f"{zero.dtype}, zero point {int(zero.reshape(()))}"
        raise UnsupportedError(
            "not the integers of LiteRT", where=place(node), got=got,
            expected="uint8 or int8, or int16 with zero point 0", hint=hint,
        )  # fmt: skip

    def clamped(self, node: NodeProto) -> tuple[int, str]:
        """Return the activation that an operator can perform itself, by number, and the value behind it.

        It stands alone behind the operator, perhaps between two quantizers that are one.
        """
        value = node.output[0]
        reader, between = self._alone(value), []
        if reader is not None and reader.op_type == "QuantizeLinear":
            real = self._alone(reader.output[0])
            clamp = self._alone(real.output[0]) if real is not None else None
            same = clamp is not None and self.target(clamp.output[0]) == self.quantizer(reader)
            between, reader = [reader, real], clamp if same else None
        ends = self.ends(reader) if reader is not None else None
        if reader is None or ends not in FUSED:
            return 0, value
        self.done |= {id(n) for n in (*between, reader)}
        return _ACTIVATIONS[FUSED[ends]], reader.output[0]

    def ends(self, node: NodeProto) -> tuple[float, float] | None:
        """Return the ends of a ReLU or Clip; None for what is none, or if they are computed."""
        if node.op_type not in CLAMPS:
            return None
        found = [0.0 if node.op_type == "Relu" else -np.inf, np.inf]
        given = attributes(node)
        for k, key in enumerate(("min", "max")):
            name = [*node.input[1:3], "", ""][k]
            end = self.number(name) if name else given.get(key, found[k])
            if end is None:
                return None
            found[k] = float(np.asarray(end).reshape(()))
        return found[0], found[1]

    def _alone(self, value: str) -> NodeProto | None:
        readers = self.graph.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.graph.outputs else None


def place(node: NodeProto) -> str:
    """Return the name of a node in an error."""
    return f"{node.op_type} {node.name or node.output[0]}"


def _sizes(shape: tuple[int, ...], free: tuple[int, ...]) -> list[int]:
    return [-1 if k in free else n for k, n in enumerate(shape)]


def observed(model: onnx.ModelProto, sizes: Mapping[str, int]) -> tuple[Values, Values]:
    """Return all values of a graph, as ONNX Runtime computes them of inputs made up, with a batch of 1 and of more.

    Where the batch is not free, they are the same. A free axis without a given size must be the first of an input.

    Raises:
        UnsupportedError: another axis is free, or ONNX Runtime cannot run the graph.
    """
    free = {name for name, axis in free_axes(model) if name not in sizes}
    if others := sorted({name for name, axis in free_axes(model) if axis and name in free}):
        raise UnsupportedError(
            "a LiteRT file has fixed sizes, but for the batch", where="graph", got=f"free axis {others[0]}",
            hint=f"--size {others[0]}=N",
        )  # fmt: skip
    every = onnx.ModelProto()
    every.CopyFrom(model)
    del every.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    found = []
    for count in (1, MORE) if free else (1,):
        inputs = made_up(model, {**sizes, **dict.fromkeys(free, count)})
        with refusals("ONNX Runtime cannot run the graph"):
            session = onnxruntime_session(serialized(every), 1)
            outputs = session.run(None, inputs)
        found.append({**inputs, **dict(zip([o.name for o in session.get_outputs()], outputs, strict=True))})
    return found[0], found[-1]


def free_axes(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Return the free axes of inputs: name, and place. Axes of no name, and of -1, have one made of their place."""
    found = []
    for value in model.graph.input:
        for axis, n in enumerate(value.type.tensor_type.shape.dim):
            if not n.dim_param and n.dim_value < 1:
                n.dim_param = f"{value.name}_{axis}"
            if n.dim_param:
                found.append((n.dim_param, axis))
    return found
