"""Patches times rows is the layer; second moments are sums over patches written out."""

import pytest
import torch
from torch import nn

from featherweight.capture import trace
from featherweight.curvature.linear_ops import linear_ops, second_moment

LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 6)),
    "linear of sequences": (nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "pointwise": (nn.Conv2d(6, 4, 1), (3, 6, 5, 5)),
    "strided": (nn.Conv2d(6, 4, 1, stride=2), (3, 6, 5, 5)),
    "padded": (nn.Conv2d(6, 4, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (3, 6, 9, 11)),
    "same": (nn.Conv2d(6, 4, (2, 3), padding="same"), (3, 6, 7, 7)),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), (3, 6, 7, 7)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (3, 6, 7, 7)),
    "depthwise": (nn.Conv2d(6, 12, 3, padding=1, groups=6), (3, 6, 7, 7)),
    "line": (nn.Conv1d(6, 4, 3, stride=2, padding=1), (3, 6, 9)),
    "volume": (nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (3, 2, 4, 5, 6)),
}


def columns(site, *arguments):
    """Return the patches as the weight's rows meet them, `[groups, channels * taps, count]`."""
    patches = site.patches(*arguments)
    lines = patches.written_out().unflatten(2, (patches.index.shape[1], -1))
    return lines.permute(0, 3, 2, 1).flatten(1, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_rows_times_patches(name):
    layer, shape = LAYERS[name]
    network = nn.Sequential(layer).eval()
    inputs = torch.randn(shape)
    (site,) = linear_ops(trace(network, inputs))[0].values()
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    kernel = tuple(weight.shape[2:])
    patches = columns(site, inputs, kernel)
    rows = weight.reshape(site.groups, -1, patches.shape[1])
    made = (rows @ patches).flatten(0, 1)
    expected = nn.functional.linear(inputs, weight) if site.op == "linear" else layer(inputs).detach()
    if site.op != "linear" and bias is not None:
        expected = expected - bias.reshape(-1, *[1] * len(kernel))
    channels = -1 if site.op == "linear" else 1
    torch.testing.assert_close(made, expected.movedim(channels, 0).flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(site.output(inputs, weight, bias), layer(inputs))

    one_by_one = sum(patches[..., [i]] @ patches[..., [i]].mT for i in range(patches.shape[-1]))
    torch.testing.assert_close(second_moment(site, inputs, kernel).float(), one_by_one, rtol=1e-4, atol=1e-4)
    doubled = second_moment(site, inputs, kernel, 2 * inputs)
    torch.testing.assert_close(doubled.float(), 2 * one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("places", [1, 4, 10**6])
def test_some_places_are_some_of_all_patches(name, places):
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape)
    (site,) = linear_ops(trace(nn.Sequential(layer).eval(), inputs))[0].values()
    kernel = tuple(layer.weight.shape[2:])
    every = columns(site, inputs, kernel)
    some = columns(site, inputs, kernel, places)
    assert some.shape[:2] == every.shape[:2] and len(inputs) <= some.shape[2] <= every.shape[2]
    whole, part = every.flatten(0, 1).T, some.flatten(0, 1).T
    assert all((patch == whole).all(1).any() for patch in part)
    if places > every.shape[2]:
        assert torch.equal(some, every)
    if places == 1 and every.shape[2] > len(inputs):
        assert some.shape[2] < every.shape[2]
    torch.testing.assert_close(
        second_moment(site, inputs, kernel, places=places).float(), some @ some.mT, rtol=1e-4, atol=1e-4
    )


def test_what_has_no_site_has_a_reason():
    twice = nn.Linear(4, 4)
    network = nn.Sequential(nn.Embedding(7, 4), twice, nn.ReLU(), twice, nn.Linear(4, 2))
    found, without = linear_ops(trace(network, torch.tensor([[1, 2], [3, 4]])))
    assert list(found) == ["4.weight"]
    assert without["1.weight"] == "it is used more than once"
    assert without["0.weight"].startswith("embedding")
