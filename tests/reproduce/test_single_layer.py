"""One layer alone: every method's signal to noise, and what is asked of error feedback."""

import pytest
import torch
from torch import nn

from featherweight import Classification
from featherweight.events import silent
from featherweight.model import Model
from featherweight.techniques import Gptq
from reproduce.astc import ARM, FED, gains, lines_of, ratios

pytest.importorskip("astc_encoder")


def test_every_method_on_one_layer():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=generator) @ torch.randn(4, 32, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    labels = torch.zeros(200, dtype=torch.int64)
    parts = [(inputs[part], labels[part]) for part in (slice(120), slice(120, 160), slice(160, 200))]
    task = Classification(network, train=parts[0], validation=parts[1], test=parts[2], batch_size=40)
    found = ratios(Model.of(network), task, Gptq(where="0.weight", samples=100), ["8x6"], silent)
    ways = found["8x6"]
    assert len(ways) == 4
    assert ways[FED] > ways[ARM] + 3 > 3


def test_ten_decibels_are_asked():
    found = {"8x6": {ARM: 20.0, FED: 30.04}, "10x6": {ARM: 20.0, FED: 29.96}}
    assert [check.holds for check in gains(found)] == [True, False]
    assert lines_of(found, "fc1").rows == [["8x6", 20.0, 30.0], ["10x6", 20.0, 30.0]]
