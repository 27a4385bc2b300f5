"""Baselines: what a task starts from where there is one, unless an untrained network is asked for."""

import pytest
import torch
from torch import nn

from featherweight.artifact import dumps
from featherweight.data.fetch import sha256
from featherweight.errors import IntegrityError, TaskError
from featherweight.formats import Float
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.task import Restricted
from featherweight.task.training import Training
from featherweight.techniques import Context, Encode
from featherweight.zoo import baselines
from featherweight.zoo.tasks import TASKS

TRAINING = Training(epochs=3)
CHECKOUT = baselines.CHECKOUT


def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a checkout, and a cache folder beside it, both empty."""
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(baselines, "CHECKOUT", tmp_path)
    return tmp_path


def known(monkeypatch, path):
    monkeypatch.setitem(baselines.BASELINES, path.stem, sha256(path))


def test_each_file_of_the_repository_is_the_one_that_is_known():
    assert {path.stem: sha256(path) for path in CHECKOUT.glob("*.fw")} == baselines.BASELINES
    assert baselines.BASELINES.keys() <= TASKS.keys()


def test_a_task_without_a_baseline(folder):
    assert baselines.start("net-data", build, TRAINING, trained=True) == (build, TRAINING)


@pytest.mark.parametrize("place", ["", "cache/baselines"])
def test_a_file_in_float16(folder, monkeypatch, place):
    module = build()
    with torch.no_grad():
        module[0].weight.fill_(1 / 3)
        module[1].running_var.fill_(7)
    step = Encode(where="*", format=Float("float16"))
    model = step.apply(Model.of(module), Restricted(None, "none"), Context())
    file = folder / place / "net-data.fw"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(dumps(pack(model, None)))
    known(monkeypatch, file)
    made, training = baselines.start("net-data", build, TRAINING, trained=True)
    loaded = made()
    assert training is None and not loaded.training
    assert torch.equal(loaded[0].weight, torch.full_like(module[0].weight, 1 / 3).half().float())
    assert loaded[1].running_var.tolist() == [7.0] * 4
    assert baselines.start("net-data", build, TRAINING, trained=False) == (build, TRAINING)


def test_of_another_network(folder, monkeypatch):
    (folder / "net-data.fw").write_bytes(dumps(pack(Model.of(nn.Linear(2, 2)), None)))
    known(monkeypatch, folder / "net-data.fw")
    made, _ = baselines.start("net-data", build, TRAINING, trained=True)
    with pytest.raises(IntegrityError, match="not the weights of this network"):
        made()


def test_without_the_file_the_error_says_what_to_copy_where(folder):
    with pytest.raises(
        TaskError, match=r"copy baselines/vgg16-cifar10\.fw .* into .*cache/baselines.*--untrained"
    ):
        baselines.start("vgg16-cifar10", build, TRAINING, trained=True)


def test_another_file_is_not_taken_for_it(folder):
    (folder / "vgg16-cifar10.fw").write_bytes(b"something")
    with pytest.raises(TaskError, match="another file"):
        baselines.start("vgg16-cifar10", build, TRAINING, trained=True)
