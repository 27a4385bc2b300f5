"""What is proposed and what is chosen: damages, uniform choices, and a demand that holds beyond chance."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import ConfigError
from featherweight.formats import Int
from featherweight.search.allocation import damages, uniform, within
from featherweight.search.sensitivity import Cell, Option
from featherweight.search.trials import DOUBT, Constraint, Trial, choose

OPTIONS = [Option(Int(bits=bits)) for bits in (2, 4, 8)] + [Option()]
ERRORS = [0.3, 0.01, 0.0001, 0.0]


def cells(name, losses, options=OPTIONS):
    sizes = dict(zip(OPTIONS, (10, 20, 40, 160), strict=True))
    return [
        Cell(name, option, sizes[option], loss, ERRORS[OPTIONS.index(option)])
        for option, loss in zip(options, losses, strict=True)
    ]


def trial(nbytes, drop, error=0.0):
    drops = {"drop": drop, "error": error, "likely": drop + DOUBT * error, "bound": drop}
    return Trial({}, {"bytes": nbytes, "loss": 0.2, **drops})


def test_a_lucky_loss_does_not_make_a_coarse_option_free():
    lucky = cells("a", [0.6, -0.002, 0.001, 0.0])
    found = damages(lucky)
    assert found == sorted(found, reverse=True)
    assert found[1] == pytest.approx(0.01 * 0.6 / 0.3, rel=0.01)  # the slope is that of the coarsest option
    assert within([lucky, cells("b", [0.3, 0.02, 0.0, 0.0])], 80)["a"] == OPTIONS[2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.1, 3), min_size=4, max_size=4))
def test_less_error_is_never_more_harmful(losses):
    found = damages(cells("a", losses))
    assert all(fine < coarse for coarse, fine in itertools.pairwise(found))


def test_uniform_choices_and_a_tensor_that_cannot_follow():
    made = uniform([cells("a", [0.6, 0.1, 0.0, 0.0]), cells("b", [0.5, 0.1], OPTIONS[:2])])
    assert made[:2] == [{"a": option, "b": option} for option in OPTIONS[:2]]
    assert made[2:] == [{"a": option, "b": OPTIONS[1]} for option in OPTIONS[2:]]
    assert uniform([]) == []


def test_a_demand_is_kept_beyond_chance():
    trials = [trial(10, 0.0009, 0.001), trial(20, 0.0005, 0.0002), trial(30, 0.0), trial(5, 0.01)]

    def chosen(max_drop, max_bytes=None):
        constraints = [] if max_drop is None else [Constraint("likely", max_drop)]
        constraints += [] if max_bytes is None else [Constraint("bytes", max_bytes)]
        return choose(trials, ("drop", "bytes") if max_drop is None else ("bytes", "drop"), constraints)

    assert chosen(0.001).nbytes == 20
    assert chosen(0.001 + DOUBT * 0.001).nbytes == 10
    assert chosen(0.0).nbytes == 30
    assert chosen(0.0, 25) is None
    assert chosen(None, 25).nbytes == 20
    assert choose([], ("bytes",), [Constraint("drop", 0.1)]) is None


def test_any_measure_may_be_limited_and_one_that_is_none_is_named():
    trials = [trial(10, 0.02), trial(20, 0.01)]
    assert choose(trials, ("bytes",), [Constraint("loss", 0.3)]) is trials[0]
    assert choose(trials, ("bytes",), [Constraint("loss", 0.1)]) is None
    with pytest.raises(ConfigError, match="not a measure: got 'joules', expected bytes, loss, drop"):
        choose(trials, ("bytes",), [Constraint("joules", 1.0)])
