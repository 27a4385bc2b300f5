"""Weights in `Basis` where a network computes in integers: a geometric basis does, others stay float and are named."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.activations import BinaryCoded
from featherweight.artifact import dumps, loads
from featherweight.deploy.write import graph_for
from featherweight.errors import UnsupportedError
from featherweight.evaluation.parity import layer_parity
from featherweight.export import build_qdq, onnx_of, qdq_of, weights_of
from featherweight.export.c import c_of
from featherweight.export.check import arrays
from featherweight.export.linear import linear_of
from featherweight.export.onnx import export
from featherweight.formats import Basis, Int
from featherweight.formats.basis import as_integers, is_geometric
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime.backend import onnx_backend
from featherweight.simulation import simulate
from featherweight.task.tasks import Agreement
from featherweight.techniques import Calibrate, Context, Fold

X = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0)).abs()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, groups=2), nn.BatchNorm2d(16)
        self.fc = nn.Linear(256, 5)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(torch.relu(self.norm2(self.conv2(x))).flatten(1))


def geometric(format, weight, view):
    """A weight on a geometric basis, as DoReFa leaves it."""
    first = np.abs(view.matrix(weight)).mean() / 2 ** (format.bits - 1)
    layout = format.parts(view)["basis"]
    steps = np.float32(first) * np.float32(2.0 ** np.arange(format.bits))
    return format.encode(weight, view=view, parts={"basis": np.broadcast_to(steps, layout.shape).copy()})


def fitted(format, weight, view):
    return format.encode(weight, view=view)


def model(format, made):
    torch.manual_seed(0)
    network = Net()
    with torch.no_grad():
        network.train()(X)
        network.norm1.weight.copy_(torch.linspace(-2, 1, 16))
        network.norm2.weight[3] = 0
    start = Model.of(network.eval())
    names = [name for name, tensor in start.tensors.items() if tensor.dim() > 1]
    encoded = {n: made(format, start.tensors[n].detach().numpy(), start.views[n]) for n in names}
    return start.with_encoded(encoded)


def calibrated(given):
    return Calibrate(samples=48).apply(given, Agreement(given.module, train=X, test=X), Context(seed=0))


@pytest.mark.parametrize("per", ["tensor", "channel", 6])
@pytest.mark.parametrize("made", [geometric, fitted])
@pytest.mark.parametrize("bits", [1, 2, 7])
def test_fold_multiplies_bases_and_keeps_signs(bits, made, per):
    before = model(Basis(bits=bits, per=per), made)
    task = Agreement(before.module, train=X, test=X)
    after = Fold().apply(before, task, Context())
    assert not [note for note in after.notes if note.kind in ("skipped", "thawed")]
    gamma = before.tensors["norm1.weight"].detach().numpy() < 0
    one, other = before.weights["conv1.weight"], after.weights["conv1.weight"]
    assert other.format == Basis(bits=bits, per="channel" if per == "tensor" else per)
    flipped = np.where(gamma[:, None], 2**bits - 1 - one.symbols.reshape(16, -1), one.symbols.reshape(16, -1))
    assert np.array_equal(flipped, other.symbols.reshape(16, -1))
    assert made is fitted or all(map(is_geometric, after.weights.values()))
    with torch.no_grad():
        torch.testing.assert_close(after.module(X), before.module(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "per"), [(1, "channel"), (2, "tensor"), (4, "channel"), (7, "tensor")])
def test_a_geometric_basis_computes_in_integers(bits, per):
    given = model(Basis(bits=bits, per=per), geometric)
    made = calibrated(Fold().apply(given, Agreement(given.module, train=X, test=X), Context()))
    graph = export(made.module, X[:2])
    qdq = build_qdq(graph, arrays(made.module), made.weights, made.activations)
    assert not qdq.floats and len(qdq.plan.layers) == 3
    for layer in qdq.plan.layers.values():
        assert np.abs(layer.weight.astype(int)).max() < 2**bits and (layer.weight % 2 == 1).all()
    found = layer_parity(made, graph, X, "onnxruntime")
    assert len(found) >= 3 and all(layer.right for layer in found), found
    artifact = loads(dumps(pack(made, graph)))
    simulated = simulate(made, X[:2])(X).numpy()
    assert np.abs(artifact.session().run(X.numpy()) - simulated).max() <= 0.02 * np.ptp(simulated)
    same = made.with_encoded({name: as_integers(entry) for name, entry in made.weights.items()})
    assert np.array_equal(simulate(same, X[:2])(X).numpy(), simulated)
    assert {entry.format.bits for entry in same.weights.values()} == {bits + 1}


def test_a_basis_that_is_not_geometric_stays_float_and_says_what_it_needs():
    made = calibrated(model(Basis(bits=2), fitted))
    graph = export(made.module, X[:2])
    qdq = build_qdq(graph, arrays(made.module), made.weights, made.activations)
    assert not qdq.plan.layers and len(qdq.floats) == 3
    assert all("2 binary products for each bit" in reason for reason in qdq.floats.values())
    found = layer_parity(made, graph, X, "onnxruntime")
    assert all(layer.right for layer in found)
    wide = calibrated(model(Basis(bits=8), geometric))
    qdq = build_qdq(graph, arrays(wide.module), wide.weights, wide.activations)
    assert all("9 bits" in reason for reason in qdq.floats.values())


@pytest.mark.parametrize("made", [geometric, fitted])
def test_exports_of_weights(made):
    artifact = loads(dumps(pack(model(Basis(bits=3), made), export(Net().eval(), X[:2]))))
    stored, floats = weights_of(artifact)
    whole = onnx_of(artifact)
    if made is geometric:
        assert not [name for name in floats if name.endswith("weight")]
        assert stored.ByteSize() < 0.6 * whole.ByteSize()
        assert set(linear_of(artifact, "nbits").floats) == {"conv1", "conv2"}
    else:
        assert set(floats) >= {"conv1.weight", "fc.weight"}
    feeds = {whole.graph.input[0].name: X.numpy()}
    ours, theirs = (onnx_backend("onnxruntime").compute(m, threads=1)(feeds)[0] for m in (stored, whole))
    assert np.array_equal(ours, theirs)


def test_integers_of_the_same_numbers_weigh_the_same_file():
    basis = model(Basis(bits=3, per="tensor"), geometric)
    integers = basis.with_encoded({name: as_integers(entry) for name, entry in basis.weights.items()})
    assert all(isinstance(entry.format, Int) for entry in integers.weights.values())
    assert all(torch.equal(basis.tensors[name], integers.tensors[name]) for name in basis.weights)
    assert sum(e.nbytes for e in basis.weights.values()) < sum(e.nbytes for e in integers.weights.values())


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_levels_that_are_not_even_are_rounded_to_by_a_runtime(bits):
    made = calibrated(model(Basis(bits=2), fitted))
    generator = np.random.default_rng(bits)
    basis = tuple(float(v) for v in np.float32(generator.lognormal(-1.5, 0.7, bits)))
    made = made.with_activations(dict.fromkeys(made.activations, BinaryCoded(basis)))
    graph = export(made.module, X[:2])
    found = layer_parity(made, graph, X, "onnxruntime")
    assert len(found) >= 3 and all(layer.right for layer in found), found
    artifact = loads(dumps(pack(made, graph)))
    assert artifact.activations == made.activations
    qdq = qdq_of(artifact)
    assert not qdq.plan.layers
    assert all(
        f"{bits} binary products for each bit of its weight" in reason for reason in qdq.floats.values()
    )
    with pytest.raises(UnsupportedError, match=f"does not round activations to sums of {bits} numbers"):
        artifact.session(runtime="openvino")
    with pytest.raises(UnsupportedError, match="levels of no one step"):
        graph_for(artifact, "int8")
    with pytest.raises(UnsupportedError, match="levels of no one step"):
        graph_for(artifact, "16x8")
    with pytest.raises(UnsupportedError, match="no 8-bit integers"):
        c_of(artifact)
