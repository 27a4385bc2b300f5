"""Ranges move from what linear layers read into their weights, and the network computes the same."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Agreement
from featherweight.activations import Affine
from featherweight.artifact import dumps, loads
from featherweight.export import build_linear, build_qdq
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack, unpack
from featherweight.runtime import Session
from featherweight.simulation import simulate
from featherweight.techniques import Calibrate, Context, Encode, Smooth

WIDTH, LARGE = 16, 3


class RMSNorm(nn.Module):
    """As Llama writes it: the gain is a product of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Block(nn.Module):
    """Attention without heads and a gated MLP, with norms before them or behind the sums."""

    def __init__(self, norm, before):
        super().__init__()
        self.first, self.second, self.before = norm(), norm(), before
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, 24, bias=False), nn.Linear(WIDTH, 24)
        self.down = nn.Linear(24, WIDTH)

    def attention(self, x):
        shares = torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2) / 4, -1)
        return self.out(shares @ self.v(x))

    def mlp(self, x):
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))

    def forward(self, x):
        if self.before:
            x = x + self.attention(self.first(x))
            return x + self.mlp(self.second(x))
        x = self.first(x + self.attention(x))
        return self.second(x + self.mlp(x))


def given(norm=lambda: nn.LayerNorm(WIDTH), before=True):
    """A network of two blocks with a channel that is far larger than the others, and its task."""
    torch.manual_seed(0)
    network = nn.Sequential(Block(norm, before), Block(norm, before)).eval()
    with torch.no_grad():
        for block in network:
            for layer in (block.first, block.second):
                layer.weight[LARGE] = 40.0
    x = torch.randn(64, 5, WIDTH)
    return network, Agreement(network, train=x[:48], test=x[48:], outputs="values"), x


@cache
def captured(norm, before):
    """What is given, and the model, which is captured once for every alpha."""
    network, task, x = given(norm, before)
    return network, task, x, Model.of(network)


@pytest.mark.parametrize("norm", [RMSNorm, lambda: nn.LayerNorm(WIDTH)], ids=["rms", "layer"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_network_computes_the_same(norm, before, alpha):
    network, task, x, start = captured(norm, before)
    model = Smooth(alpha=alpha).apply(start, task, Context())
    with torch.no_grad():
        expected, found = copy.deepcopy(network).double()(x.double()), model.module(x)
    assert float((found - expected).abs().max()) < 2e-5 * float(expected.abs().max())
    scaled = {path for path, layer in model.structure.items() if layer.kind == "ScaledLinear"}
    if before:  # the norms and the gate take all factors but those of what attention mixes
        assert not scaled
        assert not torch.equal(model.tensors["0.up.weight"], start.tensors["0.up.weight"])
    else:
        assert {"0.gate", "0.up", "1.q", "1.k", "1.v"} <= scaled


def test_factors_are_those_of_the_paper():
    network, task, x = given()
    model = Smooth(alpha=0.7, samples=48).apply(Model.of(network), task, Context())
    with torch.no_grad():
        most = network[0].first(x[:48]).abs().flatten(0, 1).amax(0)
        layers = torch.stack([getattr(network[0], name).weight.abs().amax(0) for name in "qkv"]).amax(0)
        seen = network[0].first.weight / model.tensors["0.first.weight"]
    factors = most**0.7 / layers**0.3
    # calibration sees other samples than these, so that factors are near, and in the same proportion where it counts
    assert float((seen / factors).log().abs().max()) < 0.3 and int(seen.argmax()) == LARGE


def errors(step, bits=8):
    network, task, x = given()
    model = Model.of(network)
    for one in (*step, Encode(format=Int(bits=bits)), Calibrate(samples=48)):
        model = one.apply(model, task, Context())
    with torch.no_grad():
        expected, found = network(x[48:]), simulate(model, task.example())(x[48:])
    usual = torch.arange(WIDTH) != LARGE  # the large channel would hide the others
    return float((found - expected)[..., usual].norm() / expected[..., usual].norm())


def test_8_bit_activations_lose_less():
    assert errors([Smooth()]) < 0.8 * errors([])


def test_a_file_of_scaled_layers_is_the_network_and_its_products_are_shared():
    _, task, x = given(before=False)
    start = Smooth(alpha=0.7).apply(Model.of(task.model()), task, Context())
    model = Encode(format=Int(bits=8)).apply(start, task, Context())
    graph = export(model.module, task.example())
    artifact = loads(dumps(pack(model, graph)))
    again = unpack(artifact, task)
    with torch.no_grad():
        assert torch.equal(again.module(x), model.module(x))
        expected = model.module(x).numpy()
    ran = artifact.session().run(x.numpy())
    assert abs(ran - expected).max() < 1e-4 * abs(expected).max()
    dynamic = build_linear(graph, arrays(model.module), model.weights, "dynamic").onnx
    quantized = [node for node in dynamic.graph.node if node.op_type == "DynamicQuantizeLinear"]
    assert len(quantized) == 8  # of 14 layers: query, key and value read one, gate and up another
    ran = Session.of_onnx(dynamic).run(x.numpy())
    assert np.linalg.norm(ran - expected) < 0.1 * np.linalg.norm(expected)


def test_products_with_quantizers_of_their_own_stay_apart():
    _, task, _ = given(before=False)
    model = Smooth(alpha=0.7).apply(Model.of(task.model()), task, Context())
    model = Encode(format=Int(bits=8)).apply(model, task, Context())
    model = Calibrate(samples=48).apply(model, task, Context())
    graph = export(model.module, task.example())
    own = arrays(model.module), model.weights
    alike = build_qdq(graph, *own, model.activations).onnx
    edge = next(
        node.name
        for node in model.program(task.example()).graph.nodes
        if node.op == "mul" and node.module == "1.k"
    )
    apart = build_qdq(graph, *own, {**model.activations, edge: Affine.of(-90, 90)}).onnx
    count = [sum(node.op_type == "QuantizeLinear" for node in made.graph.node) for made in (alike, apart)]
    assert count[1] == count[0] + 1


def test_what_reads_no_tokens_stays_and_is_named():
    network = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    x = torch.randn(20, 8)
    task = Agreement(network, train=x, test=x)
    start = Model.of(network)
    model = Smooth().apply(start, task, Context())
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in model.tensors.items())
    assert [note.name for note in model.notes] == ["smooth"]
