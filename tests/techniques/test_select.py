"""Selection: budgets are met and no more, guards hold, orders are those of the scores."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import ConfigError
from featherweight.graph.channels import Channels, Cost, Group, Member
from featherweight.techniques.prune import (
    for_its_price,
    greedy,
    removal_order,
    select,
    without,
)
from featherweight.techniques.saliencies import Scores


def layers(sizes):
    """A chain of linear layers of these widths, between 3 inputs and 2 outputs."""
    widths = [3, *sizes, 2]
    shapes = {f"{n}.weight": (out, width) for n, (width, out) in enumerate(pairwise(widths))}
    cost = Cost(shapes, tuple(shapes), tuple((name, 1) for name in shapes))
    groups = tuple(
        Group(
            str(n),
            (
                Member(f"{n}.weight", 0, np.arange(size)[:, None], False),
                Member(f"{n + 1}.weight", 1, np.arange(size)[:, None], True),
            ),
        )
        for n, size in enumerate(sizes)
    )
    return Channels(groups, {}, cost)


def scored(channels, seed, *, paired):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(channels.count, 3))
    return Scores(rng.random(channels.count), root @ root.T if paired else None)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.floats(0.05, 1),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 9),
)
def test_the_budget_is_met_and_the_guard_holds(sizes, keep, least, multiple, paired, seed):
    channels = layers(sizes)
    scores, guard = scored(channels, seed, paired=paired), {"least": least, "multiple": multiple}
    limit = keep * channels.macs(np.ones(channels.count, bool))
    try:
        kept = select(scores, channels, channels.macs, limit, **guard)
    except ConfigError:
        order = removal_order(scores, channels, least, multiple=multiple)
        assert channels.macs(without(order, channels, multiple)) > limit
        return
    assert channels.macs(kept) <= limit
    for size, stays in zip(sizes, channels.split(kept), strict=True):
        assert stays.sum() >= min(least, size)
        assert stays.sum() % multiple == 0 or stays.all()
    order = removal_order(scores, channels, least, multiple=multiple)
    cheaper = [k for k in range(len(order)) if channels.macs(without(order[:k], channels, multiple)) <= limit]
    removed = list(order[: min(cheaper, default=len(order))])
    for channel in reversed(removed.copy()):
        fewer = np.array([other for other in removed if other != channel], int)
        if channels.macs(without(fewer, channels, multiple)) <= limit:
            removed.remove(channel)
    assert (kept == without(np.array(removed, int), channels, multiple)).all()


@given(st.lists(st.floats(0, 9), min_size=1, max_size=9))
def test_without_pairs_greedy_is_a_sort(linear):
    values = np.array(linear)
    assert (greedy(values, np.zeros((len(linear),) * 2)) == np.argsort(values, kind="stable")).all()


def test_a_layer_never_collapses():
    channels = layers([4, 4])
    scores = Scores(np.array([0, 0, 0, 0, 9, 9, 9, 9.0]))
    kept = select(scores, channels, channels.macs, 14, least=2)
    assert [int(stays.sum()) for stays in channels.split(kept)] == [2, 2]


def test_what_cannot_be_reached_says_what_can():
    channels = layers([4])
    with pytest.raises(ConfigError, match=r"got 0.05\d*, expected 0.\d+ or more"):
        select(Scores(np.ones(4)), channels, channels.macs, 1.0, least=2)


def test_of_equal_losses_the_dearer_goes_first():
    channels = layers([2, 3])
    price = np.array([1.0, 1, 4, 4, 4])
    for pair in (None, np.zeros((5, 5))):
        order = removal_order(Scores(np.full(5, 2.0), pair), channels, 0, price)
        assert order.tolist() == [2, 3, 4, 0, 1]


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.integers(0, 99))
def test_what_is_won_by_removal_goes_before_what_is_lost(losses, seed):
    price = np.random.default_rng(seed).uniform(1, 100, len(losses))
    order = np.argsort(for_its_price(np.array(losses), price))
    assert (np.diff(np.sign(np.array(losses)[order])) >= 0).all()


def test_a_channel_that_stays_adds_no_pair_terms_to_the_others():
    def group(name, n):
        index = np.arange(n)[:, None]
        return Group(
            name, (Member(f"{name}.weight", 0, index, False), Member(f"{name}2.weight", 1, index, True))
        )

    channels = Channels((group("a", 1), group("b", 3)), {}, Cost({}, (), ()))
    pair = np.zeros((4, 4))
    pair[0, 1] = pair[1, 0] = 10.0
    scores = Scores(np.array([0.0, 1.0, 1.5, 3.0]), pair)
    assert removal_order(scores, channels, least=1).tolist() == [1, 2]
    assert removal_order(scores, channels, least=1, multiple=2).tolist() == [1]
