"""Integers that run: the QDQ graph against the simulation, layer by layer, in both runtimes; and what stays float."""

import dataclasses
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from featherweight.activations import KINDS, Affine, FloatingPoint
from featherweight.artifact import Initialiser, StoredGraph, dumps, loads
from featherweight.capture.program import capture
from featherweight.doctor import kernels
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.evaluation.parity import layer_parity
from featherweight.export import build_qdq, qdq_of, unknown_edges
from featherweight.export.check import arrays
from featherweight.export.linear import build_linear
from featherweight.export.onnx import export
from featherweight.export.onnx_graph import merge_padding
from featherweight.formats import Int
from featherweight.integers import integer_layer
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime import Session
from featherweight.simulation import execution, fake_quantize, simulate
from featherweight.techniques import Calibrate, Context, Encode

RUNTIMES = ["onnxruntime", "openvino"]


class Everything(nn.Module):
    """A padded strided convolution, a residual sum with and without a clamp, a concatenation, pools, a linear layer."""

    def __init__(self):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.wide = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = nn.functional.relu6(self.stem(self.pad(x)))
        x = torch.relu(x + self.wide(nn.functional.relu6(self.deep(x))))
        x = x + self.wide(x)
        x = torch.cat([nn.functional.max_pool2d(x, 2), nn.functional.avg_pool2d(x, 2)], 1)
        return self.fc(x.mean((2, 3)))


