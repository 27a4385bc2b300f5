"""A quantized network as a list of steps in integers: its graph is walked, what has no form in C is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from featherweight.activations import Affine, Quantizer, read_by
from featherweight.artifact import Initialiser, StoredGraph
from featherweight.errors import UnsupportedError
from featherweight.export.c.program import Program, Step, Value, byte
from featherweight.export.c.sums import Pairs, averages, codebook_sums, integer_sums, pairs, translation
from featherweight.export.c.windows import ONE, Refusal, checked, ends, planes, windows
from featherweight.export.float_graph import build_onnx, rewriting
from featherweight.export.onnx_graph import (
    CLAMPS,
    OnnxGraph,
    attributes,
    bias_behind,
    merge_padding,
    operators,
    pads_zeros,
    pool_means,
    swap_weights,
)
from featherweight.formats import Clustered, Encoded
from featherweight.integers import IntegerPlan, Operator, integer_plan

Array = NDArray[Any]

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
_NORMALISES = ("Softmax", "LogSoftmax")  # leave the order of scores as it is
_KERNELS = (
    *_MOVES, *_NORMALISES, *CLAMPS, "Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "Add",
    "Concat", "Slice", "Pad",
)  # fmt: skip


@rewriting("as steps in integers")
def program_of(
    graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded],
    activations: Mapping[str, Quantizer],
) -> Program:  # fmt: skip
    """Return the steps of a network.

    Args:
        graph: the float graph.
        tensors: decoded tensors by canonical name.
        weights: those that are encoded.
        activations: quantizers by value of the graph.

    Raises:
        UnsupportedError: parts of the network have no form in C; names them all.
    """
    model = build_onnx(graph, tensors)
    table = swap_weights(model.graph, graph.initialisers)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known = {**constants, **tensors}
    found = {op.edge: op for op in operators(OnnxGraph(model), table)}
    plan = integer_plan(found.values(), weights, known, activations)
    activations = merge_padding(model, activations)
    quantizers = pool_means(model, activations)
    return _Builder(OnnxGraph(model), quantizers, table, weights, known, found, plan, _shapes(model)).build()


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values for one sample; axes that are free are 0."""
    one = onnx.ModelProto()
    one.CopyFrom(model)
    for value in one.graph.input:
        shape = value.type.tensor_type.shape
        if shape.dim:
            shape.dim[0].Clear()
            shape.dim[0].dim_value = 1
    del one.graph.value_info[:]
    for value in one.graph.output:
        value.type.tensor_type.ClearField("shape")
    told = onnx.shape_inference.infer_shapes(one, data_prop=True).graph
    values = [*told.input, *told.value_info, *told.output]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


