"""What a ReLU removes of an error: on a network where it can be counted by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Classification, compress
from featherweight.formats import Int
from featherweight.recipe import Recipe
from reproduce.ptq_spectrum import Removed, _one, graph, methods, optimisation, removed


def test_the_error_of_a_layer_before_and_after():
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[7.0, 1.4, 0.0], [-7.0, 1.4, 0.0]]))
    with torch.inference_mode():
        found = _one("layer", layer, torch.tensor([[1.0, 1.0, 0.0]]), 4)
    weight = layer.weight.detach().numpy()
    rounded = Int(bits=4, per="channel", scale_by="mse").encode(weight).decode()
    error, exact = (rounded - weight)[:, :2].sum(1), weight[:, :2].sum(1)
    assert exact[0] > 0 > exact[1]  # so that only the first channel's error is left
    assert found.negative == 0.5
    assert found.before == pytest.approx(np.square(error).sum() / np.square(exact).sum(), rel=1e-4)
    assert found.after == pytest.approx(np.square(error[0]) / np.square(exact).sum(), rel=1e-4)
    assert found.share == pytest.approx(error[1] ** 2 / np.square(error).sum(), rel=1e-4)


def test_every_layer_but_the_last(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(80, 8)
    task = Classification(network, train=(x[:60], torch.arange(60) % 2), test=(x[60:], torch.arange(20) % 2))
    found = removed(task, compress(task, Recipe([]), threads=1))
    assert [w.layer for w in found] == ["0", "2"]
    assert all(isinstance(w, Removed) and 0 < w.after < w.before for w in found)


def test_the_spectrum_is_ordered_by_what_is_needed():
    names = [method.needs for method in methods()]
    assert names[0] == "none" and names[-1] == "labelled"
    assert set(names) == {"none", "unlabelled", "labelled"}
    assert {graph(method) for method in methods()} == {"read", "changed"}
    assert {optimisation(method) for method in methods()} == {
        "none",
        "search",
        "closed form",
        "descent, labels",
    }
