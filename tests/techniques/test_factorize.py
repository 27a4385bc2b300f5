"""The step `factorize`: what it replaces, what it leaves and why; what comes out is an ordinary network."""

import pytest
import torch
from structured_networks import Images, SmallViT
from torch import nn

from featherweight.capture.program import trace
from featherweight.errors import ConfigError
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Factorize
from featherweight.techniques.lowrank import Energy, Given


def low(layer, rank):
    """Give a layer a weight of low rank."""
    with torch.no_grad():
        flat = layer.weight.flatten(1)
        u, s, v = torch.linalg.svd(flat, full_matrices=False)
        layer.weight.copy_(((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(layer.weight.shape))
    return layer


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv = (
            nn.Conv2d(1, 16, 3, padding=1),
            low(nn.Conv2d(16, 16, 3, padding=1, bias=False), 2),
        )
        self.depth, self.norm = nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16)
        self.fc, self.out = low(nn.Linear(64, 32), 3), nn.Linear(32, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.depth(torch.relu(self.conv(torch.relu(self.stem(x)))))))
        return self.out(torch.relu(self.fc(x.flatten(1))))


def notes(model, kind):
    return {note.name: note.reason for note in model.notes if note.kind == kind}


@pytest.mark.parametrize("form", ["channel", "spatial", "tucker"])
def test_a_network_of_low_rank_computes_the_same_and_costs_less(form):
    task = Images(Wide, dtype=torch.float32)
    before = Model.of(task.model())
    after = Factorize(form=form, rank=Energy(0.9999)).apply(before, task, Context())
    torch.testing.assert_close(
        after.module(task.example()), before.module(task.example()), rtol=1e-3, atol=1e-3
    )
    costs = [trace(model.module, task.example(), dynamic={}).macs for model in (before, after)]
    assert costs[1] < costs[0]
    assert "fc" in notes(after, "chose")
    assert type(after.module.fc) is nn.Sequential
    assert after.module.fc[0].bias is None
    assert "in groups" in notes(after, "skipped")["depth"]
    assert "cost no less" in notes(after, "skipped")["out"]


def test_evbmf_is_the_default_and_every_factor_can_be_encoded():
    task = Images(Wide, dtype=torch.float32)
    encoded = Encode(format=Int(bits=4)).apply(Model.of(task.model()), task, Context())
    model = Factorize(where=["fc.weight", "conv.weight"]).apply(encoded, task, Context())
    assert notes(model, "thawed").keys() >= {"fc.weight"}
    assert {"stem.weight", "out.weight"} <= model.weights.keys()
    again = Encode(format=Int(bits=4)).apply(model, task, Context())
    assert {"fc.0.weight", "fc.1.weight"} <= again.weights.keys()


def test_a_layer_that_code_asks_for_is_left_alone():
    class Peeks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            x = self.a(x.flatten(1))
            return self.b(x) / self.b.out_features

    model = Factorize(rank=Given(2)).apply(
        Model.of(Peeks().eval()), Images(Peeks, dtype=torch.float32), Context()
    )
    assert notes(model, "chose").keys() == {"a"}
    assert "out_features" in notes(model, "skipped")["b"]


def test_attention_keeps_its_projections():
    task = Images(SmallViT, dtype=torch.float32)
    model = Factorize(rank=Given(1)).apply(Model.of(task.model()), task, Context())
    assert "blocks.layers.0.linear1" in notes(model, "chose")
    assert "no linear layer" in notes(model, "skipped")["blocks.layers.0.self_attn.out_proj"]


def test_given_ranks_are_kept():
    task = Images(Wide, dtype=torch.float32)
    model = Factorize(rank=Given(5), where="fc.weight").apply(Model.of(task.model()), task, Context())
    assert [part.out_features for part in model.module.fc] == [5, 32]


def test_samples_weigh_the_errors_of_outputs():
    task = Images(Wide, dtype=torch.float32)
    before, where = Model.of(task.model()), ["stem.weight", "conv.weight", "fc.weight"]
    errors = []
    for samples in (None, 24):
        step = Factorize(where=where, form="channel", rank=Given(rank=1), samples=samples)
        assert step.needs == ("unlabelled" if samples else "none")
        after = step.apply(before, Restricted(task, step.needs), Context())
        inputs = torch.cat([task.inputs(batch) for batch in task.batches("calibration", seed=0, epoch=0)])
        inputs = torch.relu(before.module.stem(inputs))
        errors.append(float((after.module.conv(inputs) - before.module.conv(inputs)).detach().norm()))
    assert errors[1] < errors[0]


def test_samples_weigh_whole_filters_alone():
    with pytest.raises(ConfigError, match="whole filters"):
        Factorize(form="tucker", samples=10)
