"""Linear layers in integers without calibration: against the same arithmetic in numpy, and what is left in float."""

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featherweight.artifact import dumps, loads
from featherweight.doctor import kernels
from featherweight.errors import UnsupportedError
from featherweight.export import linear_of
from featherweight.export.onnx import export
from featherweight.export.packed import packed
from featherweight.formats import Int, View
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime import OnnxBackend, Session, usable


class Tokens(nn.Module):
    """Linear layers over `[n, tokens, in]` and `[n, in]`, with and without biases, one read twice; a convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 40, 3, padding=1)
        self.first, self.second = nn.Linear(40, 48), nn.Linear(40, 48, bias=False)
        self.head = nn.Linear(48, 40)

    def forward(self, x):
        x = self.conv(x).transpose(1, 2)
        x = torch.relu(self.first(x)) + self.second(x)
        return self.head(x[:, 0]) + self.head(x).mean(1)


EXAMPLE = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(0))
WEIGHTS = ("conv.weight", "first.weight", "second.weight", "head.weight")


@cache
def exported():
    torch.manual_seed(0)
    network = Tokens()
    return Model.of(network), export(network, EXAMPLE)


def made(formats):
    """Return the network, its weights in these formats, and the file of both."""
    start, graph = exported()
    model = start.with_encoded(
        {name: f.encode(start.tensors[name].detach().numpy()) for name, f in formats.items()}
    )
    return model, loads(dumps(pack(model, graph)))


def dynamically(x, weight, bias):
    """A linear layer as ONNX DynamicQuantizeLinear and MatMulInteger define it; sums in int64."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32(np.float32(high - low) / np.float32(255))
    zero = np.clip(np.rint(np.float32(-low) / scale), 0, 255)
    integers = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64)
    steps, step = weight
    product = ((integers - int(zero)) @ steps.T.astype(np.int64)) * (scale * step.astype(np.float64))
    return torch.from_numpy((product + (0 if bias is None else bias)).astype(np.float32))


