"""LiteRT files: every operator against ONNX Runtime, in float and in integers; what LiteRT cannot say is refused."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from featherweight.deploy.check import EXACT, NOISE, bound_of, made_up, reference
from featherweight.deploy.litert import build_litert
from featherweight.deploy.litert_file import schema_of_litert
from featherweight.deploy.litert_runtime import make_litert, opened_litert
from featherweight.engines import onnxruntime_session
from featherweight.errors import UnsupportedError

pytest.importorskip("ai_edge_litert")


def model(nodes, inputs, outputs=("y",), opset=20, **tensors):
    """Return a checked float model; sizes that are text are free."""
    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = helper.make_graph(
        nodes, "g", shaped, [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )  # fmt: skip
    result = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.shape_inference.infer_shapes(result, strict_mode=True)
    for value in result.graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return result


def last(array):
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def agree(made, batch=2, seed=0):
    """Assert that the file computes what ONNX Runtime does, on inputs that `make_litert` did not see."""
    content = make_litert(made, {}).files[".tflite"]
    generator = np.random.default_rng(seed + 1)
    feed = {
        value.name: generator.standard_normal(
            [n.dim_value or batch for n in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in made.graph.input
    }
    wanted = onnxruntime_session(made.SerializeToString(), 1).run(None, feed)
    got = opened_litert(content)([last(array) for array in feed.values()])
    for ours, theirs in zip(wanted, got, strict=True):
        np.testing.assert_allclose(theirs, last(ours), rtol=1e-4, atol=1e-5)


rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def node(op, inputs, output="y", **given):
    return helper.make_node(op, inputs.split(" "), output.split(" "), **given)


IMAGE = {"x": ["n", 6, 9, 11]}
ROWS = {"x": ["n", 5, 8]}
ints = lambda *values: np.array(values, np.int64)  # noqa: E731
CASES = {
    "conv": (
        [node("Conv", "x w b", strides=[2, 2], pads=[1, 1, 1, 1])],
        IMAGE,
        {"w": normal(4, 6, 3, 3), "b": normal(4)},
    ),
    "conv, uneven padding": ([node("Conv", "x w", pads=[0, 2, 1, 0])], IMAGE, {"w": normal(4, 6, 2, 3)}),
    "conv, dilated": (
        [node("Conv", "x w", dilations=[2, 2], pads=[2, 2, 2, 2])],
        IMAGE,
        {"w": normal(4, 6, 3, 3)},
    ),
    "conv, groups": ([node("Conv", "x w b", group=3)], IMAGE, {"w": normal(6, 2, 3, 3), "b": normal(6)}),
    "conv, depthwise": (
        [node("Conv", "x w", group=6, pads=[1, 1, 1, 1], strides=[2, 2])],
        IMAGE,
        {"w": normal(6, 1, 3, 3)},
    ),
    "conv, depthwise, two each": ([node("Conv", "x w", group=6)], IMAGE, {"w": normal(12, 1, 3, 3)}),
    "conv, same": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])],
        IMAGE,
        {"w": normal(4, 6, 3, 3)},
    ),
    "conv, relu6": (
        [node("Conv", "x w", "a"), node("Clip", "a lo hi")],
        IMAGE,
        {"w": normal(4, 6, 3, 3), "lo": np.float32(0), "hi": np.float32(6)},
    ),
    "conv, other clip": (
        [node("Conv", "x w", "a"), node("Clip", "a lo hi")],
        IMAGE,
        {"w": normal(4, 6, 3, 3), "lo": np.float32(-0.5), "hi": np.float32(0.25)},
    ),
    "conv over one axis": (
        [node("Conv", "x w b", pads=[2, 1], strides=[2])],
        ROWS,
        {"w": normal(4, 5, 3), "b": normal(4)},
    ),
    "conv over one axis, depthwise": (
        [node("Conv", "x w", "a", group=5, pads=[1, 1]), node("Relu", "a")],
        ROWS,
        {"w": normal(5, 1, 3)},
    ),
    "max pool, ceil": (
        [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {"x": ["n", 6, 8, 12]},
        {},
    ),
    "transposed conv": (
        [node("ConvTranspose", "x w b", strides=[2, 2])],
        {"x": [1, 6, 5, 4]},
        {"w": normal(6, 3, 3, 3), "b": normal(3)},
    ),
    "transposed conv, cut": (
        [node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 0, 1, 1])],
        {"x": [1, 6, 5, 4]},
        {"w": normal(6, 3, 3, 3)},
    ),
    "gemm": ([node("Gemm", "x w b", transB=1)], {"x": ["n", 8]}, {"w": normal(3, 8), "b": normal(3)}),
    "gemm, as stored": ([node("Gemm", "x w")], {"x": ["n", 8]}, {"w": normal(8, 3)}),
    "matmul, bias": (
        [node("MatMul", "x w", "a"), node("Add", "a b")],
        ROWS,
        {"w": normal(8, 3), "b": normal(3)},
    ),
    "matmul of two": ([node("MatMul", "x z")], {"x": ["n", 5, 8], "z": ["n", 8, 4]}, {}),
    "max pool": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], IMAGE, {}),
    "max pool, uneven": ([node("MaxPool", "x", kernel_shape=[2, 2], pads=[1, 0, 0, 1])], IMAGE, {}),
    "average pool": ([node("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 2])], IMAGE, {}),
    "average pool, counted": (
        [node("AveragePool", "x", kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1)],
        IMAGE,
        {},
    ),
    "average pool, not counted": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        IMAGE,
        {},
    ),
    "global average": ([node("GlobalAveragePool", "x")], IMAGE, {}),
    "global most": ([node("GlobalMaxPool", "x")], IMAGE, {}),
    "mean": ([node("ReduceMean", "x axes", keepdims=0)], IMAGE, {"axes": ints(3)}),
    "mean of channels": ([node("ReduceMean", "x axes", keepdims=1)], IMAGE, {"axes": ints(1)}),
    "sum": ([node("ReduceSum", "x axes", keepdims=0)], IMAGE, {"axes": ints(-1, 1)}),
    "flatten": ([node("Relu", "x", "a"), node("Flatten", "a", axis=1)], IMAGE, {}),
    "reshape": ([node("Reshape", "x s")], IMAGE, {"s": ints(0, 6, -1)}),
    "flatten one place": ([node("GlobalAveragePool", "x", "a"), node("Flatten", "a")], IMAGE, {}),
    "squeeze": (
        [node("GlobalAveragePool", "x", "a"), node("Squeeze", "a axes")],
        IMAGE,
        {"axes": ints(2, 3)},
    ),
    "unsqueeze": ([node("Unsqueeze", "x axes")], ROWS, {"axes": ints(1)}),
    "transpose": ([node("Transpose", "x", perm=[0, 2, 3, 1])], IMAGE, {}),
    "transpose, rows": ([node("Transpose", "x", perm=[0, 2, 1])], ROWS, {}),
    "shuffle": (
        [
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "c", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "c t"),
        ],
        IMAGE,
        {"s": ints(0, 2, 3, 9, 11), "t": ints(0, 6, 9, 11)},
    ),
    "concat": ([node("Relu", "x", "a"), node("Concat", "x a", axis=1)], IMAGE, {}),
    "concat of places": ([node("Relu", "x", "a"), node("Concat", "x a", axis=-1)], IMAGE, {}),
    "add": ([node("Relu", "x", "a"), node("Add", "x a", "c"), node("Relu", "c")], IMAGE, {}),
    "add a channel": ([node("Add", "x b")], IMAGE, {"b": normal(6, 1, 1)}),
    "multiply by places": ([node("Mul", "x b")], IMAGE, {"b": normal(11)}),
    "gate": ([node("GlobalAveragePool", "x", "a"), node("Sigmoid", "a", "c"), node("Mul", "x c")], IMAGE, {}),
    "subtract": ([node("Sub", "b x")], ROWS, {"b": normal(5, 1)}),
    "divide": ([node("Exp", "x", "a"), node("Div", "x a")], ROWS, {}),
    "ranks": ([node("Mul", "x z")], {"x": ["n", 6, 4, 5], "z": [4, 1]}, {}),
    "pad": ([node("Pad", "x p")], IMAGE, {"p": ints(0, 1, 2, 0, 0, 3, 0, 1)}),
    "pad by one": ([node("Pad", "x p v")], IMAGE, {"p": ints(0, 0, 2, 0, 0, 0, 0, 1), "v": np.float32(1)}),
    "pad by reflection": ([node("Pad", "x p", mode="reflect")], IMAGE, {"p": ints(0, 0, 2, 1, 0, 0, 1, 1)}),
    "slice": (
        [node("Slice", "x a b c d")],
        IMAGE,
        {"a": ints(1, -4), "b": ints(5, 100), "c": ints(1, 3), "d": ints(2, 1)},
    ),
    "split": ([node("Split", "x s", "a y", axis=1)], IMAGE, {"s": ints(2, 4)}),
    "gather": ([node("Gather", "x i", axis=1)], ROWS, {"i": ints(0, -1, 2)}),
    "nearest": (
        [
            node(
                "Resize",
                "x  s",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        IMAGE,
        {"s": np.float32([1, 1, 2, 2])},
    ),
    "bilinear": (
        [node("Resize", "x  s", mode="linear", coordinate_transformation_mode="half_pixel")],
        IMAGE,
        {"s": np.float32([1, 1, 2, 2])},
    ),
    "corners": (
        [node("Resize", "x  s", mode="linear", coordinate_transformation_mode="align_corners")],
        IMAGE,
        {"s": np.float32([1, 1, 2, 3])},
    ),
    "depth to space": ([node("DepthToSpace", "x", blocksize=2)], {"x": ["n", 8, 3, 5]}, {}),
    "pixel shuffle": ([node("DepthToSpace", "x", blocksize=2, mode="CRD")], {"x": ["n", 8, 3, 5]}, {}),
    "batch norm": (
        [node("BatchNormalization", "x s b m v")],
        IMAGE,
        {"s": normal(6), "b": normal(6), "m": normal(6), "v": np.abs(normal(6))},
    ),
    "softmax": ([node("Softmax", "x", axis=1)], IMAGE, {}),
    "log softmax": ([node("LogSoftmax", "x", axis=-1)], ROWS, {}),
    "relu": ([node("Relu", "x")], IMAGE, {}),
    "leaky": ([node("LeakyRelu", "x", alpha=0.3)], IMAGE, {}),
    "prelu": ([node("PRelu", "x s")], IMAGE, {"s": normal(6, 1, 1)}),
    "elu": ([node("Elu", "x")], IMAGE, {}),
    "sigmoid": ([node("Sigmoid", "x")], IMAGE, {}),
    "tanh": ([node("Tanh", "x")], IMAGE, {}),
    "hard swish": ([node("HardSwish", "x")], IMAGE, {}),
    "hard sigmoid": ([node("HardSigmoid", "x", alpha=1 / 6, beta=0.5)], IMAGE, {}),
    "gelu": ([node("Gelu", "x")], ROWS, {}),
    "gelu by tanh": ([node("Gelu", "x", approximate="tanh")], ROWS, {}),
    "abs and sqrt": ([node("Abs", "x", "a"), node("Sqrt", "a", "c"), node("Neg", "c")], ROWS, {}),
    "power": ([node("Pow", "x e")], ROWS, {"e": np.float32(2)}),
    "constants": ([node("Add", "p q", "r"), node("Mul", "x r")], ROWS, {"p": normal(8), "q": normal(8)}),
    "least and most": (
        [node("Min", "x c", "a"), node("Max", "a d")],
        ROWS,
        {"c": np.float32(0.5), "d": normal(8)},
    ),
    "choice": (
        [node("Less", "x c", "a"), node("Exp", "x", "e"), node("Where", "a x e")],
        ROWS,
        {"c": np.float32(0.1)},
    ),
    "one over": ([node("Exp", "x", "a"), node("Reciprocal", "a", "c"), node("Log", "c")], ROWS, {}),
    "repeated": ([node("Expand", "x s")], {"x": [2, 1, 8]}, {"s": ints(2, 5, 8)}),
    "flattened by its shape": (
        [
            node("Relu", "x", "a"),
            node("Shape", "a", "n"),
            node("Gather", "n zero", "b"),
            node("Unsqueeze", "b zeros", "c"),
            node("Concat", "c rest", "s", axis=0),
            node("Reshape", "a s"),
        ],
        IMAGE,
        {"zero": np.int64(0), "zeros": ints(0), "rest": ints(-1)},
    ),
    "given back": ([node("Relu", "x")], IMAGE, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_computes_what_onnx_runtime_does(case):
    nodes, inputs, tensors = CASES[case]
    agree(model(nodes, inputs, **tensors))


def quantized(name, source, scale, zero):
    """Return the nodes and constants that round `source` to uint8 and give `name`."""
    nodes = [node("QuantizeLinear", f"{source} {name}/s {name}/z", f"{name}/q")]
    nodes.append(node("DequantizeLinear", f"{name}/q {name}/s {name}/z", name))
    return nodes, {f"{name}/s": np.float32(scale), f"{name}/z": np.uint8(zero)}


@st.composite
def convolutions(draw):
    """A convolution in integers, between quantizers."""
    size = draw(st.tuples(st.integers(4, 8), st.integers(4, 8)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    groups = draw(st.sampled_from(["none", "depthwise"]))
    channels, out = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    pads = draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    return size, kernel, groups, channels, out, pads, draw(st.integers(1, 2)), draw(st.integers(0, 2**16))


@settings(max_examples=25, deadline=None)
@given(convolutions())
def test_convolutions_in_integers_are_those_of_onnx_runtime(case):
    size, kernel, groups, channels, out, pads, stride, seed = case
    generator = np.random.default_rng(seed)
    out, group = (channels * 2, channels) if groups == "depthwise" and channels > 1 else (out, 1)
    weight = generator.integers(-64, 64, (out, channels // group, *kernel)).astype(np.int8)
    scale = generator.uniform(0.001, 0.02, out).astype(np.float32)
    before, first = quantized("a", "x", 0.02, int(generator.integers(0, 256)))
    behind, second = quantized("y", "c", 0.03, int(generator.integers(0, 256)))
    layer = [
        node("DequantizeLinear", "w s", "w/real", axis=0),
        node("DequantizeLinear", "b t", "b/real", axis=0),
        node("Conv", "a w/real b/real", "c", pads=pads, strides=[stride] * 2, group=group),
    ]
    tensors = {
        "w": weight, "s": scale, "b": generator.integers(-999, 999, out).astype(np.int32),
        "t": scale * np.float32(0.02),
    }  # fmt: skip
    made = model([*before, *layer, *behind], {"x": ["n", channels, *size]}, **first, **second, **tensors)
    result = make_litert(made, {})  # compares each operator and the whole, and raises
    assert not result.floats
    kept = {tensor.name: tensor for tensor in build_litert(made).file.tensors if tensor.data is not None}
    order = (1, 2, 3, 0) if group > 1 else (0, 2, 3, 1)
    assert np.array_equal(kept["w"].data, weight.transpose(order))
    assert kept["w"].quantized.scale == tuple(scale.tolist())


@pytest.mark.parametrize("group", [1, 4])
def test_a_convolution_over_one_axis_stays_in_integers(group):
    before, first = quantized("a", "x", 0.0203, 100)
    behind, second = quantized("y", "c", 0.0311, 90)
    weight = rng.integers(-127, 128, (4, 4 // group, 3)).astype(np.int8)
    scale = rng.uniform(0.001, 0.02, 4).astype(np.float32)
    layer = [
        node("DequantizeLinear", "w s", "w/real", axis=0),
        node("Conv", "a w/real", "c", group=group, pads=[0, 1]),
    ]
    made = model([*before, *layer, *behind], {"x": ["n", 4, 9]}, **first, **second, w=weight, s=scale)
    assert not make_litert(made, {}).floats


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Concat"])
def test_joins_in_other_steps_round_as_onnx_runtime_does(op):
    (one, first), (two, second) = quantized("a", "x", 0.0203, 100), quantized("b", "z", 0.0517, 140)
    behind, third = quantized("y", "c", 0.0611, 120)
    given = {"axis": 1} if op == "Concat" else {}
    nodes = [*one, *two, node(op, "a b", "c", **given), *behind]
    made = model(nodes, {"x": ["n", 3, 4, 4], "z": ["n", 3, 4, 4]}, **first, **second, **third)
    kinds = {operator.kind for operator in build_litert(made).file.operators}
    assert {"Add": "ADD", "Mul": "MUL", "Sub": "SUB", "Concat": "CONCATENATION"}[op] in kinds
    make_litert(made, {})


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_an_average_in_other_steps_rounds_once(pads):
    before, first = quantized("a", "x", 0.02, 100)
    behind, second = quantized("y", "c", 0.013, 90)
    pooled = node(
        "AveragePool", "a", "c", kernel_shape=[2, 2], strides=[2, 2], pads=pads, count_include_pad=1
    )
    made = model([*before, pooled, *behind], {"x": ["n", 3, 6, 6]}, **first, **second)
    assert "DEPTHWISE_CONV_2D" in {operator.kind for operator in build_litert(made).file.operators}
    make_litert(made, {})


def test_names_types_and_the_free_batch_are_the_callers():
    made = model([node("Relu", "x", "why.not")], {"x": ["n", 3, 4, 4]}, ["why.not"])
    content = make_litert(made, {}).files[".tflite"]
    schema = schema_of_litert()
    read = schema.ModelT.InitFromPackedBuf(content)
    (signature,), (graph,) = read.signatureDefs, read.subgraphs
    assert [entry.name for entry in signature.inputs] == [b"x"]
    assert [entry.name for entry in signature.outputs] == [b"why.not"]
    assert list(graph.tensors[graph.inputs[0]].shapeSignature) == [-1, 4, 4, 3]
    assert content == make_litert(made, {}).files[".tflite"], "the same graph, the same bytes"


def test_data_of_tensors_is_aligned():
    weight = normal(3, 8)
    content = make_litert(model([node("Gemm", "x w", transB=1)], {"x": ["n", 8]}, w=weight), {}).files[
        ".tflite"
    ]
    assert content.index(weight.tobytes()) % 16 == 0


@pytest.mark.parametrize(
    ("nodes", "inputs", "tensors", "said"),
    [
        ([node("Erf", "x")], ROWS, {}, "Erf y"),
        ([node("Conv", "x w")], {"x": ["n", 3, 8, 8, 8]}, {"w": normal(2, 3, 3, 3, 3)}, "two places"),
        ([node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], IMAGE, {}, "such pooling"),
        ([node("Relu", "x")], {"x": ["n", 3, "h", 4]}, {}, "free axis h"),
        ([node("Expand", "x s")], {"x": ["n", 1, 8]}, {"s": ints(1, 5, 8)}, "repetition to a free batch"),
        ([node("Slice", "x a b c d")], ROWS, {"a": ints(-1), "b": ints(-99), "c": ints(1), "d": ints(-1)}, "negative"),
        ([node("Pad", "x p", mode="edge")], ROWS, {"p": ints(0, 1, 0, 0, 0, 0)}, "edge"),
    ],
)  # fmt: skip
def test_what_litert_cannot_say_is_refused_by_name(nodes, inputs, tensors, said):
    with pytest.raises(UnsupportedError, match=said):
        build_litert(model(nodes, inputs, **tensors))


def test_a_free_axis_gets_the_size_that_is_asked_for():
    made = model([node("GlobalAveragePool", "x")], {"x": ["n", 3, "h", "w"]})
    result = make_litert(made, {"h": 5, "w": 7}).files[".tflite"]
    x = normal(2, 3, 5, 7)
    (got,) = opened_litert(result)([last(x)])
    np.testing.assert_allclose(got[:, 0, 0], x.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_a_size_that_depends_on_the_batch_is_refused_until_it_is_fixed():
    nodes = [node("Shape", "x", "s"), node("Cast", "s", "f", to=TensorProto.FLOAT), node("Mul", "x f")]
    made = model(nodes, {"x": ["n", 2]})
    with pytest.raises(UnsupportedError, match="depends on the batch"):
        build_litert(made)
    content = make_litert(made, {"n": 2}).files[".tflite"]
    (got,) = opened_litert(content)([np.float32([[1, 2], [3, 4]])])
    assert got.tolist() == [[2, 4], [6, 8]]


def test_integers_that_litert_does_not_have_are_refused():
    nodes, tensors = quantized("y", "x", 0.1, 3)
    tensors["y/z"] = np.uint16(3)
    with pytest.raises(UnsupportedError, match="uint16, zero point 3"):
        build_litert(model(nodes, ROWS, opset=21, **tensors))


def test_the_bound_of_floats_grows_where_onnx_runtime_itself_is_unsure():
    plain = model([node("Gemm", "x w")], {"x": [2, 8]}, w=normal(8, 3))
    x = {"x": normal(2, 8)}
    assert bound_of(plain, x, reference(plain, x)) == EXACT
    steep = [node("Mul", "x big", "a"), node("Add", "a big", "b"), node("Sub", "b big")]
    unsure = model(steep, {"x": [2, 8]}, big=np.float32(1e7))
    wrong = {"y": reference(unsure, x)["y"] * np.float32(1.001)}
    assert EXACT < bound_of(unsure, x, wrong) <= NOISE


def test_inputs_are_made_up_of_sizes_that_poolings_survive():
    made = model([node("GlobalAveragePool", "x")], {"x": ["n", 3, "h", "w"]})
    assert made_up(made)["x"].shape == (2, 3, 64, 64)
    assert made_up(made, {"h": 9})["x"].shape == (2, 3, 9, 64)
    nodes, tensors = quantized("y", "x", 0.1, 128)
    found = made_up(model(nodes, {"x": ["n", 99]}, **tensors))["x"]
    assert -12.8 <= found.min() < -12 < 12 < found.max() <= 12.7
