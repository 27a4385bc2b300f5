"""Selectors: what `where` means."""

import pytest
from torch import nn

from featherweight.errors import ConfigError
from featherweight.model import Model
from featherweight.selectors import select


@pytest.fixture(scope="module")
def model():
    return Model.of(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("weights", ["0.weight", "3.weight", "4.weight"]),
        ("type:Linear", ["3.weight", "4.weight"]),
        (["weights", "!0.*"], ["3.weight", "4.weight"]),
        ("!4.weight", ["0.weight", "3.weight"]),
        (["4.weight", "0.weight"], ["0.weight", "4.weight"]),
        ("3.*", ["3.weight", "3.bias"]),
    ],
)
def test_selects(model, where, expected):
    assert select(model, where) == expected


@pytest.mark.parametrize(
    "where", ["nothing.*", ["weights", "typo*"], "type:Conv3d", ["weights", "!weights"], []]
)
def test_what_matches_nothing_is_an_error(model, where):
    with pytest.raises(ConfigError):
        select(model, where)


def test_globs_select_floating_point_only(model):
    assert "1.num_batches_tracked" not in select(model, "*")
    assert "1.running_mean" in select(model, "*")
    with pytest.raises(ConfigError, match=r"not floating point: got 1.num_batches_tracked of torch.int64"):
        select(model, "*.num_batches_tracked")


@pytest.mark.parametrize("where", ["weights", "*"])
def test_a_network_without_weights_is_said_to_have_none(where):
    with pytest.raises(ConfigError, match="the network has no floating-point weights"):
        select(Model.of(nn.Sequential(nn.ReLU())), where)
