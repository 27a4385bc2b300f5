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
