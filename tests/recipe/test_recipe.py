"""Recipes: typed, round-tripping, and with the path to every mistake."""

import pytest

from featherweight.errors import ConfigError
from featherweight.formats import Astc, Int
from featherweight.recipe import Recipe, parse_recipe, read_recipe
from featherweight.recipe.recipe import shipped_recipes
from featherweight.techniques import STEPS, Encode, Finetune
from featherweight.techniques.base import said_needs
from featherweight.training.methods import AstcBlocks


def test_round_trip_through_toml():
    recipe = Recipe(
        [Encode(where=["weights", "!fc2.*"], format=Int(bits=3, per="channel"), coder="smallest")], about="x"
    )
    assert parse_recipe(recipe.toml()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", r"recipe: steps: Expected `array`"),
        ('[[steps]]\nstep = "encod"', r"steps\[0\]\.step: Invalid value 'encod'"),
        ('[[steps]]\nstep = "encode"\nformat = {format = "int", bits = 77}', r"steps\[0\]\.format\.bits"),
        (
            '[[steps]]\nstep = "encode"\nformat = {format = "int", bits = 4, prr = 1}',
            r"steps\[0\]\.format.*unknown field",
        ),
        ('[[steps]]\nstep = "train"\nepochs = -1', r"steps\[0\]\.epochs"),
        ("steps = [", "not TOML"),
        ("steps = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ('[[step]]\nstep = "train"', "unknown field"),
    ],
)
def test_mistakes_are_named_with_their_path(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text)


def test_names_of_earlier_versions_still_load():
    step = 'step = "finetune"\nformat = {format = "astc"}\nmethod = {method = "%s"}'
    old, new = (parse_recipe("[[steps]]\n" + step % name) for name in ("in_blocks", "astc_blocks"))
    assert old == new == Recipe([Finetune(format=Astc(), method=AstcBlocks())])


def test_shipped_recipes_are_recipes():
    assert "int8" in shipped_recipes()
    for name in shipped_recipes():
        assert read_recipe(name).about


def test_unknown_names_and_missing_files_are_one_error(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a file ending in \.toml, auto, or one of"):
        read_recipe("int9")
    with pytest.raises(ConfigError, match="cannot read"):
        read_recipe(tmp_path / "absent.toml")


def test_every_step_has_a_name_and_a_first_line():
    tags = [step.__struct_config__.tag for step in STEPS]
    assert len(set(tags)) == len(tags)
    assert all(step.__doc__ for step in STEPS)
    said = {said_needs(step) for step in STEPS}
    of_options = {
        "What its losses need; the task's needs labels",
        "What its saliency needs; inputs, to refit",
        "What its saliency needs; magnitude needs none",
        "`none`; `unlabelled` where samples weigh the errors",
    }
    assert said == {"none", "unlabelled", *of_options}


def test_the_key_of_a_step_has_the_training_of_a_task_whose_fingerprint_has_not(tmp_path):
    from tiny import Tiny

    from featherweight.files import Store
    from featherweight.recipe.runner import run

    recipe, store = parse_recipe('[[steps]]\nstep = "train"\nepochs = 1'), Store(tmp_path)
    made = [
        run(recipe, Tiny(size=32, training={"lr": lr}), threads=1, store=store)[-1] for lr in (0.1, 0.1, 0.2)
    ]
    assert [one.cached for one in made] == [False, True, False]
