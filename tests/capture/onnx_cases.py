"""One-node ONNX models of every operator that is read, in its forms over the versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VERSIONS = (11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
NUMBERS = np.random.default_rng(0)
IR = 10


@dataclass
class Case:
    """A node: `data` are inputs of the network, `constants` are stored; None leaves an optional input out."""

    op: str
    data: dict[int, np.ndarray]
    constants: dict[int, np.ndarray | None] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    since: int = 11
    until: int = 99
    domain: str = ""
    bound: float = 1e-5

    @property
    def name(self) -> str:
        said = [
            f"{k}={v if not isinstance(v, onnx.TensorProto) else 'tensor'}"
            for k, v in self.attributes.items()
        ]
        return f"{self.op}({', '.join(said)})"


def model_of(case: Case, version: int, constant: bool = True) -> onnx.ModelProto:
    places = {**case.data, **case.constants}
    names = [f"v{n}" if places.get(n) is not None else "" for n in range(max(places, default=-1) + 1)]
    node = helper.make_node(
        case.op, names, [f"y{n}" for n in range(case.outputs)], name=f"/layer/{case.op}", domain=case.domain,
        **case.attributes,
    )  # fmt: skip
    stored = {n: a for n, a in case.constants.items() if a is not None}
    inputs = {**case.data, **({} if constant else stored)}
    graph = helper.make_graph(
        [node], "one",
        [described(f"v{n}", np.asarray(a)) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=f"y{n}") for n in range(case.outputs)],
        [numpy_helper.from_array(np.asarray(a), f"v{n}") for n, a in stored.items()] if constant else [],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", version)] + (
        [helper.make_opsetid(case.domain, 1)] if case.domain else []
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    if case.domain or case.op in ("GroupNormalization", "SimplifiedLayerNormalization"):
        for n in range(case.outputs):
            model.graph.output[n].CopyFrom(helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, None))
        return model
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def described(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def x(*shape: int, low: float = -2.0, high: float = 2.0, dtype: Any = np.float32) -> np.ndarray:
    return (NUMBERS.random(shape) * (high - low) + low).astype(dtype)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def whole(*shape: int, low: int = 0, high: int = 5, dtype: Any = np.int64) -> np.ndarray:
    return NUMBERS.integers(low, high, shape).astype(dtype)


def cases() -> Iterator[Case]:
    yield from _elementwise()
    yield from _reductions()
    yield from _moves()
    yield from _lookups()
    yield from _spatial()
    yield from _resizes()
    yield from _recurrent()
    yield from _contributed()


def _elementwise() -> Iterator[Case]:
    for op in ("Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Exp", "Erf", "Sin", "Cos", "Tan", "Atan", "Sinh",
               "Cosh", "Asinh", "Tanh", "Sigmoid", "Relu", "Softplus", "Softsign", "HardSigmoid", "Elu",
               "Selu", "LeakyRelu", "ThresholdedRelu", "Identity", "Reciprocal"):  # fmt: skip
        yield Case(op, {0: x(2, 3, 4)})
    for op in ("Sqrt", "Log", "Acosh"):
        yield Case(op, {0: x(2, 3, low=1.1, high=4)})
    for op in ("Asin", "Acos", "Atanh"):
        yield Case(op, {0: x(2, 3, low=-0.9, high=0.9)})
    yield Case("Celu", {0: x(2, 9)}, attributes={"alpha": 0.7}, since=12)
    yield Case("HardSwish", {0: x(2, 9, low=-5, high=5)}, since=14)
    yield Case("Mish", {0: x(2, 9)}, since=18)
    yield Case("Gelu", {0: x(2, 9)}, since=20)
    yield Case("Gelu", {0: x(2, 9)}, attributes={"approximate": "tanh"}, since=20)
    yield Case("HardSigmoid", {0: x(2, 9, low=-5, high=5)}, attributes={"alpha": 1 / 6, "beta": 0.5})
    yield Case("HardSigmoid", {0: x(2, 9, low=-5, high=5)}, attributes={"alpha": 0.3, "beta": 0.4})
    yield Case("LeakyRelu", {0: x(2, 9)}, attributes={"alpha": 0.3})
    yield Case("Elu", {0: x(2, 9)}, attributes={"alpha": 0.3})
    yield Case("Shrink", {0: x(2, 9)}, attributes={"bias": 0.3, "lambd": 0.8})
    yield Case("Not", {0: whole(2, 3, high=2, dtype=bool)})
    yield Case("IsNaN", {0: np.float32([1, np.nan, 2])}, since=13)
    yield Case("IsInf", {0: np.float32([1, np.inf, -np.inf])})
    yield Case("IsInf", {0: np.float32([1, np.inf, -np.inf])}, attributes={"detect_negative": 0})
    for op in ("Add", "Sub", "Mul", "Div"):
        yield Case(op, {0: x(2, 3, 4), 1: x(3, 1, low=1)})
        yield Case(op, {0: x(2, 3, 4)}, {1: np.float32(1.5)})
        yield Case(op, {0: x(2, 3)}, {1: x(1, 1, 1, low=1)})
        yield Case(op, {1: x(2, 3, low=1)}, {0: np.float32(2)})
        yield Case(op, {0: whole(2, 3, low=-9, high=9)}, {1: ints(4)}, since=14)
        yield Case(op, {0: x(2, 3, 4)}, {1: x(3, 4, low=1)})
    yield Case("Div", {0: whole(9, low=-9, high=9), 1: whole(9, low=1, high=5)}, since=14)
    yield Case("Div", {0: whole(9, low=-9, high=9), 1: whole(9, low=-5, high=-1)}, since=14)
    yield Case("Pow", {0: x(2, 3, low=0.1)}, {1: np.float32(2.5)})
    yield Case("Pow", {0: x(2, 3)}, {1: np.float32(2)})
    yield Case("Pow", {0: x(2, 3, low=0.1), 1: x(2, 3)})
    yield Case("Pow", {0: x(2, 3)}, {1: ints(3)}, since=12)
    yield Case("Mod", {0: whole(9, low=-9, high=9)}, {1: ints(4)})
    yield Case("Mod", {0: whole(9, low=-9, high=9)}, {1: ints(-4)})
    yield Case("Mod", {0: x(9)}, {1: np.float32(0.7)}, {"fmod": 1})
    for op in ("Max", "Min"):
        yield Case(op, {0: x(2, 3), 1: x(3), 2: x(2, 1)})
        yield Case(op, {0: x(2, 3)}, {1: np.float32(0.2)})
        yield Case(op, {1: x(2, 3)}, {0: np.float32(0.2)})
        yield Case(op, {0: whole(2, 3)}, {1: ints(2)}, since=12)
    yield Case("Sum", {0: x(2, 3), 1: x(3), 2: x(2, 1)}, since=13)
    yield Case("Mean", {0: x(2, 3), 1: x(3)}, since=13)
    for op in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        yield Case(op, {0: x(2, 3), 1: x(3)}, since=12)
        yield Case(op, {0: x(2, 3)}, {1: np.float32(0.5)}, since=12)
    yield Case("Equal", {0: whole(2, 9)}, {1: ints(2)})
    for op in ("And", "Or", "Xor"):
        yield Case(op, {0: whole(9, high=2, dtype=bool), 1: whole(9, high=2, dtype=bool)})
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        yield Case(op, {0: whole(9, high=99), 1: whole(9, high=99)}, since=18)
    yield Case("BitwiseNot", {0: whole(9, high=99)}, since=18)
    yield Case("BitShift", {0: whole(9, dtype=np.uint8)}, {1: np.uint8([1])}, {"direction": "LEFT"})
    yield Case(
        "BitShift",
        {0: whole(9, dtype=np.uint8), 1: whole(9, dtype=np.uint8)},
        attributes={"direction": "RIGHT"},
    )
    yield Case("Where", {0: whole(2, 3, high=2, dtype=bool), 1: x(3), 2: x(2, 1)})
    yield Case("Where", {0: whole(2, 3, high=2, dtype=bool), 1: x(2, 3)}, {2: np.float32(-np.inf)})
    for to in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.UINT8):
        yield Case("Cast", {0: x(9, low=0, high=9)}, attributes={"to": to})
    yield Case("Cast", {0: whole(9, dtype=np.int32)}, attributes={"to": TensorProto.FLOAT})
    yield Case("CastLike", {0: x(9)}, {1: ints(1)}, since=15)
    yield Case("Clip", {0: x(9)}, {1: np.float32(-1), 2: np.float32(1)})
    yield Case("Clip", {0: x(9)}, {1: np.float32(0), 2: np.float32(6)})
    yield Case("Clip", {0: x(9)}, {1: np.float32(0), 2: None})
    yield Case("Clip", {0: x(9)}, {1: None, 2: np.float32(0.5)})
    yield Case("Clip", {0: x(9)}, {1: np.float32(0)})
    yield Case("Clip", {0: x(9), 1: np.array(-1, np.float32), 2: np.array(1, np.float32)})
    yield Case("Clip", {0: whole(9)}, {1: np.array(1, np.int64)}, since=12)
    yield Case("PRelu", {0: x(2, 3, 4)}, {1: x(3, 1)})
    yield Case("PRelu", {0: x(2, 3, 4)}, {1: x(1)})
    yield Case("PRelu", {0: x(2, 3, 4)}, {1: x(4)})
    yield Case("PRelu", {0: x(2, 3, 4), 1: x(3, 1)})
    yield Case("Dropout", {0: x(2, 3)})
    yield Case("Dropout", {0: x(2, 3)}, {1: np.float32(0.3)}, since=12, outputs=2)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Case(op, {0: x(2, 3, 4)})
        for axis in (0, 1, 2, -1, -2):
            yield Case(op, {0: x(2, 3, 4)}, attributes={"axis": axis})
    for options in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        yield Case("CumSum", {0: x(3, 4)}, {1: np.array(1, np.int64)}, options)
    yield Case("CumSum", {0: x(3, 4)}, {1: np.array(-2, np.int32)})
    yield Case("Swish", {0: x(2, 9)}, attributes={"alpha": 1.0}, since=24)


def _reductions() -> Iterator[Case]:
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
               "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"):  # fmt: skip
        data, since = x(2, 3, 4, low=0.5), 13 if op == "ReduceSum" else 18
        for keep in (0, 1):
            yield Case(op, {0: data}, attributes={"keepdims": keep}, until=since - 1)
            for axes in ([1], [-1], [0, 2]):
                yield Case(op, {0: data}, attributes={"axes": axes, "keepdims": keep}, until=since - 1)
                yield Case(op, {0: data}, {1: ints(*axes)}, {"keepdims": keep}, since=since)
        yield Case(op, {0: data}, since=since)
        yield Case(op, {0: data}, attributes={"noop_with_empty_axes": 1}, since=since)
    for op in ("ArgMax", "ArgMin"):
        for options in ({}, {"axis": 1}, {"axis": -1, "keepdims": 0}):
            yield Case(op, {0: x(2, 3, 4)}, attributes=options)
        tied = np.float32([[1, 2, 2, 0, 0]])
        yield Case(op, {0: tied}, attributes={"axis": 1, "select_last_index": 1}, since=12)
    for equation, shapes in (("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]), ("bi,i", [(2, 3), (3,)]),
                             ("...ij->...ji", [(2, 3, 4)]), ("ii->i", [(3, 3)])):  # fmt: skip
        yield Case(
            "Einsum",
            {n: x(*shape) for n, shape in enumerate(shapes)},
            attributes={"equation": equation},
            since=12,
        )


def _moves() -> Iterator[Case]:
    data = x(2, 3, 4)
    yield Case("Shape", {0: data})
    yield Case("Shape", {0: data}, attributes={"start": 1, "end": -1}, since=15)
    yield Case("Size", {0: data})
    for sizes in ((6, 4), (0, -1), (-1,), (2, 3, 2, 2), (0, 0, 2, -1)):
        yield Case("Reshape", {0: data}, {1: ints(*sizes)})
    yield Case("Reshape", {0: x(0, 3)}, {1: ints(0, 5)}, {"allowzero": 1}, since=14)
    for axis in (0, 1, 2, 3, -1):
        yield Case("Flatten", {0: data}, attributes={"axis": axis})
    ones = x(1, 3, 1, 4)
    yield Case("Squeeze", {0: ones})
    for axes in ([0], [2], [0, 2], [-2]):
        yield Case("Squeeze", {0: ones}, attributes={"axes": axes}, until=12)
        yield Case("Squeeze", {0: ones}, {1: ints(*axes)}, since=13)
        yield Case("Unsqueeze", {0: data}, attributes={"axes": axes}, until=12)
        yield Case("Unsqueeze", {0: data}, {1: ints(*axes)}, since=13)
    yield Case("Transpose", {0: data})
    yield Case("Transpose", {0: data}, attributes={"perm": [2, 0, 1]})
    for axis in (0, 1, -1):
        yield Case("Concat", {0: x(2, 3, 4), 1: x(2, 3, 4)}, attributes={"axis": axis})
    yield Case("Concat", {0: x(2, 3)}, {1: x(2, 1)}, {"axis": 1})
    yield Case("Split", {0: x(6, 3)}, outputs=3, until=17)
    yield Case("Split", {0: x(6, 3)}, attributes={"split": [1, 5]}, outputs=2, until=12)
    yield Case("Split", {0: x(6, 3)}, {1: ints(1, 5)}, outputs=2, since=13)
    yield Case("Split", {0: x(2, 7)}, attributes={"num_outputs": 3, "axis": 1}, outputs=3, since=18)
    for bounds in (
        (ints(1), ints(3), ints(2), ints(1)),
        (ints(0, 1), ints(9, -1)),
        (ints(-2), ints(2**62), ints(-1)),
        (ints(-1), ints(-(2**62)), ints(2), ints(-1)),
        (ints(3), ints(0), ints(2), ints(-2)),
        (ints(0), ints(4), ints(2), ints(2)),
        (ints(-1), ints(-3), ints(1), ints(-1)),
        (ints(5), ints(9), ints(2)),
    ):
        yield Case("Slice", {0: data}, dict(enumerate(bounds, start=1)))
    yield Case("Expand", {0: x(3, 1)}, {1: ints(2, 1, 4)})
    yield Case("Expand", {0: x(2, 3, 4)}, {1: ints(3, 1)})
    yield Case("Tile", {0: x(2, 3)}, {1: ints(2, 3)})
    yield Case("Trilu", {0: x(2, 4, 4)}, since=14)
    yield Case("Trilu", {0: x(4, 5)}, {1: np.array(1, np.int64)}, {"upper": 0}, since=14)
    yield Case("Trilu", {0: x(4, 5)}, {1: np.array(-1, np.int64)}, since=14)
    yield Case("EyeLike", {0: x(3, 4)}, attributes={"k": 1})
    yield Case("EyeLike", {0: x(3, 4)}, attributes={"dtype": TensorProto.INT64})
    yield Case("Compress", {0: x(3, 4)}, {1: np.array([True, False, True])}, {"axis": 1})
    yield Case("Compress", {0: x(3, 4)}, {1: np.array([True, False, True])})
    for mode in ("DCR", "CRD"):
        yield Case("DepthToSpace", {0: x(2, 8, 2, 3)}, attributes={"blocksize": 2, "mode": mode})
    yield Case("SpaceToDepth", {0: x(2, 3, 4, 6)}, attributes={"blocksize": 2}, since=13)
    yield Case("ReverseSequence", {0: x(4, 3, 2)}, {1: ints(1, 4, 2)})
    yield Case("ReverseSequence", {0: x(3, 4, 2)}, {1: ints(1, 4, 2)}, {"batch_axis": 0, "time_axis": 1})
    yield Case("MatMul", {0: x(2, 3, 4)}, {1: x(4, 5)})
    yield Case("MatMul", {0: x(2, 3, 4), 1: x(2, 4, 5)})
    yield Case("MatMul", {0: x(4)}, {1: x(4, 5)})
    yield Case("MatMul", {0: x(2, 3, 4)}, {1: x(4)})
    yield Case("MatMul", {1: x(2, 3, 4)}, {0: x(5, 3)})
    yield Case("MatMul", {0: x(2, 3, 4)}, {1: x(1, 4, 5)})
    for options in ({}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5, "beta": 0.25}):
        a, b = x(3, 4), x(4, 5)
        a, b = (a.T.copy() if "transA" in options else a), (b.T.copy() if "transB" in options else b)
        for bias in (x(5), x(1, 5), x(3, 5), x(3, 1), np.float32(0.3), x(1), None):
            yield Case("Gemm", {0: a}, {1: b, **({} if bias is None else {2: bias})}, options)
        yield Case("Gemm", {0: a, 1: b, 2: x(5)}, attributes=options)


def _lookups() -> Iterator[Case]:
    data = x(3, 4, 5)
    for axis in (0, 1, -1):
        yield Case("Gather", {0: data}, {1: np.array(1, np.int64)}, {"axis": axis})
        yield Case("Gather", {0: data}, {1: np.array(-1, np.int64)}, {"axis": axis})
        yield Case("Gather", {0: data}, {1: ints(0, 2, -1)}, {"axis": axis})
        yield Case("Gather", {0: data}, {1: ints(1, 2)}, {"axis": axis})
        yield Case("Gather", {0: data}, {1: np.array([[0, 1], [2, 0]])}, {"axis": axis})
        yield Case("Gather", {0: data, 1: whole(2, 2, high=3)}, attributes={"axis": axis})
    yield Case("Gather", {1: whole(2, 3, high=7)}, {0: x(7, 4)})
    yield Case("Gather", {1: whole(2, 3, high=7)}, {0: x(7, 4)}, {"axis": 0})
    yield Case("GatherElements", {0: x(3, 4), 1: whole(2, 4, low=-3, high=3)})
    yield Case("GatherElements", {0: x(3, 4), 1: whole(3, 2, high=4)}, attributes={"axis": 1})
    yield Case("GatherND", {0: x(3, 4, 5), 1: whole(6, 2, high=3)})
    yield Case("GatherND", {0: x(3, 4, 5), 1: whole(3, 2, 1, high=4)}, attributes={"batch_dims": 1}, since=12)
    yield Case("ScatterND", {0: x(4, 3), 2: x(2, 3)}, {1: np.array([[1], [3]])})
    yield Case(
        "ScatterND",
        {0: x(4, 3), 2: x(3)},
        {1: np.array([[1, 0], [3, 1], [1, 0]])},
        {"reduction": "add"},
        since=16,
    )
    for how in ("mul", "max", "min"):
        since = 16 if how == "mul" else 18
        yield Case(
            "ScatterND",
            {0: x(4, 3), 2: x(3)},
            {1: np.array([[1, 0], [3, 1], [0, 2]])},
            {"reduction": how},
            since=since,
        )
    yield Case("ScatterElements", {0: x(3, 4), 1: np.array([[0, -1, 2, 1]]), 2: x(1, 4)})
    yield Case(
        "ScatterElements",
        {0: x(3, 4), 1: np.array([[0, 1, 2, 1]]), 2: x(1, 4)},
        attributes={"reduction": "add"},
        since=16,
    )
    yield Case("OneHot", {0: whole(2, 3, low=-4, high=4)}, {1: np.array(4, np.int64), 2: np.float32([0, 1])})
    yield Case(
        "OneHot", {0: whole(2, 3, high=4)}, {1: np.array(4, np.int64), 2: np.float32([-1, 2])}, {"axis": 1}
    )
    yield Case("TopK", {0: x(3, 9)}, {1: ints(4)}, outputs=2)
    yield Case("TopK", {0: x(9, 3)}, {1: ints(2)}, {"axis": 0, "largest": 0}, outputs=2)


def _spatial() -> Iterator[Case]:
    one, two, three = x(2, 4, 9), x(2, 4, 9, 8), x(1, 2, 5, 6, 7)
    yield Case("Conv", {0: one}, {1: x(6, 4, 3), 2: x(6)}, {"pads": [1, 2], "strides": [2]})
    yield Case("Conv", {0: three}, {1: x(3, 2, 2, 2, 2)})
    for options in (
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 2, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    ):
        yield Case("Conv", {0: two}, {1: x(6, 4, 3, 2)}, options)
        yield Case("Conv", {0: two, 1: x(6, 4, 3, 2), 2: x(6)}, attributes=options)
    yield Case("Conv", {0: two}, {1: x(8, 2, 3, 3), 2: x(8)}, {"group": 2})
    yield Case(
        "Conv", {0: two}, {1: x(4, 1, 3, 3)}, {"group": 4, "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    )
    for options in (
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 1, 0]},
        {"strides": [3, 2], "output_shape": [27, 16]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"dilations": [2, 2]},
    ):
        yield Case("ConvTranspose", {0: two}, {1: x(4, 3, 3, 3), 2: x(3)}, options)
    yield Case("ConvTranspose", {0: two}, {1: x(4, 3, 2, 2)}, {"group": 2, "strides": [2, 2]})
    yield Case("ConvTranspose", {0: one}, {1: x(4, 3, 2)}, {"strides": [2]})
    yield Case("ConvTranspose", {0: two, 1: x(4, 3, 2, 2)}, attributes={"strides": [2, 2]})
    for options in (
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 1, 2]},
        {"strides": [2, 2], "ceil_mode": 1},
        {"strides": [2, 3], "auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
    ):
        yield Case("MaxPool", {0: two}, attributes={"kernel_shape": [3, 3], **options})
        yield Case("AveragePool", {0: two}, attributes={"kernel_shape": [3, 3], **options})
        if "ceil_mode" not in options:
            counted = {"kernel_shape": [3, 3], "count_include_pad": 1, **options}
            yield Case("AveragePool", {0: two}, attributes=counted)
            yield Case("LpPool", {0: two}, attributes={"kernel_shape": [3, 3], **options}, since=18)
    yield Case("MaxPool", {0: two}, attributes={"kernel_shape": [3, 2], "dilations": [2, 2]})
    yield Case("MaxPool", {0: two}, attributes={"kernel_shape": [2, 2], "strides": [2, 2]}, outputs=2)
    yield Case("MaxPool", {0: one}, attributes={"kernel_shape": [3], "pads": [1, 1]})
    yield Case("MaxPool", {0: three}, attributes={"kernel_shape": [2, 2, 2]})
    yield Case("AveragePool", {0: one}, attributes={"kernel_shape": [3], "strides": [2]})
    yield Case("AveragePool", {0: three}, attributes={"kernel_shape": [2, 2, 2]})
    yield Case("LpPool", {0: two}, attributes={"kernel_shape": [2, 2], "p": 3})
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        for data in (one, two, three):
            yield Case(op, {0: data})
    for mode in ("constant", "reflect", "edge"):
        yield Case("Pad", {0: two}, {1: ints(0, 0, 1, 2, 0, 0, 3, 1)}, {"mode": mode})
        yield Case("Pad", {0: x(3, 4)}, {1: ints(1, 0, 0, 2)}, {"mode": mode})
        yield Case("Pad", {0: x(3, 4)}, {1: ints(1, 2), 2: None, 3: ints(-1)}, {"mode": mode}, since=18)
    yield Case("Pad", {0: two}, {1: ints(0, 1, 1, 2, 0, 0, 3, 1), 2: np.float32(0.7)})
    yield Case("Pad", {0: two}, {1: ints(0, 0, -1, 2, 0, 0, 0, -1)})
    yield Case("Pad", {0: two}, {1: ints(0, 0, 1, 2, 0, 0, 3, 1)}, {"mode": "wrap"}, since=19)
    grid = x(2, 5, 6, 2, low=-1.2, high=1.2)
    for mode in ("bilinear", "nearest", "bicubic"):
        for around in ("zeros", "border", "reflection"):
            for corners in (0, 1):
                options = {"mode": mode, "padding_mode": around, "align_corners": corners}
                yield Case("GridSample", {0: two, 1: grid}, attributes=options, since=16, until=19)
    yield Case("GridSample", {0: two, 1: grid}, attributes={"mode": "linear"}, since=20)
    scale, bias, mean, variance = x(4), x(4), x(4), x(4, low=0.5)
    for data in (one, two, x(3, 4), x(1, 4, 3, 3, 3)):
        yield Case(
            "BatchNormalization", {0: data}, {1: scale, 2: bias, 3: mean, 4: variance}, {"epsilon": 1e-3}
        )
        yield Case("BatchNormalization", {0: data, 1: scale, 2: bias, 3: mean, 4: variance})
    for data in (one, two):
        yield Case("InstanceNormalization", {0: data}, {1: scale, 2: bias})
        yield Case("InstanceNormalization", {0: data, 1: scale, 2: bias})
    yield Case("GroupNormalization", {0: two}, {1: scale, 2: bias}, {"num_groups": 2}, since=21)
    yield Case("GroupNormalization", {0: two}, {1: x(2), 2: x(2)}, {"num_groups": 2}, since=18, until=20)
    for options, shape in (({}, (8,)), ({"axis": -2, "epsilon": 1e-3}, (9, 8)), ({"axis": 3}, (8,))):
        yield Case("LayerNormalization", {0: two}, {1: x(*shape), 2: x(*shape)}, options, since=17)
        yield Case("LayerNormalization", {0: two}, {1: x(*shape)}, options, since=17)
    yield Case("LayerNormalization", {0: two, 1: x(8)}, since=17)
    yield Case("RMSNormalization", {0: two}, {1: x(8)}, since=23)
    for options in ({}, {"axis": 1, "p": 1}):
        yield Case("LpNormalization", {0: x(3, 4)}, attributes=options)
    yield Case("MeanVarianceNormalization", {0: two}, since=13, bound=1e-4)
    yield Case("LRN", {0: two}, attributes={"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}, since=13)
    yield Case("Det", {0: x(2, 3, 3)}, bound=1e-4)


def _resizes() -> Iterator[Case]:
    data = x(2, 3, 6, 8)
    for coordinates in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
        for scales in ((2.0, 2.0), (1.5, 0.5), (0.75, 3.0)):
            for mode in ("nearest", "linear", "cubic"):
                ways = (
                    ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
                    if mode == "nearest"
                    else ("floor",)
                )
                for way in ways:
                    options = {
                        "mode": mode,
                        "coordinate_transformation_mode": coordinates,
                        "nearest_mode": way,
                    }
                    yield Case(
                        "Resize", {0: data}, {1: None, 2: np.float32([1, 1, *scales])}, options, since=13
                    )
        for sizes in ((12, 16), (5, 9), (1, 3)):
            for mode in ("nearest", "linear"):
                options = {"mode": mode, "coordinate_transformation_mode": coordinates}
                yield Case("Resize", {0: data}, {1: None, 2: None, 3: ints(2, 3, *sizes)}, options, since=13)
    yield Case(
        "Resize", {0: data}, {1: None, 2: np.float32([2, 0.5])}, {"axes": [2, 3], "mode": "linear"}, since=18
    )
    none = np.zeros(0, np.float32)  # what files of version 11 have for a region that is not used
    yield Case("Resize", {0: x(2, 3, 8)}, {1: none, 2: np.float32([1, 1, 2])}, {"mode": "linear"})
    yield Case("Resize", {0: data}, {1: none, 2: none, 3: ints(2, 3, 12, 16)}, {"mode": "linear"})
    yield Case("Resize", {0: x(6, 8)}, {1: none, 2: np.float32([2, 2])}, {"mode": "linear"})


def _recurrent() -> Iterator[Case]:
    steps, batch, size, hidden = 5, 2, 3, 4
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction in ("forward", "reverse", "bidirectional"):
            for layout in (0, 1):
                ways = 2 if direction == "bidirectional" else 1
                weights = {
                    1: x(ways, gates * hidden, size), 2: x(ways, gates * hidden, hidden),
                    3: x(ways, 2 * gates * hidden),
                }  # fmt: skip
                options = {"direction": direction, "hidden_size": hidden, **({"layout": 1} if layout else {})}
                options |= {"linear_before_reset": 1} if op == "GRU" else {}
                data = x(batch, steps, size) if layout else x(steps, batch, size)
                state = (batch, ways, hidden) if layout else (ways, batch, hidden)
                outputs = 3 if op == "LSTM" else 2
                since = 14 if layout else 11
                yield Case(op, {0: data}, weights, options, outputs, since)
                yield Case(
                    op, {0: data}, {n: w for n, w in weights.items() if n < 3}, options, outputs, since
                )
                states = {5: x(*state), **({6: x(*state)} if op == "LSTM" else {})}
                yield Case(op, {0: data, **states}, {**weights, 4: None}, options, outputs, since)
                lengths = np.full(batch, steps, np.int32)
                yield Case(op, {0: data, **states}, {**weights, 4: lengths}, options, outputs, since)
                if op == "GRU":
                    first = {**options, "linear_before_reset": 0}
                    yield Case(op, {0: data}, weights, first, outputs, since)
                    yield Case(op, {0: data, **states}, {**weights, 4: None}, first, outputs, since)
    weights = {1: x(1, hidden, size), 2: x(1, hidden, hidden)}
    yield Case(
        "RNN", {0: x(steps, batch, size)}, weights, {"hidden_size": hidden, "activations": ["Relu"]}, 2
    )


def _contributed() -> Iterator[Case]:
    theirs = {"domain": "com.microsoft", "since": 17, "until": 17}
    yield Case("Gelu", {0: x(2, 8)}, **theirs)
    yield Case("FastGelu", {0: x(2, 8)}, {1: x(8)}, **theirs)
    yield Case("BiasGelu", {0: x(2, 8)}, {1: x(8)}, **theirs)
    yield Case("QuickGelu", {0: x(2, 8)}, attributes={"alpha": 1.702}, **theirs)
    yield Case(
        "FusedMatMul", {0: x(2, 3, 4), 1: x(2, 5, 4)}, attributes={"transB": 1, "alpha": 0.5}, **theirs
    )
    yield Case(
        "SkipLayerNormalization", {0: x(2, 3, 8), 1: x(2, 3, 8)}, {2: x(8), 3: x(8), 4: x(8)}, **theirs
    )
    yield Case("SkipLayerNormalization", {0: x(2, 3, 8), 1: x(2, 3, 8)}, {2: x(8)}, **theirs)
    yield Case("SimplifiedLayerNormalization", {0: x(2, 3, 8)}, {1: x(8)}, domain="", since=17, until=17)
    yield Case("SkipSimplifiedLayerNormalization", {0: x(2, 3, 8), 1: x(2, 3, 8)}, {2: x(8)}, **theirs)
