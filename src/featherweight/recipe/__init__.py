"""Recipes: a list of steps as a value, the store of what they made, and `run`."""

from featherweight.files import Store
from featherweight.recipe.recipe import Recipe, parse_recipe, read_recipe
from featherweight.recipe.runner import Made, run

__all__ = ["Made", "Recipe", "Store", "parse_recipe", "read_recipe", "run"]
