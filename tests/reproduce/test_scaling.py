"""The simulation of many workers: never better than its bounds, exact where one can count, near the best order."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.scaling import WORKERS, Costs, _sheet, binds, seconds

times = st.lists(st.floats(0.01, 100), min_size=1, max_size=30)


def best(units, workers):
    """The least time in which workers can do the units: every way to deal them is tried."""
    ways = product(range(workers), repeat=len(units))
    return min(
        max(sum(u for u, w in zip(units, way, strict=True) if w == k) for k in range(workers)) for way in ways
    )


def by_the_clock(costs, workers, tick=0.125):
    """The same, watched in small steps of time; all costs are multiples of a step."""
    waiting = sorted(costs.units, reverse=True)
    now, handed, ends = costs.start + min(workers, len(waiting)) * costs.nbytes / costs.bandwidth, 0, []
    busy = [0.0] * min(workers, len(waiting))
    while waiting:
        for worker, until in enumerate(busy):
            if until <= now and waiting and now >= (handed + 1) * costs.dispatch:
                busy[worker], handed = now + waiting.pop(0), handed + 1
                ends.append(busy[worker])
        now += tick
    return max(ends)


@given(times, st.integers(1, 1000), st.floats(0, 5), st.integers(0, 10**9), st.floats(0, 0.1))
def test_no_bound_is_undercut(units, workers, start, nbytes, dispatch):
    costs = Costs(units, start, nbytes, dispatch)
    found, busy = seconds(costs, workers), min(workers, len(units))
    assert found >= max(costs.bounds(workers).values()) * (1 - 1e-9)
    assert costs.bounds(workers)[binds(costs, workers)] == max(costs.bounds(workers).values())
    most = start + busy * nbytes / costs.bandwidth + len(units) * dispatch
    most += sum(units) / busy + (1 - 1 / busy) * max(units)  # Graham's bound
    assert found <= most * (1 + 1e-9)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 3))
def test_the_largest_first_is_near_the_best_order(units, workers):
    found = seconds(Costs(units, 0, 0, 0), workers)
    assert best(units, workers) <= found <= (4 / 3 - 1 / (3 * workers)) * best(units, workers) + 1e-9


@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=12), st.integers(1, 8), st.integers(0, 8), st.integers(0, 8),
    st.integers(0, 8),
)  # fmt: skip
def test_it_is_what_a_clock_shows(units, workers, start, nbytes, dispatch):
    costs = Costs([u / 8 for u in units], start / 8, nbytes, dispatch / 8, bandwidth=8)
    assert seconds(costs, workers) == pytest.approx(by_the_clock(costs, workers))


def test_more_workers_than_units_gain_nothing_and_a_shared_store_costs():
    costs = Costs([2.0] * 10, 1.0, 10**8, 0.0, bandwidth=1e9)
    rows = {row[0]: row for row in _sheet("", costs).rows}
    assert [row[0] for row in rows.values()] == list(WORKERS)
    assert rows[1][1] == pytest.approx(1 + 0.1 + 20, abs=0.06)
    assert rows[16][1] == rows[1000][1] == pytest.approx(1 + 1 + 2)
    assert rows[1][4] == "work" and rows[1000][4] == "the longest unit"
