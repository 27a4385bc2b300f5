"""Agreement with the float network: what is compared, the task of its decisions, signal to noise layer by layer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from featherweight import Classification
from featherweight.formats import Astc
from featherweight.recipe import Recipe
from reproduce import effnet_astc
from reproduce.astc import sqnr
from reproduce.effnet_astc import (
    bits,
    check,
    layers,
    none_worse,
    settings,
    sheet,
)
from reproduce.settings import Outcome, Setting
from reproduce.tasks import agreement


@pytest.fixture(scope="module")
def small():
    """A convolution and a linear layer, inputs that hang together, labels that mean nothing."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(240, 3, 3, 3, generator=generator)
    inputs = nn.functional.interpolate(base, 6, mode="bilinear")
    labels = torch.randint(0, 9, (240,), generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 9)).eval()
    parts = [(inputs[part], labels[part]) for part in (slice(120), slice(120, 180), slice(180, 240))]
    return Classification(network, train=parts[0], validation=parts[1], test=parts[2], batch_size=50)


@pytest.mark.parametrize("footprint", effnet_astc.GOALS)
def test_settings_can_be_written(footprint):
    made = settings(footprint)
    assert len({Recipe(list(setting.steps)).toml() for setting in made}) == len(made) == 4
    assert not any(setting.retrained for setting in made)


def test_accuracy_is_agreement(small):
    task = agreement(small)
    network = small.model()
    for split in ("validation", "test"):
        assert task.metrics(network, split)["agreement"] == 1
        assert small.metrics(network, split)["accuracy"] < 0.5
    turned = small.model()
    with torch.no_grad():
        turned[3].weight.neg_(), turned[3].bias.neg_()
    assert task.metrics(turned, "test")["agreement"] == 0


def test_signal_to_noise_is_of_the_inputs_of_the_first_network(small):
    network, other = small.model(), small.model()
    with torch.no_grad():
        other[0].weight.mul_(1.1), other[0].bias.mul_(1.1)
        other[3].weight.mul_(0.99), other[3].bias.mul_(0.99)
    inputs, _ = next(iter(small.batches("test", seed=0, epoch=0)))
    assert sqnr(network, other, inputs, batch=7) == pytest.approx({"0": 20.0, "3": 40.0}, abs=1e-3)
    assert min(sqnr(network, small.model(), inputs).values()) == pytest.approx(300)


def test_error_feedback_keeps_outputs(small):
    inputs, _ = next(iter(small.batches("validation", seed=0, epoch=0)))
    ratios = layers(small, inputs, "8x8")
    assert list(ratios) == ["0", "3"]
    gains = [fed - alone for alone, fed in ratios.values()]
    assert min(gains) > 0.5, gains
    assert none_worse(ratios).holds


def test_a_layer_that_is_worse_is_named():
    ratios = {"a": (10.0, 9.5), "b": (1.0, 2.0)}
    found = none_worse(ratios)
    assert not found.holds and found.measured == "a (-0.50 dB)"
    assert sheet(ratios).rows == [["a", 10.0, 9.5], ["b", 1.0, 2.0]]


def test_checks_and_bits():
    weights = [
        SimpleNamespace(shape=[4, 8], nbytes=16), SimpleNamespace(shape=[32], nbytes=99),
        SimpleNamespace(shape=[8, 4, 1, 1], nbytes=32),
    ]  # fmt: skip
    found = SimpleNamespace(
        primary="accuracy", rows=weights, validation={"accuracy": 0.95}, test={"accuracy": 0.885}
    )
    outcome = Outcome("Net", "data", Setting("ASTC", "5x5", []), [SimpleNamespace(summary=found)])
    assert bits([outcome]).rows == [["ASTC", "5x5", "6.00", "95.0 %", "88.5 %"]]
    assert check(outcome, 0.88).holds
    assert not check(outcome, 0.89).holds


def test_every_layer_has_a_format():
    made = settings("6x6")[2].steps[1]
    assert made.format == Astc(footprint="6x6")
    assert set(made.formats) == set(effnet_astc.FRAGILE)
