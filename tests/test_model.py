"""The model as a value: law 1, sharing, ties, structure, thawing."""

import hashlib
import re
import threading

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.capture.execution import Execution
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats import Int
from featherweight.model import Model, digest_of, equal_bits, flat_bytes, to_bytes
from featherweight.structure import LayerSpec, restructure


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("shift", torch.arange(3))

    def forward(self, x):
        return self.head(self.embedding(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model.of(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)))


def test_encoded_tensors_equal_their_decoded_bytes_and_the_input_is_untouched(model):
    before = {name: tensor.clone() for name, tensor in model.tensors.items()}
    weight = model.tensors["0.weight"]
    encoded = Int(bits=4).encode(weight.detach().numpy())
    after = model.with_encoded({"0.weight": encoded})
    assert np.array_equal(after.tensors["0.weight"].detach().numpy(), encoded.decode())
    assert all(equal_bits(model.tensors[name], value) for name, value in before.items())
    assert after.tensors["3.weight"] is model.tensors["3.weight"], "untouched tensors are shared"
    assert isinstance(after.module[0].weight, nn.Parameter)


def test_a_changed_tensor_loses_its_encoding_and_says_so(model):
    encoded = model.with_encoded({"0.weight": Int(bits=4).encode(model.tensors["0.weight"].detach().numpy())})
    same = encoded.with_tensors({"0.weight": encoded.tensors["0.weight"].clone()})
    assert "0.weight" in same.weights
    thawed = encoded.with_tensors({"0.weight": torch.zeros(4, 5)})
    assert "0.weight" not in thawed.weights
    assert [note.kind for note in thawed.notes] == ["thawed"]


def test_tied_tensors_stay_tied():
    model = Model.of(Tied())
    assert model.aliases == {"head.weight": "embedding.weight"}
    after = model.with_tensors({"embedding.weight": torch.ones(11, 6)})
    assert after.module.head.weight is after.module.embedding.weight
    assert torch.equal(after.module.head.weight, torch.ones(11, 6))
    assert after.module.shift.dtype == torch.int64


def test_overlapping_memory_is_refused():
    class Overlapping(nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.randn(6, 4)
            self.a = nn.Parameter(base[:4])
            self.b = nn.Parameter(base[2:])

    with pytest.raises(UnsupportedError, match="shares memory with b"):
        Model.of(Overlapping())


def test_structure_is_data_and_rebuilds_the_network(model):
    spec = {
        "1": LayerSpec("Identity"),
        "0": LayerSpec("Linear", {"in_features": 5, "out_features": 4, "bias": True}),
    }
    values = {"0.weight": torch.ones(4, 5), "0.bias": torch.zeros(4)}
    after = model.with_structure(spec, values)
    assert isinstance(after.module[1], nn.Identity)
    assert isinstance(model.module[1], nn.BatchNorm1d)
    assert list(after.tensors) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    again = restructure(
        nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), after.structure
    )
    assert list(again.state_dict()) == list(after.module.state_dict())


@pytest.mark.parametrize("kind", ["Module", "LSTMCell", "os.system", "__init__"])
def test_only_stock_layers_are_built(kind):
    with pytest.raises(IntegrityError, match="not a stock layer"):
        LayerSpec(kind).build()


def test_hash_sees_values_structure_and_encoding(model):
    weight = model.tensors["0.weight"].detach().numpy()
    encoded = Int(bits=4).encode(weight)
    hashes = {
        model.hash,
        model.with_tensors({"0.weight": model.tensors["0.weight"] + 1}).hash,
        model.with_encoded({"0.weight": encoded}).hash,
        model.with_tensors({"0.weight": torch.from_numpy(encoded.decode())}).hash,
        model.with_structure({"2": LayerSpec("Identity")}, {}).hash,
    }
    assert len(hashes) == 5
    assert Model.of(model.module).hash == model.hash


