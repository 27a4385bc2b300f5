"""The exact allocation against brute force, and the Pareto filter against its definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.search.allocation import allocate, pareto


def brute_force(cost, limited, limit):
    best = None
    for choice in itertools.product(*(range(len(row)) for row in cost)):
        amount = sum(limited[t][o] for t, o in enumerate(choice))
        if amount <= limit:
            total = sum(cost[t][o] for t, o in enumerate(choice))
            best = total if best is None else min(best, total)
    return best


tables = st.lists(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(tables, st.integers(0, 4000))
def test_allocation_equals_brute_force(table, limit):
    cost = [[a for a, _ in row] for row in table]
    limited = [[b for _, b in row] for row in table]
    chosen = allocate(cost, limited, limit)
    best = brute_force(cost, limited, limit)
    if best is None:
        assert chosen is None
        return
    assert chosen is not None
    assert sum(limited[t][o] for t, o in enumerate(chosen)) <= limit
    assert sum(cost[t][o] for t, o in enumerate(chosen)) == best


def test_a_larger_budget_never_costs_more():
    rng = np.random.default_rng(0)
    cost, limited = rng.random((12, 6)), rng.integers(1, 1000, (12, 6))
    totals = []
    for limit in np.linspace(limited.min(1).sum(), limited.max(1).sum(), 9):
        chosen = allocate(cost, limited, limit)
        totals.append(sum(cost[t][o] for t, o in enumerate(chosen)))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(totals))


def test_a_limit_holds_to_the_byte():
    assert allocate(cost=[[1, 0]], limited=[[0, 10_000_001]], limit=10_000_000) == [0]


@pytest.mark.parametrize("seed", range(8))
def test_damages_of_all_sizes_are_told_apart(seed):
    rng = np.random.default_rng(seed)
    cost = -np.sort(-(10 ** rng.uniform(-7, 1, (5, 5))), 1)
    size = np.sort(rng.integers(1, 2000, (5, 5)), 1)
    limit = float(rng.uniform(size.min(1).sum(), size.max(1).sum()))
    chosen = allocate(cost.tolist(), size.tolist(), limit)
    assert sum(size[t, o] for t, o in enumerate(chosen)) <= limit
    best = brute_force(cost, size, limit)
    assert sum(cost[t, o] for t, o in enumerate(chosen)) == pytest.approx(best, rel=1e-12)


def test_nothing_needs_no_choice():
    assert allocate([], [], 0) == []
    assert pareto([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_pareto_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    points = [tuple(map(float, p)) for p in rng.integers(0, 6, (25, 2))]
    kept = pareto(points)

    def dominates(a, b):
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    for i, point in enumerate(points):
        dominated = any(dominates(other, point) for other in points)
        first = points.index(point) == i
        assert (i in kept) == (not dominated and first)