@dataclass(eq=False)
class _Builder:
    """Walks over the nodes of a graph."""

    graph: OnnxGraph
    activations: Mapping[str, Quantizer]
    table: Mapping[str, Initialiser]
    weights: Mapping[str, Encoded]
    tensors: Mapping[str, Array]
    layers: Mapping[str, Operator]
    plan: IntegerPlan
    shapes: Mapping[str, tuple[int, ...]]
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def build(self) -> Program:
        """Return the program; raises as `program_of` does."""
        graph, refused = self.graph.model.graph, []
        names = [value.name for value in graph.input]
        if len(names) != 1 or len(graph.output) != 1:
            what = "a header in C has one input and one output"
            raise UnsupportedError(what, where="graph", got=f"{len(names)} and {len(graph.output)}")
        given = Value(self._buffer(0), self._shape(names[0]), self._byte(names[0]))
        if 0 in given.shape:
            what, hint = (
                "the input has sizes that are free",
                "compress with an example of the size that is meant",
            )
            raise UnsupportedError(what, where=names[0], got=self.shapes[names[0]], hint=hint)
        if given.quantizer is None:
            readers = sorted({node.op_type for node in self.graph.readers.get(names[0], [])})
            what = f"the input has no quantizer of 8-bit integers: {', '.join(readers)} reads it"
            raise UnsupportedError(what, where=names[0], expected="a layer, pooling, a sum or an average")
        self.values[names[0]] = given
        for node in graph.node:
            reads = [value for value in node.input if value and value not in self.graph.stored]
            if (
                node.output[0] in self.values or node.op_type == "Constant"
            ):  # done with the node before, or stored
                continue
            if any(value not in self.values for value in reads):  # behind one that is refused
                if node.op_type not in _KERNELS:
                    refused.append(f"{node.op_type} {node.name or node.output[0]} (not among the kernels)")
                continue
            try:
                self._node(node, [self.values[value] for value in reads])
            except Refusal as reason:
                refused.append(f"{node.op_type} {node.name or node.output[0]} ({reason})")
        if refused:
            what = f"operators without a form in C: {'; '.join(refused)}"
            folds = any(text.startswith("BatchNormalization") for text in refused)
            hint = (
                "ONNX holds them: export --to onnx-int8"
                + "; the step fold takes batch norms into layers" * folds
            )
            raise UnsupportedError(what, where="graph", hint=hint)
        last = self.values[graph.output[0].name]
        if last.quantizer is not None:
            scores = Value(self._buffer(0), last.shape, None)
            self.steps.append(Step("floats", graph.output[0].name, (last,), scores))
            last = scores
        return Program(tuple(self.steps), given, last, tuple(self.sizes), tuple(self.notes))

    def _node(self, node: NodeProto, inputs: list[Value]) -> None:
        kind, name = node.op_type, node.output[0]
        if not inputs:
            raise Refusal("it reads stored numbers alone")
        if kind in ("Conv", "Gemm", "MatMul"):
            self._layer(node, inputs)
            return
        if any(value.quantizer is None for value in inputs) and kind not in (*_MOVES, *_NORMALISES):
            raise Refusal("it reads floats")
        if kind in _MOVES:
            changed = self.activations.get(name, inputs[0].quantizer) != inputs[0].quantizer
            self.values[name] = self._same(name, inputs[0].buffer, inputs[0]) if not changed else inputs[0]
            if changed:
                self._join(name, inputs)
        elif kind in CLAMPS:
            self._clamp(node, inputs[0])
        elif kind == "MaxPool":
            value = self._same(name, self._buffer(self._size(name)), inputs[0])
            self._put(Step("max_pool", name, (inputs[0],), value, self._pool(node, inputs[0], value)), name)
        elif kind in ("AveragePool", "GlobalAveragePool"):
            self._average(node, inputs[0])
        elif kind == "Add" and len(inputs) == 2:
            self._add(node, inputs)
        elif kind == "Concat":
            if attributes(node)["axis"] not in (1, -len(self.shapes[name]) + 1) or len(inputs) < len(
                node.input
            ):
                raise Refusal("it joins along another axis than channels, or what is stored")
            self._join(name, inputs)
        elif kind in ("Slice", "Pad"):
            self._move(node, inputs[0])
        elif kind in _NORMALISES and name in self.graph.outputs:
            self.notes.append(f"scores are what {kind} reads: their order is the same")
            self.values[name] = inputs[0]
        else:
            raise Refusal("not among the kernels")

    def _layer(self, node: NodeProto, inputs: list[Value]) -> None:
        """Write a layer, with the clamp behind it that alone reads it."""
        behind = bias_behind(node, self.graph, self.table)
        edge = (behind or node).output[0]
        layer = self.layers.get(edge)
        if layer is None or len(inputs) != 1:
            raise Refusal("it multiplies no stored weight")
        x, encoded = self._read(inputs[0], read_by(node.input[0], edge)), self.weights.get(layer.weight)
        shared = isinstance(encoded.format, Clustered) if encoded else False
        if x.quantizer is None or (edge in self.plan.floats and not (shared and not layer.obstacle)):
            raise Refusal(self.plan.floats.get(edge, "what it reads has no quantizer of 8-bit integers"))
        assert encoded is not None
        if encoded.view.permutation != tuple(range(len(encoded.view.shape))):
            raise Refusal("its weight is stored in another order of axes")
        written, low, high = self._behind(edge)
        value = self._written(written)
        numbers = self._window(node, x, value, encoded.view.shape)
        numbers |= ends(value.quantizer, low, high)
        bias = self.tensors[layer.bias] if layer.bias else None
        if shared:
            sums = codebook_sums(encoded, bias, x.quantizer, value.quantizer)
        else:
            sums = integer_sums(encoded, self.plan.layers[edge], x.quantizer, value.quantizer)
        if isinstance(sums, str):
            raise Refusal(sums)
        self._put(Step("layer", node.name or edge, (x,), value, numbers, layer.weight, sums), edge, written)

    def _read(self, x: Value, edge: str) -> Value:
        """Return an activation as one layer reads it: perhaps requantized for it alone."""
        own = self._byte(edge)
        if own is None or own == x.quantizer:
            return x
        if x.quantizer is None:
            raise Refusal("it reads floats")
        value = Value(self._buffer(prod(x.shape)), x.shape, own)
        self.steps.append(Step("join", edge, (x,), value, tables=(translation(x.quantizer, own),)))
        return value

    def _window(self, node: NodeProto, x: Value, y: Value, weight: tuple[int, ...]) -> dict[str, int]:
        """Return the fields of a layer that say which inputs meet which weights."""
        if node.op_type != "Conv":
            if len(x.shape) != 1:
                raise Refusal("linear layers over more than one vector")
            found = {"channels": weight[1], "height": 1, "width": 1, "out_channels": weight[0]}
            return checked(found | {"out_height": 1, "out_width": 1, "groups": 1} | ONE)
        given = attributes(node)
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise Refusal("padding by auto_pad")
        groups = int(given.get("group", 1))
        found = {**planes(x.shape), **planes(y.shape, "out_"), "groups": groups}
        return checked(found | windows(given, len(x.shape) - 1, weight[2:]))

    def _pool(self, node: NodeProto, x: Value, y: Value) -> dict[str, int]:
        given = attributes(node)
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise Refusal("padding by auto_pad")
        sizes = {**planes(x.shape), **planes(y.shape, "out_")}
        del sizes["out_channels"]
        kernel = given.get("kernel_shape", x.shape[1:])
        found = checked(sizes | windows(given, len(x.shape) - 1, tuple(kernel)))
        for axis, before in (("height", "top"), ("width", "left")):
            last = (found[f"out_{axis}"] - 1) * found[f"stride_{axis[0]}"] - found[f"pad_{before}"]
            if last >= found[axis]:  # shapes of ONNX count it, runtimes and torch do not
                raise Refusal("a window that starts behind what it reads, by ceil_mode")
        return found

    def _average(self, node: NodeProto, x: Value) -> None:
        name, given = node.output[0], attributes(node)
        written, low, high = self._behind(name)
        value = self._written(written)
        if value.quantizer is None or x.quantizer is None:
            raise Refusal("nothing quantizes what it writes")
        if (
            any(given.get("pads", ()))
            or given.get("ceil_mode")
            or any(n != 1 for n in given.get("dilations", ()))
        ):
            raise Refusal("windows that reach beyond what it reads")
        numbers = self._pool(node, x, value) | ends(value.quantizer, low, high)
        count = numbers["kernel_h"] * numbers["kernel_w"]
        multiplier, shift, apart = averages(x.quantizer, value.quantizer, count)
        if apart:
            self.notes.append(
                f"{name}: {apart} of its sums round otherwise than in the simulation, by one step"
            )
        numbers |= {"multiplier": multiplier, "shift": shift}
        self._put(Step("average_pool", name, (x,), value, numbers), name, written)

    def _add(self, node: NodeProto, inputs: list[Value]) -> None:
        name, (a, b) = node.output[0], inputs
        written, low, high = self._behind(name)
        value = self._written(written)
        if a.shape != b.shape:
            raise Refusal("it repeats what it reads along an axis")
        if a.quantizer is None or b.quantizer is None or value.quantizer is None:
            raise Refusal("nothing quantizes what it writes")
        found: Pairs = pairs(a.quantizer, b.quantizer, value.quantizer)
        if found.apart:
            self.notes.append(
                f"{name}: {found.apart} of 65536 pairs round otherwise than in the simulation, by one step"
            )
        numbers = {
            "count": prod(a.shape), "multiplier_a": found.a, "multiplier_b": found.b, "shift": found.shift,
            **ends(value.quantizer, low, high),
        }  # fmt: skip
        self._put(Step("add", name, (a, b), value, numbers), name, written)

    def _join(self, name: str, inputs: list[Value], low: float = -np.inf, high: float = np.inf) -> None:
        """Write activations one behind another, clamped, as bytes of the quantizer of the result."""
        shared = {x.quantizer for x in inputs}
        quantizer = self._byte(name) or (shared.pop() if len(shared) == 1 else None)
        if quantizer is None:
            raise Refusal("nothing quantizes what it writes")
        tables = tuple(
            None if x.quantizer in (None, quantizer) else translation(x.quantizer, quantizer, low, high)
            for x in inputs
        )
        value = Value(self._buffer(self._size(name)), self._shape(name), quantizer)
        self._put(Step("join", name, tuple(inputs), value, tables=tables), name)

    def _move(self, node: NodeProto, x: Value) -> None:
        """Write part of an activation, or it with zeros around."""
        name, rank = node.output[0], len(x.shape) + 1
        value = self._same(name, self._buffer(self._size(name)), x)
        assert x.quantizer is not None
        starts, steps = [0] * rank, [1] * rank
        stored = [None if not given else self.graph.numbers(given) for given in node.input[1:]]
        if node.op_type == "Pad":
            if not pads_zeros(node, self.graph) or stored[0] is None or any(node.input[3:]):
                raise Refusal("padding other than by zeros")
            starts = [-int(n) for n in stored[0][:rank]]
        else:
            if stored[0] is None or (len(stored) > 2 and stored[2] is None):
                raise Refusal("parts that are computed")
            given = [*stored, None, None][2:4]
            axes = range(len(stored[0])) if given[0] is None else given[0].tolist()
            lengths = (1, *x.shape)
            for place, axis in enumerate(axes):
                start, length = int(stored[0][place]), lengths[axis]
                starts[axis] = min(max(start + length if start < 0 else start, 0), length)
                steps[axis] = 1 if given[1] is None else int(given[1][place])
        if starts[0] or min(steps) < 1:
            raise Refusal("samples apart, or backwards")
        before, after = (
            planes((*shape, 1, 1)[:3]) if len(shape) < 2 else planes(shape)
            for shape in (x.shape, value.shape)
        )
        numbers = (
            before
            | {f"out_{key}": size for key, size in after.items()}
            | {"zero": byte(x.quantizer, x.quantizer.zero_point)}
        )
        for key, fill, found in (("start", 0, starts), ("step", 1, steps)):
            c, *places = found[1:]
            h, w = [fill, fill, *places][-2:]
            numbers |= {f"{key}_c": c, f"{key}_h": h, f"{key}_w": w}
        self._put(Step("move", name, (x,), value, numbers), name)

    def _clamp(self, node: NodeProto, x: Value) -> None:
        name = node.output[0]
        if self.activations.get(name, x.quantizer) != x.quantizer:
            self._join(name, [x], *self._limits(node))
            return
        value = self._same(name, self._buffer(self._size(name)), x)
        numbers = {"count": prod(x.shape), **ends(value.quantizer, *self._limits(node))}
        self._put(Step("clamp", name, (x,), value, numbers), name)

    def _put(self, step: Step, *names: str) -> None:
        self.steps.append(step)
        self.values |= dict.fromkeys(names, step.output)

    def _behind(self, edge: str) -> tuple[str, float, float]:
        """Return the value behind the clamp that alone reads `edge`, if there is one, and its ends."""
        readers = self.graph.readers.get(edge, [])
        alone = len(readers) == 1 and edge not in self.graph.outputs and edge not in self.activations
        if alone and readers[0].op_type in CLAMPS and readers[0].output[0] in self.activations:
            return readers[0].output[0], *self._limits(readers[0])
        return edge, -np.inf, np.inf

    def _limits(self, node: NodeProto) -> tuple[float, float]:
        found = [0.0, np.inf] if node.op_type == "Relu" else [-np.inf, np.inf]
        for place, name in enumerate(node.input[1:3]):
            number = self.graph.numbers(name) if name else None
            if name and number is None:
                raise Refusal("a clamp whose ends are computed")
            found[place] = found[place] if number is None else float(number)
        return found[0], found[1]

    def _written(self, name: str) -> Value:
        """Return a new value: bytes, or, where only the caller reads it, floats."""
        quantizer = self._byte(name)
        if quantizer is not None:
            return Value(self._buffer(self._size(name)), self._shape(name), quantizer)
        if not self._ends_network(name):
            raise Refusal("nothing quantizes what it writes")
        return Value(self._buffer(0), self._shape(name), None)

    def _ends_network(self, name: str) -> bool:
        """Whether nothing but moves and a softmax stands between a value and the output."""
        readers = self.graph.readers.get(name, [])
        if name in self.graph.outputs or not readers:
            return not readers
        kinds = (*_MOVES, *_NORMALISES)
        return all(node.op_type in kinds and self._ends_network(node.output[0]) for node in readers)

    def _same(self, name: str, buffer: int, x: Value) -> Value:
        """Return a value with the quantizer of what it was moved from."""
        if self.activations.get(name, x.quantizer) != x.quantizer:
            raise Refusal("it changes the step of what it moves")
        return replace(x, buffer=buffer, shape=self._shape(name))

    def _byte(self, name: str) -> Affine | None:
        quantizer = self.activations.get(name)
        if quantizer is not None and not (isinstance(quantizer, Affine) and quantizer.bits <= 8):
            raise UnsupportedError("no 8-bit integers", where=name, got=quantizer)
        return quantizer

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.shapes.get(name, ())
        if len(shape) < 2 or shape[0] != 1:
            raise Refusal("its first axis is not the batch")
        return shape[1:]

    def _size(self, name: str) -> int:
        size = prod(self._shape(name))
        if not size:
            raise Refusal("its size is free")
        return size

    def _buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1