class Given:
    """A task of random images."""

    name = "given"

    def example(self):
        return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def batches(self, split, *, seed, epoch):
        return [(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)), None)]

    def inputs(self, batch):
        return batch[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    start = Model.of(Everything())
    encoded = Encode(format=Int(bits=8), portable=True).apply(start, Given(), Context())
    return Calibrate(samples=64).apply(encoded, Given(), Context())


@pytest.fixture(scope="module")
def graph(model):
    return export(model.module, Given().example())


def integers(model, graph, **options):
    return build_qdq(graph, arrays(model.module), model.weights, model.activations, **options)


def test_every_layer_is_the_simulations(model, graph):
    (inputs, _), *_ = Given().batches("calibration", seed=0, epoch=0)
    for runtime in RUNTIMES:
        if runtime == "openvino":
            pytest.importorskip("openvino")
        found = layer_parity(model, graph, inputs, runtime)
        assert len(found) == len(model.activations) - 1, (
            "all but the input and the padding merged into a layer, and the output"
        )
        assert all(layer.most <= 1 for layer in found), (runtime, found)
        assert all(layer.equal >= 0.995 for layer in found), (runtime, found)


def test_no_layer_is_float(model, graph):
    qdq = integers(model, graph)
    operators = Counter(kernel.op for kernel in kernels(qdq.onnx, "onnxruntime"))
    assert not qdq.floats
    assert operators["QLinearConv"] == 4 and operators["QGemm"] == 1 and operators["QLinearAdd"] == 2
    assert not operators.keys() & {"Conv", "FusedConv", "Gemm", "Pad"}
    stored = [t for t in qdq.onnx.graph.initializer if t.name.endswith("/weight")]
    assert {t.data_type for t in stored} == {onnx.TensorProto.INT8}


def test_zero_points_of_zero_are_stored_with_weights_alone(model, graph):
    stored = [t.name for t in integers(model, graph).onnx.graph.initializer]
    weights = [name for name in stored if name.endswith("/weight")]
    assert [name for name in stored if name.endswith("/zero")] == [f"{name}/zero" for name in weights]
    assert len(weights) > 1


def test_a_file_keeps_its_quantizers_and_runs_by_them(model, graph):
    content = dumps(pack(model, graph))
    artifact = loads(content)
    assert artifact.activations == model.activations
    assert dumps(pack(model, graph)) == content
    x = Given().example()
    simulated = simulate(model, x)(x).detach().numpy()
    ran, floats = artifact.session().run(x.numpy()), artifact.session(integers=False).run(x.numpy())
    step = np.ptp(simulated) / 255
    assert np.abs(ran - simulated).max() <= 3 * step
    np.testing.assert_allclose(floats, model.module(x).detach().numpy(), atol=1e-5)
    assert np.abs(ran - floats).max() > 0


def test_the_simulation_is_arithmetic_on_integers(model):
    """The stem, multiplied and summed in int64."""
    x = Given().example()
    seen = {}

    def visit(edge, value):
        quantizer = model.activations.get(edge)
        seen[edge] = value if quantizer is None else fake_quantize(value, quantizer)
        return seen[edge]

    program = capture(model.module, x)
    execution(model, program, visit)({"x": x})
    source = model.activations["x"]
    clamp = next(edge for edge in model.activations if edge.startswith(("hardtanh", "relu6")))
    written = model.activations[clamp]
    layer = integer_layer(model.weights["stem.weight"], model.tensors["stem.bias"].detach().numpy(), source)
    q = source.quantize(nn.functional.pad(x, (0, 1, 0, 1)).numpy()).astype(np.int64)
    q = torch.from_numpy(q - source.zero_point)
    sums = nn.functional.conv2d(q.double(), torch.from_numpy(layer.weight).double(), stride=2).numpy()
    sums = sums + layer.bias.reshape(-1, 1, 1)
    expected = written.quantize(np.clip(sums * layer.bias_scale.reshape(-1, 1, 1), 0, 6))
    got = written.quantize(seen[clamp].numpy())
    assert np.abs(expected.astype(int) - got).max() <= 1 and (expected == got).mean() >= 0.995


def test_float_weights_stay_float_and_are_named(model, graph):
    weights = {name: entry for name, entry in model.weights.items() if name != "fc.weight"}
    weights["deep.weight"] = Int(bits=8, per=4).encode(model.tensors["deep.weight"].detach().numpy())
    qdq = build_qdq(graph, arrays(model.module), weights, model.activations)
    assert qdq.floats == {
        "deep": "its weight has a step for each group, not for each channel",
        "fc": "its weight is not encoded as integers",
    }
    x = Given().example().numpy()
    Session.of_onnx(qdq.onnx).run(x)


def test_a_quantizer_on_no_value_is_refused(model, graph):
    forged = {**model.activations, "nowhere": Affine(1.0, 0)}
    with pytest.raises(IntegrityError, match="on no value of the graph: got nowhere"):
        qdq_of(loads(dumps(pack(dataclasses.replace(model, activations=forged), graph))))
    assert not unknown_edges(graph, model.activations)


def test_narrow_activations_are_clamped(model, graph):
    narrow = Calibrate(bits=4, samples=64).apply(model, Given(), Context())
    x = Given().example()
    simulated = simulate(narrow, x)(x).detach().numpy()
    ran = Session.of_onnx(integers(narrow, graph).onnx).run(x.numpy())
    assert all(layer.right for layer in layer_parity(narrow, graph, x))
    np.testing.assert_allclose(ran, simulated, atol=0.05 * np.ptp(simulated))


FORMATS = [{"bits": 16}, {"bits": 12}, *({"numbers": kind} for kind in KINDS)]


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_other_numbers_than_8_bits_are_rounded_to_or_refused(model, graph, options):
    made = Calibrate(samples=64, **options).apply(model, Given(), Context())
    artifact = loads(dumps(pack(made, graph)))
    assert artifact.activations == made.activations
    x = Given().example()
    found = layer_parity(made, graph, x)
    assert len(found) >= len(made.activations) - 1 and all(layer.right for layer in found), found
    simulated, floats = simulate(made, x)(x).detach().numpy(), made.module(x).detach().numpy()
    ran = artifact.session().run(x.numpy())
    np.testing.assert_allclose(ran, simulated, atol=0.02 * np.ptp(floats))
    assert np.abs(ran - floats).max() > 0, "it rounds"
    pytest.importorskip("openvino")
    with pytest.raises(UnsupportedError, match="does not round activations to"):
        artifact.session(runtime="openvino")


def test_a_bias_beyond_int32_makes_the_step_larger():
    weight = np.array([[1e-12, -1e-12], [1.0, -1.0]], np.float32)
    bias, activation = np.float32([5.0, 0.5]), Affine(float(np.float32(0.01)), 0)
    layer = integer_layer(Int(bits=8).encode(weight), bias, activation)
    np.testing.assert_allclose(layer.biases, bias, rtol=1e-6)
    np.testing.assert_allclose(layer.weights[1], weight[1], rtol=0.01)
    assert np.abs(layer.weights[0]).max() < 1e-6


def test_fake_quantize_is_dequantize_of_quantize():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3
    for quantizer in (
        Affine.of(-1, 3),
        Affine.of(0, 2, bits=3),
        Affine.of(-1, 1, signed=True),
        FloatingPoint(0.5, "float8_e5m2"),
        FloatingPoint(1.0, "bfloat16"),
    ):
        expected = quantizer.dequantize(quantizer.quantize(x.numpy()))
        np.testing.assert_array_equal(fake_quantize(x, quantizer).numpy(), expected)


def test_only_zeros_around_images_merge_into_convolutions():
    def padded(amounts, value=0.0):
        pads = onnx.numpy_helper.from_array(np.int64(amounts), "pads")
        fill = onnx.numpy_helper.from_array(np.float32(value), "fill")
        pad = helper.make_node("Pad", ["x", "pads", "fill"], ["p"])
        conv = helper.make_node("Conv", ["p", "w"], ["y"], pads=[1, 1, 1, 1])
        graph = helper.make_graph([pad, conv], "g", [], [], [pads, fill])
        made = helper.make_model(graph)
        merge_padding(made, {})
        graph = made.graph
        return [(node.op_type, list(node.attribute[0].ints) if node.attribute else []) for node in graph.node]

    assert padded([0, 0, 0, 0, 0, 0, 1, 2]) == [("Conv", [1, 1, 2, 3])]
    assert len(padded([0, 1, 0, 0, 0, 0, 1, 1])) == 2, "channels"
    assert len(padded([0, 0, 0, 0, 0, 0, 1, 1], value=1.0)) == 2
    assert len(padded([0, 0, -1, 0, 0, 0, 1, 1])) == 2


class Tokens(nn.Module):
    """Linear layers over `[n, tokens, in]`, with and without a bias: a Transpose stands before their weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(256, 24), nn.Linear(24, 8, bias=False)

    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(2))))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_linear_layers_over_tokens_run_in_integers(runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    torch.manual_seed(0)
    encoded = Encode(format=Int(bits=8), portable=True).apply(Model.of(Tokens()), Given(), Context())
    made = Calibrate(samples=64).apply(encoded, Given(), Context())
    graph = export(made.module, Given().example())
    qdq = integers(made, graph)
    assert not qdq.floats
    stored = {tuple(t.dims) for t in qdq.onnx.graph.initializer if t.name.endswith("/weight")}
    assert stored == {(256, 24), (24, 8)}
    assert "Transpose" not in {node.op_type for node in qdq.onnx.graph.node}
    images = Given().batches("test", seed=0, epoch=0)[0][0]
    session = Session.of_onnx(qdq.onnx, runtime=runtime)
    with torch.no_grad():
        expected = made.module(images).numpy()
    got = session.run(images.numpy())
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    if runtime == "onnxruntime":
        assert not {"Gemm", "MatMul"} & {kernel.op for kernel in kernels(qdq.onnx, runtime)}


def test_a_layer_over_tokens_that_stays_float_is_named_by_its_module():
    torch.manual_seed(0)
    encoded = Encode(format=Int(bits=8), portable=True).apply(Model.of(Tokens()), Given(), Context())
    made = Calibrate(samples=64).apply(encoded, Given(), Context())
    weights = {"second.weight": made.weights["second.weight"]}
    graph = export(made.module, Given().example())
    qdq = build_qdq(graph, arrays(made.module), weights, made.activations)
    assert qdq.floats == {"first": "its weight is not encoded as integers"}


def operator(op, inputs, **attributes):
    return helper.make_node(op, inputs, ["t"], **attributes)


PRODUCT = helper.make_node("MatMul", ["x", "t"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([operator("Transpose", ["w"], perm=[0, 5]), PRODUCT], "axes that are not there"),
        ([operator("Transpose", ["w"], perm=[0]), PRODUCT], "axes that are not there"),
        ([operator("Transpose", ["w"], perm=[1, 1]), PRODUCT], "axes that are not there"),
        ([operator("Transpose", ["w"], perm=1.5)], "malformed operator"),
        ([operator("Transpose", [])], "malformed operator"),
        ([operator("MatMul", ["x"])], "malformed operator"),
        ([operator("Gemm", ["x"])], "malformed operator"),
    ],
)
@pytest.mark.parametrize("build", ["qdq", "dynamic"])
def test_a_damaged_graph_is_refused(nodes, message, build):
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    stub = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4, 3])
    made = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [stub]))
    graph = StoredGraph(made.SerializeToString(), (Initialiser("w", "w"),), 0)
    weight = np.ones((4, 3), np.float32)
    encoded = {"w": Int().encode(weight)}
    with pytest.raises(IntegrityError, match=message):
        if build == "qdq":
            build_qdq(graph, {"w": weight}, encoded, {})
        else:
            build_linear(graph, {"w": weight}, encoded, "dynamic")