class Dynamic(nn.Module):
    """A linear layer by `dynamically`."""

    def __init__(self, layer, encoded):
        super().__init__()
        steps = encoded.symbols.astype(np.int16).reshape(encoded.view.rows, -1)
        bits = encoded.format.bits
        self.weight = np.where(steps >= 1 << bits - 1, steps - (1 << bits), steps), encoded.parts["scale"]
        self.bias = None if layer.bias is None else layer.bias.detach().numpy()

    def forward(self, x):
        return dynamically(x.numpy(), self.weight, self.bias)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_dynamic_is_the_arithmetic_of_the_operators(runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model, artifact = made(dict.fromkeys(WEIGHTS, Int(bits=8)))
    dynamic = linear_of(artifact, "dynamic")
    ran = Session.of_onnx(dynamic.onnx, runtime=runtime).run(EXAMPLE.numpy())
    for name in ("first", "second", "head"):
        layer = getattr(model.module, name)
        setattr(model.module, name, Dynamic(layer, model.weights[f"{name}.weight"]))
    with torch.no_grad():
        expected = model.module(EXAMPLE).numpy()
    # a sum almost half way between two integers may fall to either, which moves outputs by a step
    close = np.abs(ran - expected) <= 1e-5 * np.abs(expected).max()
    assert close.mean() > 0.5 and np.abs(ran - expected).max() < 0.01 * np.ptp(expected)


def stored(model):
    """The stored weights of linear layers, by the layer's output."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name.removesuffix("/weight"): array for name, array in arrays.items() if name.endswith("/weight")}


def test_sums_in_32_bits_with_a_weight_that_two_operators_read(monkeypatch):
    _, artifact = made(dict.fromkeys(WEIGHTS, Int(bits=8)))
    model = linear_of(artifact, "dynamic").onnx
    expected = Session.of_onnx(model).run(EXAMPLE.numpy())
    monkeypatch.setattr(OnnxBackend, "saturates", lambda self: True)
    assert usable("onnxruntime").saturating(model)
    np.testing.assert_allclose(Session.of_onnx(model).run(EXAMPLE.numpy()), expected, rtol=1e-5, atol=1e-6)


def test_dynamic_layers_run_in_integers():
    _, artifact = made(dict.fromkeys(WEIGHTS, Int(bits=8)))
    dynamic = linear_of(artifact, "dynamic")
    operators = Counter(kernel.op for kernel in kernels(dynamic.onnx, "onnxruntime"))
    assert operators["DynamicQuantizeMatMul"] + operators["MatMulIntegerToFloat"] == 4
    assert not operators.keys() & {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}
    assert {array.dtype for array in stored(dynamic.onnx).values()} == {np.dtype(np.int8)}
    assert dynamic.floats == {"conv": "it is a convolution"}
    onnx.checker.check_model(dynamic.onnx, full_check=True)


@pytest.mark.parametrize("per", [16, 32, "channel", "tensor"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize(("bits", "scales"), [(2, {}), (4, {}), (7, {}), (4, {"scale_type": "float16"})])
def test_nbits_is_the_decoded_network(bits, scales, scheme, per, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
        if bits == 2:
            pytest.skip("OpenVINO reads MatMulNBits of 4 and 8 bits")
    model, artifact = made(dict.fromkeys(WEIGHTS, Int(bits=bits, per=per, scheme=scheme, **scales)))
    graph = linear_of(artifact, "nbits", activations="float32").onnx
    ran = Session.of_onnx(graph, runtime=runtime).run(EXAMPLE.numpy())
    with torch.no_grad():
        expected = model.module(EXAMPLE).numpy()
    np.testing.assert_allclose(ran, expected, atol=1e-5 * np.abs(expected).max())
    width = {2: 2, 4: 4, 7: 8}[bits]
    if runtime == "onnxruntime":
        precisions = {kernel.op: kernel.precision for kernel in kernels(graph, runtime) if kernel.weighted}
        assert precisions["MatMulNBits"] == f"int{width}"
    block = min(per, 64) if isinstance(per, int) else 128
    sizes = {-(-cols // block) * block * width // 8 for cols in (40, 48)}
    assert all(a.dtype == np.uint8 and a[0].size in sizes for a in stored(graph).values())


@pytest.mark.parametrize("bits", [4, 8])
def test_nbits_by_activations_of_8_bits_is_near(bits):
    _, artifact = made(dict.fromkeys(WEIGHTS, Int(bits=bits, per=16)))
    made_graphs = [linear_of(artifact, "nbits", activations=kind).onnx for kind in ("int8", "float32")]
    near, exact = (Session.of_onnx(graph).run(EXAMPLE.numpy()) for graph in made_graphs)
    assert 0 < np.linalg.norm(near - exact) < 0.02 * np.linalg.norm(exact)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5), st.integers(1, 70), st.integers(1, 8), st.sampled_from([3, 16, 32, 64, "channel", "tensor"]),
    st.sampled_from(["symmetric", "affine"]), st.sampled_from([0, 128]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_packed_weights_are_the_decoded_ones(rows, cols, bits, per, scheme, whole, seed):
    weight = np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)
    encoded = Int(bits=bits, per=per, scheme=scheme).encode(weight)
    made, decoded = packed(encoded, whole), encoded.decode()
    share = 8 // made.bits
    assert made.codes.dtype == np.uint8 and made.codes.shape[:2] == made.scale.shape
    for row in range(rows):
        for col in range(cols):
            block, place = divmod(col, made.block)
            byte = int(made.codes[row, block, place // share])
            code = byte >> made.bits * (place % share) & (1 << made.bits) - 1
            zero = 1 << made.bits - 1 if made.zero is None else int(made.zero[row, block])
            assert np.float32(code - zero) * made.scale[row, block] == decoded[row, col]


def test_a_step_for_each_block_of_a_stacked_weight():
    weight = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32) * np.float32(
        [[1], [1], [5], [5], [9], [9]]
    )
    encoded = Int(bits=4, per="tensor").encode(weight, view=View((6, 20), groups=3))
    found = packed(encoded)
    steps = np.stack([found.codes & 15, found.codes >> 4], -1).reshape(6, -1)[:, :20].astype(np.float32) - 8
    np.testing.assert_array_equal(steps * found.scale, encoded.decode())


def test_what_does_not_fit_stays_float_and_is_named():
    formats = {
        "first.weight": Int(bits=4, per=24),
        "second.weight": Int(bits=9),
        "head.weight": Int(bits=4, per=32),
    }
    _, artifact = made(formats)
    nbits = linear_of(artifact, "nbits")
    assert sorted(nbits.floats.values()) == [
        "it is a convolution",
        "its groups of 24 are no power of two of 16 or more",
        "its weight has 9 bits, more than 8",
    ]
    Session.of_onnx(nbits.onnx).run(EXAMPLE.numpy())
    with pytest.raises(UnsupportedError, match="a step for each group, not for each channel"):
        linear_of(artifact, "dynamic")


def test_a_network_without_such_a_layer_is_refused():
    _, artifact = made({"conv.weight": Int(bits=4)})
    with pytest.raises(UnsupportedError, match="no linear layer"):
        linear_of(artifact, "nbits")


def test_products_that_stay_float_are_named():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.stored = nn.Linear(16, 16), nn.Parameter(torch.randn(16, 16))

        def forward(self, x):
            y = torch.relu(self.first(x)) @ self.stored
            return y @ y.transpose(-1, -2)

    from featherweight.techniques import Context, Encode

    model = Encode(format=Int(bits=8)).apply(Model.of(Products()), None, Context())
    made = linear_of(loads(dumps(pack(model, export(model.module, torch.randn(2, 3, 16))))), "dynamic")
    assert sorted(made.floats.values()) == [
        "it multiplies two activations",
        "its weight is stored as [in, out]",
    ]
