"""What is proposed and what is chosen: damages, uniform choices, and a demand that holds beyond chance."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.formats import Int
from featherweight.search.candidates import Option
from featherweight.search.front import DOUBT, Allocator, Trial, choose, damages
from featherweight.search.sensitivity import Cell, Sensitivity

OPTIONS = [Option(Int(bits=bits)) for bits in (2, 4, 8)] + [Option()]
ERRORS = [0.3, 0.01, 0.0001, 0.0]


def cells(name, losses, options=OPTIONS):
    sizes = dict(zip(OPTIONS, (10, 20, 40, 160), strict=True))
    return [
        Cell(name, option, sizes[option], loss, ERRORS[OPTIONS.index(option)])
        for option, loss in zip(options, losses, strict=True)
    ]


def allocator(*rows):
    table = Sensitivity(0.5, [cell for row in rows for cell in row])
    return Allocator(None, None, table, None, 0.9, None, 0, 1, None)


def trial(nbytes, drop, error=0.0):
    return Trial({}, nbytes, 0.9 - drop, drop, error, 0.0)


def test_a_lucky_loss_does_not_make_a_coarse_option_free():
    lucky = cells("a", [0.6, -0.002, 0.001, 0.0])
    found = damages(lucky)
    assert found == sorted(found, reverse=True)
    assert found[1] == pytest.approx(0.01 * 0.6 / 0.3, rel=0.01)  # the slope is that of the coarsest option
    assert allocator(lucky, cells("b", [0.3, 0.02, 0.0, 0.0])).within(80)["a"].option == OPTIONS[2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.1, 3), min_size=4, max_size=4))
def test_less_error_is_never_more_harmful(losses):
    found = damages(cells("a", losses))
    assert all(fine < coarse for coarse, fine in itertools.pairwise(found))


def test_uniform_choices_and_a_tensor_that_cannot_follow():
    both = allocator(cells("a", [0.6, 0.1, 0.0, 0.0]), cells("b", [0.5, 0.1], OPTIONS[:2]))
    made = [{name: cell.option for name, cell in choice.items()} for choice in both.uniform()]
    assert made[:2] == [{"a": option, "b": option} for option in OPTIONS[:2]]
    assert made[2:] == [{"a": option, "b": OPTIONS[1]} for option in OPTIONS[2:]]
    assert allocator().uniform() == []


def test_a_demand_is_kept_beyond_chance():
    trials = [trial(10, 0.0009, 0.001), trial(20, 0.0005, 0.0002), trial(30, 0.0), trial(5, 0.01)]
    assert choose(trials, max_drop=0.001, max_bytes=None).nbytes == 20
    assert choose(trials, max_drop=0.001 + DOUBT * 0.001, max_bytes=None).nbytes == 10
    assert choose(trials, max_drop=0.0, max_bytes=None).nbytes == 30
    assert choose(trials, max_drop=0.0, max_bytes=25) is None
    assert choose(trials, max_drop=None, max_bytes=25).nbytes == 20
    assert choose([], max_drop=0.1, max_bytes=None) is None
