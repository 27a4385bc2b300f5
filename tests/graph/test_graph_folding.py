"""Folding sites: folded by the formula they compute the same; every other normalisation has its reason."""

import pytest
import torch
from networks import NETWORKS, traced
from torch import nn

from featherweight.capture import trace
from featherweight.graph import fold_sites


def sites(module, example):
    return fold_sites(trace(module.eval(), example))


def test_all_norms_of_a_usual_network_are_sites():
    found, refused = fold_sites(traced("residual")[2])
    assert [(site.layer, site.norm, site.bias, site.gamma) for site in found] == [
        ("one", "norm1", None, "norm1.weight"),
        ("two", "norm2", None, "norm2.weight"),
        ("three", "norm3", "three.bias", None),
    ]
    assert refused == {}


def test_a_folded_convolution_is_the_pair():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3)).eval()
    nn.init.uniform_(module[1].running_var, 0.5, 2)
    nn.init.normal_(module[1].running_mean)
    x = torch.randn(2, 3, 5, 5)
    (site,), _ = sites(module, x)
    state = module.state_dict()
    scale = state[site.gamma] / torch.sqrt(state[site.var] + site.eps)
    weight = state[site.weight] * scale[:, None, None, None]
    bias = (state[site.bias] - state[site.mean]) * scale + state[site.beta]
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias), module(x), rtol=1e-5, atol=1e-5)


class UsedElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Wide(nn.Module):
    """The norm's channels are positions, not the linear layer's outputs."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.fc(x))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("make", "shape", "reason"),
    [
        (lambda: NETWORKS["shared"].build()[0], (2, 3, 8, 8), "more than once"),
        (UsedElsewhere, (2, 3, 4, 4), "also used elsewhere"),
        (Wide, (2, 5, 4), "not the output channels"),
        (Normed, (2, 3, 4, 4), "computed, not stored"),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), (2, 3, 4, 4), "follows relu"),
        (lambda: nn.Sequential(nn.BatchNorm2d(3)), (2, 3, 4, 4), "follows input"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
            (2, 3, 4, 4),
            "by the batch",
        ),
    ],
)
def test_no_site_without_a_reason(make, shape, reason):
    found, refused = sites(make(), torch.randn(shape))
    assert found == ()
    assert all(reason in text for text in refused.values()), refused
    assert refused