def test_lstm_weights_can_be_replaced():
    torch.manual_seed(0)
    model = Model.of(nn.LSTM(4, 5, batch_first=True))
    x = torch.randn(2, 3, 4)
    before = model.module(x)[0]
    after = model.with_tensors({"weight_ih_l0": torch.zeros(20, 4)})
    assert torch.equal(model.module(x)[0], before)
    assert not torch.allclose(after.module(x)[0], before)


class Holding(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("inner", "message"), [
    (nn.LazyLinear(3), "1.0.weight: has no shape yet"),
    (Holding(), "1.0: cannot be copied: cannot pickle '_thread.lock' object: got Holding"),
    (nn.utils.weight_norm(nn.Linear(2, 3)), "1.0: cannot be copied: Only Tensors created explicitly"),
    (torch.jit.script(nn.Linear(2, 3)), "1.0: a TorchScript module"),
])  # fmt: skip
def test_names_what_cannot_be_read_or_copied(inner, message):
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}.*\nhint: "):
        Model.of(nn.Sequential(nn.Linear(2, 2), nn.Sequential(inner)))


def test_names_the_network_itself():
    with pytest.raises(UnsupportedError, match=r"^the network: a TorchScript module"):
        Model.of(torch.jit.script(nn.Linear(2, 3)))


def test_models_of_one_structure_share_a_trace_and_not_its_tensors(model):
    x = torch.randn(2, 5)
    changed = model.with_tensors({"3.bias": torch.ones(3)})
    first, second = model.program(x), changed.program(x)
    assert first.exported is second.exported
    for program, network in ((first, model), (second, changed)):
        (expected,) = program.run({"input": x})
        assert torch.equal(expected, network.module(x).detach())
        (made,) = Execution(program, lambda edge, value: value)({"input": x})
        torch.testing.assert_close(made, expected)
    assert changed.program(torch.randn(4, 5)).exported is not first.exported
    folded = model.with_structure({"1": LayerSpec("Identity")}, {})
    assert folded.program(x).exported is not first.exported


def test_how_memory_is_strided_decides_nothing():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(6, 4))

    plain, strided = Model.of(network()), network().to(memory_format=torch.channels_last)
    strided[2].weight = nn.Parameter(strided[2].weight.detach().T.contiguous().T, requires_grad=False)
    found = Model.of(strided)
    assert found.hash == plain.hash
    assert {name: t.stride() for name, t in found.tensors.items()} == {
        name: t.stride() for name, t in plain.tensors.items()
    }
    assert not found.tensors["2.weight"].requires_grad
    changed = found.with_tensors({"0.weight": torch.ones(8, 3, 3, 3).to(memory_format=torch.channels_last)})
    assert changed.tensors["0.weight"].stride() == plain.tensors["0.weight"].stride()
    assert not strided[2].weight.is_contiguous()


def test_digests_are_of_the_bytes_and_follow_what_is_written():
    for tensor in (
        torch.randn(3, 4),
        torch.randn(4, 3).T,
        torch.zeros(0),
        torch.tensor(1.5),
        torch.arange(5),
    ):
        expected = hashlib.sha256(to_bytes(tensor)).digest()
        assert digest_of(tensor) == digest_of(tensor) == digest_of(tensor.clone()) == expected
    tensor = torch.zeros(4)
    before = digest_of(tensor)
    tensor[2] = 1.0
    assert digest_of(tensor) != before


def test_models_that_share_tensors_hash_each_once(monkeypatch):
    model = Model.of(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    first, read = model.hash, []
    monkeypatch.setattr("featherweight.model.flat_bytes", lambda t, own=flat_bytes: read.append(t) or own(t))
    after = model.with_encoded({"0.weight": Int(bits=8).encode(model.tensors["0.weight"].detach().numpy())})
    read.clear()
    assert after.hash != first
    assert not read  # its symbols were
    other = model.with_tensors({"0.weight": torch.ones(8, 8)})
    read.clear()
    assert other.hash not in (first, after.hash)
    assert read == [other.tensors["0.weight"]]
