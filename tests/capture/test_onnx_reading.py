"""What is read from an ONNX file beside operators: patterns, names, weights, branches, types; what is refused."""

import contextlib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

from featherweight.capture import trace
from featherweight.capture.onnx import check_against_runtime, read_network
from featherweight.capture.rounding import Jitter
from featherweight.errors import ConfigError, FeatherweightError, IntegrityError, UnsupportedError
from featherweight.export import build_onnx
from featherweight.export.check import arrays
from featherweight.export.onnx import export, export_and_why
from featherweight.export.signature import signed

NUMBERS = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return NUMBERS.normal(size=shape).astype(dtype)


def saved(path, text, weights=None, version=17):
    """A model of a graph in ONNX's own language; `weights` are its initialisers."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {version}]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()
    )
    for value in model.graph.output:
        if not value.HasField("type"):
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["?"]))
            value.type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return path


def layers(network):
    return {name: type(part).__name__ for name, part in network.named_modules() if not part._modules and name}


HARD = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
NORM = {"two": np.float32(2), "eps": np.float32(1e-5), "g": normal(8), "b": normal(8), "axis": np.array([-1])}
GELU = {"half": np.float32(0.5), "one": np.float32(1), "root": np.float32(2**0.5), "k": np.float32(0.044715),
        "c": np.float32(0.7978845608), "cube": np.float32(3)}  # fmt: skip
PATTERNS = {
    "hard swish of paddle": (
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", HARD, "Hardswish", 17),
    "hard swish, divided first": (
        "a = Add(x, three) c = Clip(a, zero, six) d = Div(c, six) y = Mul(d, x)", HARD, "Hardswish", 17),
    "hard swish of a hard sigmoid": (
        "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, a)", {}, "Hardswish", 17),
    "hard sigmoid": ("a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six)", HARD, "Hardsigmoid", 17),
    "silu": ("s = Sigmoid(x) y = Mul(x, s)", {}, "SiLU", 17),
    "gelu": ("d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)", GELU, "GELU", 17),
    "gelu, halved first": (
        "d = Div(x, root) e = Erf(d) a = Add(one, e) h = Mul(half, x) y = Mul(h, a)", GELU, "GELU", 17),
    "gelu by tanh": (
        ("p = Pow(x, cube) q = Mul(k, p) s = Add(x, q) t = Mul(c, s) u = Tanh(t) v = Add(u, one) h = Mul(half, x)"
         " y = Mul(h, v)"), GELU, "GELU", 17),
    "layer norm": (
        ("m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps)"
         " r = Sqrt(e) n = Div(d, r) s = Mul(n, g) y = Add(s, b)"), NORM, "LayerNorm", 17),
    "layer norm of newer versions": (
        ("m = ReduceMean(x, axis) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axis) e = Add(v, eps) r = Sqrt(e)"
         " i = Reciprocal(r) n = Mul(d, i) s = Mul(n, g) y = Add(s, b)"), NORM, "LayerNorm", 18),
    "rms norm": (
        "q = Pow(x, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) n = Div(x, r) y = Mul(g, n)",
        NORM, "RMSNorm", 17),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_one_layer_becomes_one(name, tmp_path):
    body, weights, kind, version = PATTERNS[name]
    used = {n: a for n, a in weights.items() if f"{n}," in body or f"{n})" in body}
    path = saved(tmp_path / "m.onnx", f"m (float[n, 8] x) => (float[n, 8] y) {{ {body} }}", used, version)
    network = read_network(path)
    assert [type(p).__name__ for p in network.modules() if not p._modules and p is not network] == [kind]
    check_against_runtime(network, path, {"x": 3 * normal(4, 8)})


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("c = Conv(x, w) y = Add(c, b)", {"w": normal(5, 3, 2, 2), "b": normal(1, 5, 1, 1)}),
        ("c = Conv(x, w) y = Add(b, c)", {"w": normal(5, 3, 2, 2), "b": normal(5, 1, 1)}),
        ("c = Conv(x, w, a) y = Add(c, b)", {"w": normal(5, 3, 2, 2), "a": normal(5), "b": np.float32(2)}),
        ("c = Conv(x, w, a) y = Mul(c, b)", {"w": normal(5, 3, 2, 2), "a": normal(5), "b": normal(5, 1, 1)}),
        ("c = ConvTranspose(x, w) y = Add(c, b)", {"w": normal(3, 5, 2, 2), "b": normal(5, 1, 1)}),
        ("c = MatMul(x, w) y = Add(c, b)", {"w": normal(8, 5), "b": normal(5)}),
        ("c = MatMul(x, w) y = Add(c, b)", {"w": normal(8, 5), "b": normal(1, 1, 5)}),
        ("c = MatMul(x, w) s = Mul(c, b) y = Add(b, s)", {"w": normal(8, 5), "b": np.float32(0.3)}),
    ],
)
def test_a_constant_behind_a_layer_is_its_bias_or_scale(body, weights, tmp_path):
    path = saved(
        tmp_path / "m.onnx", f"m (float[n, 3, 6, 8] x) => (float[n, a, b, c] y) {{ {body} }}", weights
    )
    network = read_network(path)
    assert len(network._steps) == 1
    check_against_runtime(network, path, {"x": normal(2, 3, 6, 8)})


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("c = Conv(x, w) y = Add(c, b)", {"w": normal(5, 3, 1, 1), "b": normal(1, 8)}),  # over pixels
        (
            "c = Conv(x, w) y = Add(c, b)",
            {"w": normal(5, 3, 1, 1), "b": normal(1, 1, 5, 1, 1)},
        ),  # one axis more
        (
            "c = Conv(x, w) a = Add(c, b) y = Mul(a, c)",
            {"w": normal(5, 3, 1, 1), "b": normal(5, 1, 1)},
        ),  # read twice
        ("c = MatMul(x, w) y = Add(c, b)", {"w": normal(8, 5), "b": normal(6, 1)}),
    ],
)
def test_a_constant_that_is_no_bias_stays(body, weights, tmp_path):
    path = saved(tmp_path / "m.onnx", f"m (float[n, 3, 6, 8] x) => (y) {{ {body} }}", weights)
    network = read_network(path)
    assert len(network._steps) > 1
    check_against_runtime(network, path, {"x": normal(2, 3, 6, 8)})


def test_names_are_paths():
    from featherweight.capture.onnx.names import paths_of

    def node(op, name, weight=""):
        made = onnx.helper.make_node(op, ["x"], ["y"], name=name)
        import onnx_ir as ir

        value = ir.Value(name=weight) if weight else None
        return ir.serde.deserialize_node(made), value

    nodes = [
        node("Conv", "/model.0/conv/Conv"), node("Conv", "/model.0/conv/Conv"), node("Relu", "/model.0/conv/act/Relu"),
        node("Conv", "node_conv2d", "features.0.weight"), node("Gemm", "p2o.Gemm.0"), node("Conv", "a/b/Conv2D"),
        node("MatMul", "/blocks/blocks.0/up/MatMul", "onnx::MatMul_3"), node("Relu", "features/features.0/Relu_1"),
        node("LSTM", "/If_then_branch__Inline_0__/rnn/LSTM"),
    ]  # fmt: skip
    assert list(paths_of(dict(nodes)).values()) == [
        "model.0.conv.conv", "model.0.conv.conv_2", "model.0.conv.act", "features.0", "p2o.Gemm.0", "a.b",
        "blocks.0.up", "features.0_relu", "rnn",
    ]  # fmt: skip


def test_shared_weights_are_one_parameter_and_the_embedding_is_tied_to_the_head(tmp_path):
    text = "m (int64[n, t] ids) => (float[n, t, v] y) {\n e = Gather(w, ids) h = Relu(e)"
    text += " v = Transpose(w) y = MatMul(h, v) }"
    path = saved(tmp_path / "m.onnx", text, {"w": normal(200, 16)})
    network = read_network(path)
    assert sorted(layers(network).values()) == ["Embedding", "Linear", "ReLU"]
    assert len(list(network.parameters())) == 1 and len(network.state_dict()) == 2
    check_against_runtime(network, path, {"ids": NUMBERS.integers(0, 200, (2, 5))})


def test_weights_in_constant_nodes_and_behind_constants_are_weights(tmp_path):
    weight = helper.make_node("Constant", [], ["w0"], value=numpy_helper.from_array(normal(4, 3)))
    graph = helper.make_graph(
        [weight, helper.make_node("Transpose", ["w0"], ["w1"]), helper.make_node("Identity", ["w1"], ["w2"]),
         helper.make_node("Cast", ["w2"], ["w3"], to=TensorProto.FLOAT),
         helper.make_node("MatMul", ["x", "w3"], ["y"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    network = read_network(tmp_path / "m.onnx")
    assert list(layers(network).values()) == ["Linear"]
    check_against_runtime(network, tmp_path / "m.onnx", {"x": normal(2, 3)})


def test_weights_that_are_stored_as_integers_are_floats_again(tmp_path):
    text = "m (float[n, 4] x) => (float[n, 3] y) { d = DequantizeLinear<axis = 1>(w, s, z) y = MatMul(x, d) }"
    weights = {
        "w": NUMBERS.integers(-9, 9, (4, 3)).astype(np.int8),
        "s": np.float32([0.1, 0.2, 0.3]),
        "z": np.zeros(3, np.int8),
    }
    network = read_network(saved(tmp_path / "m.onnx", text, weights))
    assert network.notes == ("1 weights were stored as integers and are floats again",)
    check_against_runtime(network, tmp_path / "m.onnx", {"x": normal(2, 4)})


def test_weights_in_a_file_beside_it(tmp_path):
    path = saved(
        tmp_path / "m.onnx",
        "m (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }",
        {"w": normal(64, 64)},
    )
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    check_against_runtime(read_network(path), path, {"x": normal(2, 64)})
    (tmp_path / "m.data").unlink()
    with pytest.raises(IntegrityError, match=r"weights are in another file.*\n?hint: put that file"):
        read_network(path)


FREE = "m (float[batch, time, 8] x) => (float[batch, {out}] y)"
SHAPES = {
    "flattened by its own sizes": (
        "s = Shape(x) a = Gather(s, zero) u = Unsqueeze(a, zeros) c = Concat<axis = 0>(u, minus) y = Reshape(x, c)",
        {"zero": np.array(0), "zeros": np.array([0]), "minus": np.array([-1])}),
    "expanded to a size": (
        "s = Shape(x) t = Slice(s, zeros, two) e = Concat<axis = 0>(t, one) z = ConstantOfShape(e) y = Add(x, z)",
        {"zeros": np.array([0]), "two": np.array([2]), "one": np.array([1])}),
    "positions": (
        ("s = Shape(x) t = Gather(s, one) r = Range(zero, t, one) f = Cast<to = 1>(r) u = Unsqueeze(f, ends)"
         " y = Add(x, u)"), {"zero": np.array(0), "one": np.array(1), "ends": np.array([1])}),
    "where sizes are told": (
        "s = Shape(x) m = Mul(k, minus) q = Equal(k, m) w = Where(q, s, k) a = Expand(g, w) y = Add(x, a)",
        {"k": np.array([1, 1, 8]), "minus": np.array(-1), "g": normal(1, 1, 8)}),
    "half a size": (
        ("s = Shape(x) t = Gather(s, one) f = Cast<to = 1>(t) h = Div(f, half) fl = Floor(h) i = Cast<to = 7>(fl)"
         " u = Unsqueeze(i, zeros) y = Slice(x, zeros, u, ones)"),
        {"one": np.array(1), "half": np.float32(2), "zeros": np.array([0]), "ones": np.array([1])}),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_axes_stay_free_where_shapes_are_computed_from_shapes(name, tmp_path):
    body, weights = SHAPES[name]
    path = saved(tmp_path / "m.onnx", f"m (float[batch, time, 8] x) => (y) {{ {body} }}", weights)
    network = read_network(path)
    assert network.dynamic_shapes() == {"x": (0, 1)}
    example = torch.from_numpy(normal(2, 6, 8))
    stored = export(network, {"x": example}, dynamic=network.dynamic_shapes())
    session = onnxruntime.InferenceSession(build_onnx(stored, arrays(network)).SerializeToString())
    original = onnxruntime.InferenceSession(path)
    for sizes in ((2, 6), (3, 4), (1, 10)):
        x = normal(*sizes, 8)
        (found,), (expected,) = session.run(None, {"x": x}), original.run(None, {"x": x})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_axes_of_one_index_in_the_example_stay_free_too(tmp_path):
    text = "m (float[batch, 3, height, width] x) => (y) { c = Conv(x, w) y = GlobalAveragePool(c) }"
    network = read_network(saved(tmp_path / "m.onnx", text, {"w": normal(4, 3, 1, 1)}))
    graph = trace(network, {"x": torch.ones(1, 3, 1, 5)})
    assert graph.nodes[0].free == (0, 2, 3)


def test_inputs_that_are_given_in_order_have_the_names_of_the_file(tmp_path):
    text = "m (float[n, 3] b, float[n, 3] a) => (y) { y = Sub(b, a) }"
    network = read_network(saved(tmp_path / "m.onnx", text))
    graph = trace(network, (torch.ones(2, 3), torch.zeros(2, 3)))
    assert [(node.name, node.free) for node in graph.nodes[:2]] == [("b", (0,)), ("a", (0,))]


IF = """m (float[n, 4] x, int64 rate) => (float[n, 4] y) {
    wide = Equal(rate, k)
    y = If(wide) <
        then_branch = t () => (float[n, 4] a) { a = MatMul(x, v) },
        else_branch = e () => (float[n, 4] b) { b = MatMul(x, w) }
    >
}"""


def test_a_setting_decides_a_branch_and_another_value_gives_nan(tmp_path):
    weights = {"k": np.array(16000), "v": normal(4, 4), "w": normal(4, 4)}
    path = saved(tmp_path / "m.onnx", IF, weights)
    network = read_network(path, settings={"rate": np.array(16000)})
    assert len(list(network.parameters())) == 1
    assert "rate is 16000 for all samples" in network.notes[0] and "1 of 1 branches" in network.notes[1]
    check_against_runtime(network, path, {"x": normal(2, 4), "rate": np.array(16000)})
    stored = export(network, {"x": torch.from_numpy(normal(2, 4)), "rate": torch.tensor(16000)})
    model = signed(build_onnx(stored, arrays(network)), stored.outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [value.name for value in session.get_inputs()] == ["x", "rate"]
    assert np.isnan(session.run(None, {"x": normal(2, 4), "rate": np.array(8000)})[0]).all()
    assert np.isfinite(session.run(None, {"x": normal(2, 4), "rate": np.array(16000)})[0]).all()


def test_a_branch_that_depends_on_data_is_refused_and_says_of_settings(tmp_path):
    path = saved(tmp_path / "m.onnx", IF, {"k": np.array(1), "v": normal(4, 4), "w": normal(4, 4)})
    with pytest.raises(UnsupportedError, match=r"If of node \w+.*\nhint: .*settings"):
        read_network(path)
    for settings_, said in (
        ({"rat": np.array(1)}, "no such input: got rat, expected x, rate"),
        ({"rate": np.array([1])}, "shape of a setting"),
        ({"rate": np.array(0.5)}, "type of a setting"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_network(path, settings=settings_)


def test_a_branch_that_depends_on_a_size_is_taken_when_it_runs(tmp_path):
    text = """m (float[n, t] x) => (float[n, u] y) {
        s = Shape(x) t = Gather(s, one) c = Equal(t, one)
        y = If(c) <
            then_branch = a () => (float[n, u] p) { p = Neg(x) },
            else_branch = b () => (float[n, u] q) { q = Mul(x, x) }
        >
    }"""
    path = saved(tmp_path / "m.onnx", text, {"one": np.array(1)})
    network = read_network(path)
    for width in (1, 3):
        check_against_runtime(network, path, {"x": normal(2, width)})


def test_half_precision_is_computed_in_float32_and_keeps_its_types(tmp_path):
    text = "m (float16[n, 8] x) => (float16[n, 4] y) {"
    text += " c = MatMul(x, w) f = Cast<to = 1>(c) h = Cast<to = 10>(f) y = Relu(h) }"
    path = saved(tmp_path / "m.onnx", text, {"w": normal(8, 4, dtype=np.float16)})
    network = read_network(path)
    assert [value.dtype for value in (*network.inputs, *network.outputs)] == ["float16", "float16"]
    assert (
        all(p.dtype == torch.float32 for p in network.parameters()) and "half precision" in network.notes[0]
    )
    assert check_against_runtime(network, path, {"x": normal(2, 8, dtype=np.float16)}) < 1e-2
    stored = export(network, {"x": torch.from_numpy(normal(2, 8, dtype=np.float16))})
    model = signed(build_onnx(stored, arrays(network)), stored.outputs)
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        TensorProto.FLOAT16
    }


def test_an_exported_model_has_the_names_the_order_and_the_free_axes_of_the_file(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Add", ["b:0", "a:0"], ["sum"]), helper.make_node("Relu", ["sum"], ["out/1.tmp"]),
         helper.make_node("Neg", ["sum"], ["relu"]), helper.make_node("Identity", ["out/1.tmp"], ["again"])],
        "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in ("b:0", "a:0")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["lines", 4])
         for name in ("out/1.tmp", "relu", "again")],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    network = read_network(tmp_path / "m.onnx")
    assert network.identifiers == {"b:0": "b_0", "a:0": "a_0"}
    example = {"a_0": torch.ones(2, 4), "b_0": torch.ones(2, 4)}
    stored = export(network, example, dynamic=network.dynamic_shapes())
    model = signed(build_onnx(stored, arrays(network)), stored.outputs)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [(v.name, v.shape) for v in session.get_inputs()] == [("b:0", ["rows", 4]), ("a:0", ["rows", 4])]
    assert [v.name for v in session.get_outputs()] == ["out/1.tmp", "relu", "again"]
    feeds = {"a:0": normal(3, 4), "b:0": normal(3, 4)}
    theirs = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, feeds)
    for found, expected in zip(session.run(None, feeds), theirs, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_outputs_of_a_dict_are_called_by_its_keys():
    class Two(nn.Module):
        def forward(self, x):
            return {"double": x + x, "relu": x.neg(), "x": x * 3}

    stored = export(Two(), torch.ones(2, 3))
    model = signed(build_onnx(stored, {}), stored.outputs)
    assert {value.name for value in model.graph.output} >= {"double", "relu"}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    name = session.get_inputs()[0].name
    made = dict(
        zip(
            [v.name for v in session.get_outputs()],
            session.run(None, {name: np.ones((2, 3), np.float32)}),
            strict=True,
        )
    )
    assert made["double"].max() == 2 and made["relu"].max() == -1


# What is refused.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)",
            r"QuantizeLinear of node \w+, DequantizeLinear.*hint: the file is quantized",
        ),
        ("y = DynamicQuantizeLinear(x)", "DynamicQuantizeLinear of node"),
        ("y = NonZero(x)", "NonZero of node"),
        ("y = Bernoulli(x)", r"(Bernoulli|RandomUniformLike) of node"),
    ],
)
def test_operators_that_cannot_be_read_are_named(body, said, tmp_path):
    path = saved(tmp_path / "m.onnx", f"m (float[n, 4] x) => (y) {{ {body} }}", {"s": np.float32(0.1)})
    with pytest.raises(UnsupportedError, match=f"(?s){said}"):
        read_network(path)


def test_at_most_five_are_named_and_domains_are_said(tmp_path):
    nodes = [helper.make_node(f"Odd{n}", ["x"], [f"y{n}"], domain="ours", name=f"n{n}") for n in range(7)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, [2]) for n in range(7)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=r"ours\.Odd0 of node n0.*ours\.Odd4 of node n4 and 2 more"):
        read_network(tmp_path / "m.onnx")


def test_old_operators_are_refused(tmp_path):
    path = saved(tmp_path / "m.onnx", "m (float[n] x) => (float[n] y) { y = Neg(x) }", version=9)
    with pytest.raises(UnsupportedError, match="opset 9, expected 11 or newer"):
        read_network(path)


def _cyclic():
    return [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]


HOSTILE = {
    "cyclic": (_cyclic(), []),
    "written twice": ([helper.make_node("Neg", ["x"], ["b"]), helper.make_node("Abs", ["x"], ["b"])], []),
    "missing": ([helper.make_node("Conv", ["x", "nowhere"], ["b"])], []),
    "wrong rank": ([helper.make_node("Conv", ["x", "w"], ["b"])], [numpy_helper.from_array(normal(3), "w")]),
    "wrong type": ([helper.make_node("Transpose", ["x"], ["b"], perm="no")], []),
    "sizes that lie": (
        [helper.make_node("Add", ["x", "w"], ["b"])],
        [TensorProto(name="w", data_type=1, dims=[1000, 1000], raw_data=b"1234")],
    ),
    "negative sizes": (
        [helper.make_node("Add", ["x", "w"], ["b"])],
        [TensorProto(name="w", data_type=1, dims=[-2], raw_data=b"12345678")],
    ),
    "no such type": (
        [helper.make_node("Add", ["x", "w"], ["b"])], [TensorProto(name="w", data_type=99, dims=[1], raw_data=b"1234")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_model_gives_one_error(name, tmp_path):
    nodes, weights = HOSTILE[name]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 3])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FeatherweightError) as caught:
        network = read_network(tmp_path / "m.onnx")
        with torch.no_grad():
            check_against_runtime(network, tmp_path / "m.onnx", {"x": normal(2, 3)})
    assert len(str(caught.value)) < 700


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_one_error_or_a_network(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "m.onnx"
    saved(
        path,
        "m (float[n, 3, 6, 8] x) => (y) { c = Conv(x, w) r = Relu(c) y = Flatten(r) }",
        {"w": normal(5, 3, 2, 2)},
    )
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with contextlib.suppress(FeatherweightError):
        read_network(path)


def test_what_is_no_file_says_so(tmp_path):
    with pytest.raises(OSError, match="nothing"):
        read_network(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(IntegrityError, match="not a sound ONNX model"):
        read_network(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(IntegrityError):
        read_network(tmp_path / "empty.onnx")


def test_a_squeeze_and_excite_of_paddle_is_an_activation_in_the_graph(tmp_path):
    text = """m (float[n, 4, 6, 6] x) => (y) {
        p = GlobalAveragePool(x) a = Conv(p, v) r = Relu(a) b = Conv(r, w)
        h = HardSigmoid<alpha = 0.2, beta = 0.5>(b) y = Mul(x, h) }"""
    path = saved(tmp_path / "m.onnx", text, {"v": normal(2, 4, 1, 1), "w": normal(4, 2, 1, 1)})
    network = read_network(path)
    check_against_runtime(network, path, {"x": normal(2, 4, 6, 6)})
    ops = [node.op for node in trace(network, {"x": torch.ones(2, 4, 6, 6)}).nodes]
    assert ops == ["input", "adaptive_avg_pool2d", "conv2d", "relu", "conv2d", "mul", "hardsigmoid", "mul"]


def test_constants_that_are_added_are_no_weights(tmp_path):
    """Anchors of a detector are constants as large as weights; rounded to 8 bits they move every box."""
    path = saved(
        tmp_path / "anchors.onnx",
        "g (float[n, 32] x) => (y) { h = MatMul(x, w) r = Relu(h) a = Add(r, anchors) y = Mul(a, strides) }",
        {"w": normal(32, 64), "anchors": normal(32, 64), "strides": normal(32, 64)},
    )
    network = read_network(path)
    assert [tuple(weight.shape) for weight in network.parameters()] == [(64, 32)]
    assert {name for name, _ in network.named_buffers()} >= {"anchors", "strides"}
    check_against_runtime(network, path, {"x": normal(32, 32)})


def test_what_float32_loses_by_chance_alone_is_no_misreading(tmp_path):
    """A variance as a difference of two large numbers: ONNX Runtime's sum is 100 times as far off as torch's here."""
    path = saved(
        tmp_path / "variance.onnx",
        "g (float[n, 2048] x) => (y) {"
        " s = Mul(x, x) a = ReduceMean<axes = [1], keepdims = 1>(s)"
        " m = ReduceMean<axes = [1], keepdims = 1>(x) b = Mul(m, m) y = Sub(a, b) }",
    )
    network = read_network(path)
    x = (30 + np.random.default_rng(0).normal(size=(4, 2048))).astype(np.float32)
    named = {network.identifiers["x"]: torch.from_numpy(x)}
    plain = network(**named)
    with Jitter():
        moved = network(**named)
    off = float(((moved - plain).abs().max() / plain.abs().max()).detach())
    assert 1e-5 < off < 1e-3  # 900 is subtracted from 901
    check_against_runtime(network, path, {"x": x})


def test_jitter_moves_no_integers_and_no_views():
    x = torch.randn(64)
    with Jitter():
        assert torch.equal(x.view(8, 8).flatten(), x)
        assert torch.equal(torch.arange(5) + 1, torch.arange(1, 6))
        moved = x * 2
    assert 0 < float((moved / (2 * x) - 1).abs().max()) < 3e-7


DETECTOR = """g (float[1, 3, 8, 8] image) => (int64[n, 3] chosen, float[1, 2, 64] scores, int64[n] classes)
{
    a = Conv<pads = [1, 1, 1, 1]>(image, w) r = Relu(a) f = Reshape(r, flat) scores = Slice(f, c0, c2, c1)
    b = Slice(f, c2, c6, c1) boxes = Transpose<perm = [0, 2, 1]>(b) chosen = NonMaxSuppression(boxes, scores, most)
    first = Gather<axis = 1>(chosen, one) classes = Identity(first)
}"""


def test_a_file_with_a_choice_of_boxes_says_how_to_cut_it_before(tmp_path):
    weights = {
        "w": normal(6, 3, 3, 3),
        "flat": np.array([1, 6, 64]),
        "most": np.array([5]),
        "one": np.array(1),
    }
    weights |= {f"c{n}": np.array([n]) for n in (0, 1, 2, 6)}
    path = saved(tmp_path / "detector.onnx", DETECTOR, weights)
    with pytest.raises(UnsupportedError, match="NonMaxSuppression of node") as found:
        read_network(path)
    call = "onnx.utils.extract_model('detector.onnx', 'cut.onnx', ['image'], ['boxes', 'scores'])"
    assert found.value.hint.endswith(call)
    with contextlib.chdir(tmp_path):
        exec(call, {"onnx": onnx})
    cut = read_network(tmp_path / "cut.onnx")
    image = normal(1, 3, 8, 8)
    check_against_runtime(cut, tmp_path / "cut.onnx", {"image": image})
    (scores,) = onnxruntime.InferenceSession(str(path)).run(["scores"], {"image": image})
    np.testing.assert_allclose(cut(torch.from_numpy(image))["scores"].detach(), scores, rtol=1e-5, atol=1e-5)


GRU = """g (float[steps, n, 3] x) => (float[steps, 1, n, 4] y, float[1, n, 4] last)
{ y, last = GRU<hidden_size = 4, linear_before_reset = 0>(x, w, r, b LENGTHS) }"""


def gru(folder, lengths=None):
    weights = {"w": normal(1, 12, 3), "r": normal(1, 12, 4), "b": normal(1, 24)}
    weights |= {} if lengths is None else {"lengths": np.int32(lengths)}
    return saved(folder / "gru.onnx", GRU.replace("LENGTHS", ", lengths" if lengths else ""), weights)


def test_a_gru_that_resets_first_is_captured_with_its_batch_free(tmp_path):
    path, x = gru(tmp_path), torch.from_numpy(normal(5, 2, 3))
    network = read_network(path)
    assert set(layers(network).values()) == {"Linear"}
    check_against_runtime(network, path, {"x": x.numpy()})
    stored = export(network, {"x": x}, dynamic={"x": (1,)})
    model = signed(build_onnx(stored, arrays(network)), stored.outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    other = normal(5, 7, 3)
    for found, expected in zip(
        session.run(None, {"x": other}),
        onnxruntime.InferenceSession(str(path)).run(None, {"x": other}),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sequences_that_are_shorter_than_the_others_are_refused(tmp_path):
    x = normal(5, 2, 3)
    whole = gru(tmp_path, [5, 5])
    check_against_runtime(read_network(whole), whole, {"x": x})
    network = read_network(gru(tmp_path, [5, 4]))
    with pytest.raises(UnsupportedError, match=r"lengths of each sequence, \[5, 4\] of 5 steps"):
        network(torch.from_numpy(x))


@pytest.mark.parametrize("width", ["8", "w"])
def test_a_height_that_cannot_change_fixes_no_other_axis(tmp_path, width):
    """A text recogniser takes lines of one height, and any number of them, of any width."""
    path = saved(
        tmp_path / "height.onnx",
        f"g (float[n, 3, h, {width}] x) => (y) {{"
        " a = AveragePool<kernel_shape = [4, 1], strides = [4, 1]>(x)"
        " b = MaxPool<kernel_shape = [3, 1], strides = [3, 1]>(x)"
        " c = Concat<axis = 1>(a, b) d = Conv<kernel_shape = [1, 3], pads = [0, 1, 0, 1]>(c, k) y = Relu(d) }",
        {"k": normal(4, 6, 1, 3)},
    )
    network = read_network(path)
    example = {network.identifiers["x"]: torch.from_numpy(normal(2, 3, 5, 8))}
    stored, why = export_and_why(network, example)
    session = onnxruntime.InferenceSession(build_onnx(stored, arrays(network)).SerializeToString())
    free = [isinstance(n, str) for n in session.get_inputs()[0].shape]
    assert free == [True, False, width == "w", width == "w"]
    assert ("other sizes" in why) is (width == "8")
    x = normal(3, 3, 5, 8 if width == "8" else 11)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach(), y, rtol=1e-5, atol=1e-5)
