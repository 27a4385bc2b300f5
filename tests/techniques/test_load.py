"""Loading weights: what was written comes back, in both kinds of file, and everything else is refused."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import Tiny
from torch import nn

from featherweight.artifact import dumps
from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Load


def apply(step, model=None):
    task = Tiny()
    return step.apply(model or Model.of(task.model()), Restricted(task, step.needs), Context())


def other_weights():
    """The tiny network with other weights, batch norm statistics included."""
    module = Tiny().model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return Model.of(module)


def step_of(path):
    return Load(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def saved(tensors, path):
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    return step_of(path)


def equal(a, b):
    return all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_safetensors_come_back(tmp_path):
    meant = other_weights()
    assert equal(apply(saved(meant.tensors, tmp_path / "a.safetensors")), meant)


def test_counters_may_be_missing(tmp_path):
    meant = other_weights()
    floats = {name: tensor for name, tensor in meant.tensors.items() if tensor.is_floating_point()}
    assert len(floats) < len(meant.tensors)
    assert equal(apply(saved(floats, tmp_path / "a.safetensors")), meant)


def test_types_are_converted(tmp_path):
    meant = other_weights()
    halves = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in meant.tensors.items()
    }
    loaded = apply(saved(halves, tmp_path / "a.safetensors"))
    assert all(torch.equal(loaded.tensors[name].bfloat16(), halves[name].bfloat16()) for name in halves)
    assert loaded.tensors["0.weight"].dtype == torch.float32


def tied():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    network[1].weight = network[0].weight
    return network


@pytest.mark.parametrize("names", [["0.weight"], ["1.weight"], ["0.weight", "1.weight"]])
def test_tied_tensors_by_any_of_their_names(tmp_path, names):
    meant, model = tied(), Model.of(tied())
    own = {f"2.{key}": getattr(meant[2], key).detach() for key in ("weight", "bias")}
    step = saved(
        {**own, **{name: meant[0].weight.detach().clone() for name in names}}, tmp_path / "a.safetensors"
    )
    loaded = apply(step, model)
    assert loaded.module[0].weight is loaded.module[1].weight
    assert torch.equal(loaded.module[0].weight, meant[0].weight)


def test_tied_tensors_that_differ_are_refused(tmp_path):
    tensors = {name: tensor.detach().clone() for name, tensor in tied().state_dict().items()}
    tensors["1.weight"] += 1
    with pytest.raises(IntegrityError, match="ties"):
        apply(saved(tensors, tmp_path / "a.safetensors"), Model.of(tied()))


def test_our_own_file_comes_back_decoded(tmp_path):
    meant = apply(Encode(format=Int(bits=4)), other_weights())
    path = tmp_path / "a.fw"
    path.write_bytes(dumps(pack(meant, None)))
    loaded = apply(step_of(path))
    assert equal(loaded, meant) and not loaded.weights


def test_encoded_tensors_are_thawed(tmp_path):
    meant = other_weights()
    encoded = apply(Encode(), Model.of(Tiny().model()))
    loaded = apply(saved(meant.tensors, tmp_path / "a.safetensors"), encoded)
    assert equal(loaded, meant) and not loaded.weights


def spoiled(name):
    """Weights that do not fit, each in its own way."""
    tensors = dict(other_weights().tensors)
    if name == "missing":
        del tensors["0.weight"]
    elif name == "extra":
        tensors["more"] = torch.zeros(1)
    elif name == "integers":
        tensors["0.weight"] = (100 * tensors["0.weight"]).to(torch.int8)
    elif name == "shape":
        tensors["0.weight"] = torch.zeros(1, 1, 3, 3)
    else:
        tensors["0.weight"] = torch.full_like(tensors["0.weight"], np.nan)
    return tensors


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "0.weight"), ("extra", "more"), ("shape", "shape"), ("integers", "int8"), ("nan", "NaN")],
)
def test_other_weights_are_refused(tmp_path, name, message):
    with pytest.raises(IntegrityError, match=message):
        apply(saved(spoiled(name), tmp_path / "a.safetensors"))


def test_another_file_is_refused(tmp_path):
    step = saved(other_weights().tensors, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"something else")
    with pytest.raises(IntegrityError, match="SHA-256"):
        apply(step)


@pytest.mark.parametrize("name", ["a.safetensors", "a.fw"])
@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_garbage_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        apply(step_of(path))


def test_no_file_and_no_hash(tmp_path):
    with pytest.raises(IntegrityError, match="No such file"):
        apply(Load(file=str(tmp_path / "none.fw"), sha256="0" * 64))
    with pytest.raises(ConfigError, match="sha256"):
        Load(file="a.fw", sha256="abc")
