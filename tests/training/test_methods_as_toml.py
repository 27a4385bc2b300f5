"""Every method stands in a recipe as TOML and comes back from it."""

import pytest

from featherweight.formats import Astc, Basis, Clustered, Int
from featherweight.recipe import Recipe
from featherweight.recipe.recipe import parse_recipe
from featherweight.techniques import Finetune
from featherweight.training.methods import METHODS

FORMATS = (Int(bits=4), Basis(per="tensor"), Clustered(), Astc(footprint="6x6"))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_as_toml(method):
    fitting = [format for format in FORMATS if not method().misfit(format)]
    recipe = Recipe([Finetune(format=format, method=method()) for format in fitting])
    assert fitting
    assert parse_recipe(recipe.toml()) == recipe
