"""Baselines: a file beside the zoo is what a task starts from, unless an untrained one is asked for."""

import pytest
import torch
from torch import nn

from featherweight.artifact import dumps
from featherweight.errors import IntegrityError
from featherweight.formats import Float
from featherweight.model import Model
from featherweight.recipe.packing import pack
from featherweight.task import Restricted
from featherweight.task.training import Training
from featherweight.techniques import Context, Encode
from featherweight.zoo import baselines

TRAINING = Training(epochs=3)


def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "FOLDER", tmp_path)
    return tmp_path


def test_no_file(folder):
    assert baselines.start("net-data", build, TRAINING, trained=True) == (build, TRAINING)


def test_a_file_in_float16(folder):
    module = build()
    with torch.no_grad():
        module[0].weight.fill_(1 / 3)
        module[1].running_var.fill_(7)
    step = Encode(where="*", format=Float("float16"))
    model = step.apply(Model.of(module), Restricted(None, "none"), Context())
    (folder / "net-data.fw").write_bytes(dumps(pack(model, None)))
    made, training = baselines.start("net-data", build, TRAINING, trained=True)
    loaded = made()
    assert training is None and not loaded.training
    assert torch.equal(loaded[0].weight, torch.full_like(module[0].weight, 1 / 3).half().float())
    assert loaded[1].running_var.tolist() == [7.0] * 4
    assert baselines.start("net-data", build, TRAINING, trained=False) == (build, TRAINING)


def test_of_another_network(folder):
    (folder / "net-data.fw").write_bytes(dumps(pack(Model.of(nn.Linear(2, 2)), None)))
    made, _ = baselines.start("net-data", build, TRAINING, trained=True)
    with pytest.raises(IntegrityError, match="not the weights of this network"):
        made()
