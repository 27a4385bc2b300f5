"""Embeddings stay integers in exported graphs, tied ones too, and are the decoded rows bit for bit."""

from functools import cache

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn

from featherweight.activations import Affine
from featherweight.artifact import dumps, loads
from featherweight.evaluation.parity import layer_parity
from featherweight.export import build_linear, build_qdq, linear_of, onnx_of, qdq_of, serialized
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime import Session
from featherweight.techniques import Context, Encode

WORDS = torch.arange(24).reshape(2, 12) * 7 % 500


class Words(nn.Module):
    """Words in, scores of words out, by one table or two."""

    def __init__(self, tied):
        super().__init__()
        self.table, self.scores = nn.Embedding(500, 64), nn.Linear(64, 500, bias=not tied)
        self.inner = nn.Linear(64, 64)
        if tied:
            self.scores.weight = self.table.weight

    def forward(self, words):
        rows = self.table(words)
        return self.scores(torch.relu(self.inner(rows))), rows


@cache
def exported(tied):
    torch.manual_seed(0)
    network = Words(tied)
    return Model.of(network), export(network, WORDS)


def made(format, *, tied=True, quantized=True):
    start, graph = exported(tied)
    model = Encode(format=format).apply(start, None, Context())
    quantizers = {"embedding": Affine.of(-4, 4), "relu": Affine.of(0, 3)} if quantized else {}
    return model.with_activations(quantizers), graph


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "format",
    [
        Int(bits=8), Int(bits=8, per="tensor"), Int(bits=8, per=16), Int(bits=8, scheme="affine"), Int(bits=4, per=16),
        Int(bits=4, per=24), Int(bits=3), Int(bits=4, per=16, scheme="affine"), Int(bits=2, per=32), Int(bits=1),
        Int(bits=4, per="tensor", scheme="affine"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("linear", ["dynamic", "nbits"])
def test_rows_are_the_decoded_ones(format, linear, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model, graph = made(format, quantized=False)
    weights = {
        **model.weights,
        "inner.weight": Int(bits=4 if linear == "nbits" else 8).encode(
            model.tensors["inner.weight"].detach().numpy()
        ),
    }
    built = build_linear(graph, arrays(model.module), weights, linear).onnx
    (gather,) = [node for node in built.graph.node if node.op_type == "Gather" and "rows" in node.input[0]]
    stored = {tensor.name: tensor for tensor in built.graph.initializer}
    assert stored[gather.input[0]].data_type in (TensorProto.INT8, TensorProto.UINT8)
    if runtime == "openvino" and linear == "nbits":
        return
    _, rows = Session.of_onnx(built, [0, 1], runtime=runtime, exact=False).run(WORDS.numpy())
    np.testing.assert_array_equal(rows, model.module(WORDS)[1].detach().numpy())


@pytest.mark.parametrize("linear", ["dynamic", "nbits"])
@pytest.mark.parametrize("format", [Int(bits=8), Int(bits=4, per="channel"), Int(bits=4, per=32)], ids=str)
def test_a_tied_table_is_stored_once(format, linear):
    if linear == "dynamic" and isinstance(format.per, int):
        pytest.skip("MatMulInteger has no steps of groups")
    model, graph = made(format, quantized=False)
    built = build_linear(graph, arrays(model.module), model.weights, linear, activations="float32").onnx
    large = [tensor for tensor in built.graph.initializer if len(tensor.raw_data) >= 500 * 64 // 2]
    assert len(large) == 1
    scores, rows = Session.of_onnx(built, [0, 1]).run(WORDS.numpy())
    expected = model.module(WORDS)
    np.testing.assert_array_equal(rows, expected[1].detach().numpy())
    close = 2e-5 if linear == "nbits" else 0.03
    np.testing.assert_allclose(
        scores, expected[0].detach(), atol=close * float(expected[0].detach().abs().max())
    )


@pytest.mark.parametrize(("bits", "share"), [(2, 4), (4, 2), (8, 1)])
def test_tables_of_few_bits_stay_packed(bits, share):
    model, graph = made(Int(bits=bits), tied=False, quantized=False)
    inner = Int(bits=8).encode(model.tensors["inner.weight"].detach().numpy())
    tensors, weights = arrays(model.module), {**model.weights, "inner.weight": inner}
    for built in (build_linear(graph, tensors, weights, "dynamic"), build_qdq(graph, tensors, weights, {})):
        sizes = {tensor.name: len(tensor.raw_data) for tensor in built.onnx.graph.initializer}
        assert sizes["table.weight/rows"] == 500 * 64 // share


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("tied", [True, False])
def test_integer_files_of_tables_are_small_and_right(tied, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model, graph = made(Int(bits=7), tied=tied)  # products of 7 bits saturate nowhere
    artifact = loads(dumps(pack(model, graph)))
    floats = len(serialized(onnx_of(artifact)))
    assert len(serialized(qdq_of(artifact).onnx)) < 0.32 * floats
    assert len(serialized(linear_of(artifact, "dynamic").onnx)) < 0.32 * floats
    found = layer_parity(model, graph, WORDS, runtime)
    assert {layer.edge for layer in found} >= {"embedding", "relu"} and all(layer.right for layer in found)


def test_tables_that_cannot_be_gathered_stay_float():
    model, graph = made(Int(bits=9, scheme="affine"))
    built = build_qdq(graph, arrays(model.module), model.weights, model.activations)
    assert not [
        node for node in built.onnx.graph.node if node.op_type == "Gather" and "rows" in node.input[0]
    ]
    assert set(built.floats.values()) == {"its weight has 9 bits, more than 8"}
