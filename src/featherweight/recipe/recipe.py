"""A recipe: frozen steps in order, read from TOML, with the path to every mistake."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from featherweight.checked import convert
from featherweight.errors import ConfigError
from featherweight.techniques import AnyStep

# Tags that recipes written by earlier versions have: (field, old tag) to new tag.
RENAMED = {("method", "in_blocks"): "astc_blocks"}


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    r"""What is done to a network, in order.

    >>> recipe = parse_recipe('[[steps]]\nstep = "encode"\nformat = {format = "int", bits = 4}')
    >>> recipe.steps[0].format.bits
    4

    Attributes:
        steps: the steps.
        about: one line for a person.
    """

    steps: list[AnyStep]
    about: str = ""

    def toml(self) -> str:
        """Return the recipe as TOML; `parse_recipe` reads it back equal."""
        return msgspec.toml.encode(self).decode()


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes.

    Raises:
        ConfigError: the text is no TOML, or no recipe; names the path to the mistake.
    """
    try:
        plain = with_new_names(tomllib.loads(text))
        return convert(plain, Recipe, where, separator=": ")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", where=where) from error
    except RecursionError as error:
        raise ConfigError("nested too deeply for a recipe", where=where) from error


def with_new_names(tree: Any) -> Any:
    """Return a recipe as plain data, with the names of earlier versions replaced by those of today.

    >>> with_new_names({"method": "in_blocks"})
    {'method': 'astc_blocks'}
    """
    if isinstance(tree, list):
        return [with_new_names(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {
        key: RENAMED.get((key, value), value) if isinstance(value, str) else with_new_names(value)
        for key, value in tree.items()
    }
    if tree.get("step") == "finetune" and isinstance(tree.get("distill"), dict):
        tree["loss"] = {"loss": "distillation", "weight": 0.7, **tree.pop("distill")}
    return tree


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Return a recipe by file name, or one of those that come with the package.

    Raises:
        ConfigError: there is no such recipe, or it has a mistake.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            return parse_recipe(path.read_text(encoding="utf-8"), where=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the recipe: {error}", where=str(path)) from None
    name, shipped = str(name_or_path), shipped_recipes()
    if name not in shipped:
        expected = f"a file ending in .toml, auto, or one of {', '.join(shipped)}"
        raise ConfigError("no such recipe", got=repr(name), expected=expected)
    return parse_recipe(shipped[name], where=name)


def shipped_recipes() -> dict[str, str]:
    """Return name to TOML text of the recipes that come with the package."""
    folder = resources.files("featherweight") / "recipes"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name
    )
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}
