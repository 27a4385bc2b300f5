"""Counts of every network: parameters, logits, names of the published weights, multiply-accumulates."""

from math import prod

import pytest
import torch
from torch import nn
from torchvision_names import TORCHVISION
from zoo_table import ZOO, on_meta

from featherweight.capture import trace
from featherweight.zoo.tasks import ON_CIFAR, TASKS


def run_and_count(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Slow and obvious: every output of a layer sums over one row of its weight."""
    macs = []

    def count(layer, _, output):
        macs.append(output[0].numel() * prod(layer.weight.shape[1:]))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    return network(images), sum(macs)


@pytest.mark.parametrize("name", ZOO)
def test_parameters_logits_and_macs(name):
    entry, network = ZOO[name], on_meta(name)
    logits, macs = run_and_count(network, torch.empty(2, *entry.shape, device="meta"))
    assert sum(parameter.numel() for parameter in network.parameters()) == entry.parameters
    assert logits.shape == (2, entry.classes)
    assert macs == entry.macs


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_torchvision_s(name):
    names, entries = TORCHVISION[name]
    state = {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()}
    assert list(state.items()) == list(names()), "in its order, too"
    assert len(state) == entries


LARGE = [name for name, entry in ZOO.items() if entry.shape[-1] == 224]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("alexnet", "squeezenet1.0") else pytest.mark.slow)
        for name in LARGE
    ],
)
def test_the_graph_counts_the_same(name):
    entry = ZOO[name]
    network = on_meta(name).to_empty(device="cpu")  # tracing reads no weight
    graph = trace(network, torch.zeros(1, *entry.shape))
    assert graph.macs == entry.macs
    assert not graph.uncounted
    assert graph.node(graph.outputs[0]).shape[1:] == (entry.classes,)


@pytest.mark.parametrize("network", ON_CIFAR)
def test_the_list_of_tasks_says_the_count(network):
    name = network if network in ("resnet20", "resnet32", "resnet44", "resnet56") else f"{network}-32"
    assert f"{ZOO[name].parameters:,} parameters" in TASKS[f"{network}-cifar10"].about
