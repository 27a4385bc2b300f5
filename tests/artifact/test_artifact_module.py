"""A file into a module: equal tensors, kept ties, and one clear error for another network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.artifact import Contents, Raw, dumps, loads
from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats import Float, Int
from featherweight.structure import LayerSpec


class Net(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.arange(3.0), persistent=False)

    def forward(self, tokens):
        return self.head(self.norm(self.lstm(self.embed(tokens))[0][:, -1]))


def contents(net, structure=None, change=()):
    seen, tensors, aliases = {}, {}, {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            aliases[name] = seen[id(tensor)]
            continue
        seen[id(tensor)] = name
        array = tensor.detach().numpy()
        tensors[name] = Int(bits=4).encode(array) if array.ndim == 2 else Raw.of(array)
    return Contents(tensors | dict(change), aliases, structure or {})


def test_tensors_equal_the_decoded_bytes():
    net = Net().train()
    before = copy.deepcopy(net.state_dict())
    artifact = loads(dumps(contents(net)))
    filled = artifact.into(net)
    weights = artifact.weights()
    assert not filled.training
    assert set(filled.state_dict()) == set(weights)
    for name, tensor in filled.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), weights[name], strict=True)
    assert filled.head.weight is filled.embed.weight
    assert isinstance(filled.head.weight, nn.Parameter)
    assert filled.scratch is not net.scratch
    tokens = torch.randint(7, (2, 5))
    reference = Net()
    reference.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
    torch.testing.assert_close(filled(tokens), reference.eval()(tokens), rtol=0, atol=0)
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), "the module given is left as it was"


def test_structure_of_the_file_is_built():
    layer = LayerSpec("Sequential"), LayerSpec("Linear", {"in_features": 4, "out_features": 2, "bias": False})
    last = LayerSpec("Linear", {"in_features": 2, "out_features": 7, "bias": True})
    structure = {"head": layer[0], "head.0": layer[1], "head.1": last}
    net = Net(tied=False)
    small = copy.deepcopy(net)
    small.head = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 7))
    filled = loads(dumps(contents(small, structure))).into(net)
    tokens = torch.randint(7, (2, 5))
    assert filled(tokens).shape == (2, 7)
    assert not any(tensor.is_meta for tensor in filled.state_dict().values())
    assert isinstance(net.head, nn.Linear)


def test_types_of_the_module():
    net = nn.Linear(3, 2).to(torch.bfloat16)
    raw = Raw("bf16", (2,), b"\x80\x3f\x00\xc0")
    artifact = loads(
        dumps(Contents({"weight": Float("bfloat16").encode(np.float32(np.eye(2, 3))), "bias": raw}))
    )
    filled = artifact.into(net)
    assert filled.weight.dtype == filled.bias.dtype == torch.bfloat16
    assert filled.bias.tolist() == [1.0, -2.0]
    assert torch.equal(filled.weight.float(), torch.eye(2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(4, 7), "the network lacks tensors of the file: got embed.weight"),
        (lambda: nn.Sequential(Net()), "the network lacks tensors of the file"),
        (lambda: Net(tied=False), r"head\.weight: tied to embed\.weight in the file, not in the network"),
        (
            lambda: Net().double(),
            r"lstm.bias_ih_l0: type: got torch.float64 in the network, expected torch.float32",
        ),
    ],
)
def test_another_network_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        loads(dumps(contents(Net()))).into(make())


def test_other_tensors_are_refused():
    net = Net()
    more = copy.deepcopy(net)
    more.register_buffer("more", torch.zeros(1))
    with pytest.raises(ConfigError, match="the file lacks tensors of the network: got more"):
        loads(dumps(contents(net))).into(more)
    wider = Int(bits=4).encode(np.ones((7, 5), np.float32))
    with pytest.raises(
        ConfigError, match=r"embed\.weight: shape: got \(7, 4\) in the network, expected \(7, 5\)"
    ):
        loads(dumps(contents(net, change={"embed.weight": wider}))).into(net)
    floats = Int(bits=4).encode(np.ones(2, np.float32))
    with pytest.raises(
        ConfigError, match=r"mask: type: got torch\.bool in the network, expected floating point"
    ):
        loads(dumps(contents(net, change={"mask": floats}))).into(net)
    with pytest.raises(ConfigError, match=r"tied to embed\.weight in the network, not in the file"):
        loads(dumps(contents(Net(tied=False)))).into(net)


@pytest.mark.parametrize(
    "layer",
    [
        LayerSpec("Linear", {"in_features": 2**40, "out_features": 2**20}),
        LayerSpec("Linear", {"in_features": 2**62, "out_features": 2**62}),
        LayerSpec("Linear", {"in_features": -4, "out_features": 7}),
        LayerSpec("Linear", {"hidden": 4}),
        LayerSpec("GroupNorm", {"num_groups": 0, "num_channels": 4}),
        LayerSpec("Embedding", {"num_embeddings": 4, "embedding_dim": 4, "padding_idx": 9}),
        LayerSpec("Conv2d", {"in_channels": 4, "out_channels": 2**31, "kernel_size": [2**15, 2**15]}),
    ],
)
def test_layers_that_cannot_be_are_refused_without_memory(layer):
    net = Net(tied=False)
    with pytest.raises((IntegrityError, ConfigError)):
        loads(dumps(contents(net, {"head": layer}))).into(net)


def test_a_layer_in_no_module_is_refused():
    net = Net()
    for path in ("nowhere.0", "head.weight.0"):
        with pytest.raises(IntegrityError, match=r"structure: .*the network has no such module"):
            loads(dumps(contents(net, {path: LayerSpec("Identity")}))).into(net)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_empty_tensors(shape, dtype):
    net = nn.Module()
    net.register_buffer("none", torch.zeros(shape, dtype=dtype))
    filled = loads(dumps(Contents({"none": Raw.of(net.none.numpy())}))).into(net)
    assert filled.none.shape == shape and filled.none.dtype == dtype
