"""Parts of the reproductions on pruning: short tasks, equal costs, rounds, widths, labels of one's own."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Classification
from featherweight.capture import trace
from featherweight.graph.channels import couple
from featherweight.techniques import Finetune, Prune
from featherweight.zoo.resnet import resnet20
from reproduce import expand_pruning, prune_unlabelled, sosp, torch_pruning
from reproduce.settings import spent
from reproduce.tasks import Short, agreement


@cache
def task():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )
    data = torch.randn(100, 1, 8, 8), torch.arange(100) % 3
    return Classification(network, train=data, test=data, batch_size=10)


def test_a_short_task_sees_a_few_batches_others_in_each_epoch():
    short = Short(task(), 2, 7, test=5)
    first, again, second = (
        torch.cat([x for x, _ in short.batches("train", seed=0, epoch=epoch)]) for epoch in (0, 0, 1)
    )
    assert len(first) == 20
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert [
        sum(len(y) for _, y in short.batches(split, seed=0, epoch=0)) for split in ("validation", "test")
    ] == [7, 5]
    assert Short(task(), 3, 7).fingerprint() != short.fingerprint()


def test_rounds_come_to_the_rate_and_train_as_long_as_one_shot():
    rate = sosp.RATES[0]
    steps = sosp.recipe(sosp.ROUNDS, rate)
    assert np.prod([step.keep for step in steps if isinstance(step, Prune)]) == pytest.approx(rate.keep)
    epochs = [
        sum(s.epochs for s in made if isinstance(s, Finetune)) for made in (steps, sosp.recipe("L2", rate))
    ]
    assert epochs[0] == epochs[1] == sosp.EPOCHS


def test_costs_are_those_of_the_known_network():
    assert spent(resnet20(), torch.randn(1, 3, 32, 32)) == (40_551_040, 269_722)


@pytest.mark.skipif(not torch_pruning.installed(), reason="torch-pruning is not installed")
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_torch_pruning_comes_below_the_limit_and_near_it(importance):
    example = task().example()
    limit = 0.5 * spent(task().model(), example)[0]
    found = torch_pruning.torch_pruned(task(), importance, 0, lambda m: spent(m, example)[0], limit)
    assert 0.6 * limit < spent(found, example)[0] <= limit
    assert all(parameter.grad is None for parameter in found.parameters())


def test_random_widths_cost_about_as_much_and_are_others():
    channels = couple(trace(resnet20(), torch.randn(2, 3, 32, 32)))
    costs = {group.name: group.size * group.parameters for group in channels.groups}
    own = tuple(list(costs)[-3:])
    drawn = [expand_pruning.equally_dear(channels, own, seed) for seed in range(4)]
    assert len(set(drawn)) > 1
    for groups in drawn:
        assert set(groups) != set(own)
        assert sum(costs[g] for g in groups) == pytest.approx(sum(costs[g] for g in own), rel=0.05)


def test_bottlenecks_are_what_pruning_spares():
    shares = {"a": 0.5, "b": 0.9, "c": 0.8, "d": 0.7}
    assert set(expand_pruning.chosen("bottlenecks", None, shares, 0)) == {"b", "c", "d"}
    assert expand_pruning.chosen("no width", None, shares, 0) == ()


def test_images_are_split_as_asked_and_the_network_agrees_with_itself():
    own = agreement(task(), (50, 30), batch_size=32)
    sizes = [
        sum(len(x) for x in own.batches(split, seed=0, epoch=0))
        for split in ("calibration", "validation", "test")
    ]
    assert sizes == [50, 30, 120]
    for split in ("train", "validation", "test"):
        assert own.metrics(own.model().eval(), split)["agreement"] == 1


def test_pruning_without_labels_from_end_to_end(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    monkeypatch.setattr(prune_unlabelled, "TRAINED", 50)
    monkeypatch.setattr(prune_unlabelled, "resolve", lambda name, events: task())
    found = prune_unlabelled.measure(quick=True, threads=1, events=lambda event: None)
    assert [row.method for row in found.rows] == ["SOSP-H, pruned", "SOSP-H, pruned and taught"]
    assert all(row.baseline == 1 and row.nbytes > 0 for row in found.rows)
    for _, macs, *_ in found.sheets[0].rows:
        assert 60 < float(macs.removesuffix(" %")) <= 80
    assert prune_unlabelled.plot(found.rows).svg.startswith("<svg")
