"""How samples are drawn: whole batches until there are enough, or exactly so many inputs in parts."""

from itertools import pairwise

import pytest
import torch
from tiny import Tiny

from featherweight.errors import TaskError
from featherweight.task.sampling import drawn, drawn_inputs, odd_samples

TASK = Tiny(size=96, batch=40)  # batches of 40, 40 and 16


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({"samples": 1}, [40]), ({"samples": 41}, [40, 40]), ({}, [40, 40, 16]), ({"batches": 2}, [40, 40]),
     ({"samples": 1, "batches": 2}, [40]), ({"samples": 1000}, [40, 40, 16])],
)  # fmt: skip
def test_whole_batches(options, sizes):
    assert [len(labels) for _, labels in drawn(TASK, "calibration", **options)] == sizes


@pytest.mark.parametrize("samples", [1, 16, 17, 40, 41, 96, 1000])
@pytest.mark.parametrize("at_once", [1, 7, 16, 64])
def test_exactly_so_many_inputs_in_order(samples, at_once):
    parts = list(drawn_inputs(TASK, "calibration", samples=samples, at_once=at_once))
    assert all(len(part) <= at_once for part in parts)
    expected = TASK.data("calibration", 96)[0][:samples]
    assert torch.equal(torch.cat(parts), expected)
    assert sum(len(a) < at_once for a, _ in pairwise(parts)) <= 2  # where a batch ends


def test_the_order_is_that_of_the_seed():
    first, again, other = (next(drawn(TASK, "train", seed=seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


class Table(Tiny):
    """Inputs beside a table that all samples share."""

    def inputs(self, batch):
        return {"x": batch[0], "table": torch.arange(5.0)}


def test_inputs_of_unlike_lengths_are_not_cut():
    parts = list(drawn_inputs(Table(size=96, batch=40), "calibration", samples=50, at_once=16))
    assert [(len(part["x"]), len(part["table"])) for part in parts] == [(40, 5), (40, 5)]


class Empty(Tiny):
    def batches(self, split, *, seed, epoch):
        return iter(())


def test_no_batches_are_an_error():
    for draw in (
        drawn(Empty(), "calibration", samples=3),
        drawn_inputs(Empty(), "validation", samples=3, at_once=1),
    ):
        with pytest.raises(TaskError, match=r"tiny: the (calibration|validation) split has no batches"):
            list(draw)


def test_samples_that_are_not_finite():
    x, y = torch.zeros(6, 2), torch.zeros(6)
    x[4, 1], y[2] = float("nan"), float("inf")
    assert odd_samples({"x": x, "y": y, "n": torch.arange(6)}) == [2, 4]
