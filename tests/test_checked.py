"""Mistakes in options: the place, what was got, and every value or tag that is accepted there."""

import pytest

from featherweight.errors import ConfigError
from featherweight.formats import Astc, Int
from featherweight.formats.coders import Gaps
from featherweight.recipe import parse_recipe
from featherweight.techniques import Encode

RECIPE = '[[steps]]\nstep = "encode"\nformat = {format = "int", bits = 4}\n'


def message(call, *arguments, **options):
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_literals_list_their_values():
    said = message(Int, scheme="both")
    assert said.startswith("int.scheme: Invalid enum value 'both'")
    assert "got 'both', expected 'affine', 'symmetric'" in said
    assert "expected 1, 4" in message(Astc, channels=3)


def test_unions_list_their_tags():
    said = message(Encode, format=Int(bits=4), coder="fixed")
    for part in ("got 'fixed'", "'smallest'", '{coder = "fixed"}', '{coder = "gaps"}'):
        assert part in said
    assert '{format = "log2"}' in message(Encode, format="int")
    assert '{coder = "gaps"}' not in message(Gaps, values="gaps")  # a coder that others cannot hold


@pytest.mark.parametrize(
    ("line", "place", "accepted"),
    [
        ('coder = "fixed"', "recipe: steps[0].coder", '{coder = "huffman"}'),
        ('coder = {coder = "gap"}', "recipe: steps[0].coder.coder", '{coder = "gaps"}'),
        (
            'coder = {coder = "gaps", gaps = {coder = "gaps"}}',
            "steps[0].coder.gaps.coder",
            '{coder = "rans"}',
        ),
        ('[[steps]]\nstep = "quantise"', "recipe: steps[1].step", '{step = "encode"}'),
        ('[[steps]]\nstep = "encode"\nformat = {format = "astc", footprint = "7x7"}', "steps[1]", "'6x6'"),
    ],
)
def test_recipes_name_the_place_and_what_is_accepted(line, place, accepted):
    said = message(parse_recipe, RECIPE + line)
    assert place in said
    assert accepted in said


def test_numbers_keep_their_bounds():
    assert message(Int, bits=99).startswith("int.bits: Expected `int` <= 32: got 99")
    assert "steps[0].format.bits: Expected `int` <= 32: got 99" in message(
        parse_recipe, RECIPE.replace("bits = 4", "bits = 99")
    )
