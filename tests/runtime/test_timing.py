"""Timings: what is twice the work takes about twice as long; a busy machine is said to be one."""

import time

import numpy as np
import pytest

from featherweight.runtime.timing import interleaved, timing


def test_calls_are_interleaved_and_medians_are_per_call():
    order = []

    def call(name, seconds):
        order.append(name)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    one, two = interleaved({"one": lambda: call("one", 0.005), "two": lambda: call("two", 0.02)}, seconds=0.1)
    assert (one.name, two.name) == ("one", "two")
    assert 5 <= one.low <= one.milliseconds <= one.high
    assert two.milliseconds > 1.5 * one.milliseconds
    late = order[order.index("two") + 4 :]
    assert all(late[i : i + 6].count("one") >= 1 for i in range(0, len(late) - 6, 6))


def test_short_calls_are_repeated():
    counted = []
    (timing,) = interleaved({"short": lambda: counted.append(1)}, seconds=0.05)
    assert len(counted) > 10 * timing.rounds
    assert timing.milliseconds < 0.1


@pytest.mark.parametrize(
    ("walls", "busy", "quiet", "median"),
    [
        ([1.0] * 20, [False] * 20, True, 1.0),
        ([1.0] * 15 + [9.0] * 30, [False] * 15 + [True] * 30, True, 1.0),
        ([1.0, 2.0] * 20, [False] * 40, False, 1.5),
        ([1.0] * 5 + [9.0] * 30, [False] * 5 + [True] * 30, False, 9.0),
    ],
)
def test_rounds_in_which_others_had_the_processor_do_not_count(walls, busy, quiet, median):
    found = timing("it", np.array(walls), np.array(busy))
    assert (found.quiet, found.milliseconds) == (quiet, median)
    assert found.starved == sum(busy)
