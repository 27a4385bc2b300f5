"""The paired comparison against values worked out by hand; scores, whose mean is the metric."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featherweight.errors import ConfigError, TaskError
from featherweight.evaluation.metrics import scores
from featherweight.evaluation.paired_test import Paired, drop_bound, paired, pooled, seen_before
from featherweight.task.tasks import Classification, Regression

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))


def test_mcnemar_by_hand():
    before = np.array([1.0] * 12 + [0.0] * 8)
    after = before.copy()
    after[:9] = 0  # nine lost
    after[19:] = 1  # one gained
    found = paired(before, after)
    assert (found.lost, found.gained, found.samples) == (9, 1, 20)
    assert found.difference == pytest.approx(-8 / 20)
    assert found.error == pytest.approx(math.sqrt(10 - 64 / 20) / 20)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)  # P(at most 1 of 10) twice


def test_nothing_changed_is_certain():
    same = np.array([1.0, 0.0, 0.5])
    assert paired(same, same) == Paired(0.0, 0.0, 1.0, 0, 0, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=9))
def test_p_counts_all_signs_of_the_samples_that_changed(pairs):
    before, after = (np.array(side, float) for side in zip(*pairs, strict=True))
    found, back = paired(before, after), paired(after, before)
    changed = [b != a for b, a in pairs].count(True)
    uneven = abs(found.gained - found.lost)
    signs = [abs(sum(way)) >= uneven for way in product((-1, 1), repeat=changed)]
    assert found.p == pytest.approx(sum(signs) / len(signs))
    assert (back.p, back.lost, back.difference) == (found.p, found.gained, -found.difference)


def test_pooled_seeds():
    a, b = Paired(-0.2, 0.03, 0.1, 6, 2, 20), Paired(0.1, 0.04, 0.9, 1, 3, 20)
    both = pooled([a, b])
    assert (both.lost, both.gained, both.samples) == (7, 5, 40)
    assert both.difference == pytest.approx(-0.05)
    assert both.error == pytest.approx(0.025)
    assert both.p == pytest.approx(2 * sum(math.comb(12, k) for k in range(6)) / 2**12)
    assert pooled([a]).p == pytest.approx(2 * (1 + 8 + 28) / 2**8)


def test_only_the_same_samples_are_compared():
    with pytest.raises(ConfigError, match="same samples"):
        paired(np.ones(3), np.ones(4))
    with pytest.raises(ConfigError, match="no comparisons"):
        pooled([])


def tasks():
    labels, dense = torch.arange(60) % 3, (torch.arange(240) % 3).reshape(60, 4)
    numbers = X @ torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 0.5], [-1.0, 0.0]])
    return {
        "labels": Classification(nn.Linear(4, 3), train=(X, labels), test=(X, labels), batch_size=7),
        "labels of every place": Classification(
            nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 4))), train=(X, dense), test=(X, dense)
        ),
        "numbers": Regression(nn.Linear(4, 2), train=(X, numbers), test=(X, numbers), batch_size=7),
        "numbers that are all alike": Regression(
            nn.Linear(4, 1), train=(X, torch.ones(60, 1)), test=(X, torch.ones(60, 1))
        ),
    }


@pytest.mark.parametrize("kind", tasks())
def test_scores_have_the_mean_of_the_metric(kind):
    task = tasks()[kind]
    module = task.model()
    for split in ("validation", "test"):
        each = scores(task, module, split)
        assert each.mean() == pytest.approx(task.metrics(module, split)[task.primary], abs=1e-9)
    assert each.shape == (60,)


class Own:
    name = "own"

    def __init__(self, found):
        self.found = found

    def scores(self, predict, split):
        return self.found()


def test_a_task_of_ones_own_may_say_its_scores():
    assert scores(object.__new__(type("Bare", (), {"name": "bare"})), None, "test") is None
    assert scores(Own(lambda: [1, 0]), None, "test").tolist() == [1.0, 0.0]
    with pytest.raises(TaskError, match="own, scores on test: failed: ZeroDivisionError"):
        scores(Own(lambda: 1 / 0), None, "test")
    for wrong in ([[1.0]], [], [math.nan]):
        with pytest.raises(TaskError, match="one finite number a sample"):
            scores(Own(lambda wrong=wrong: wrong), None, "test")


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.1, 0.05), (0.3, 0.3), (0.5, 0.02)])
def test_the_bound_of_a_drop_holds_in_95_percent_of_all_draws(lost, gained):
    """Every outcome of 30 samples, by its probability."""
    n, missed, whole = 30, 0.0, 0.0
    for worse in range(n + 1):
        for better in range(n + 1 - worse):
            before = np.array([1.0] * worse + [0.0] * (n - worse))
            after = np.array([0.0] * worse + [1.0] * better + [0.0] * (n - worse - better))
            ways = math.comb(n, worse) * math.comb(n - worse, better)
            chance = ways * lost**worse * gained**better * (1 - lost - gained) ** (n - worse - better)
            whole += chance
            missed += chance * (drop_bound(before, after) < lost - gained - 1e-12)
    assert whole == pytest.approx(1)
    assert missed <= 0.05


def test_nothing_lost_is_no_proof():
    assert drop_bound(np.ones(100), np.ones(100)) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert drop_bound(np.ones(5000), np.ones(5000)) < 0.0006
    assert drop_bound(np.ones(3), np.zeros(3)) == 1.0
    assert drop_bound(np.array([0.5, 0.7]), np.array([0.5, 0.7])) == 0.0, "outcomes that are not 0 or 1"


def test_a_network_that_saw_its_validation_is_told_from_one_that_did_not():
    test = np.arange(400) % 10 > 0
    assert seen_before(np.ones(200), test)
    assert not seen_before(np.roll(test, 3), test)
    assert not seen_before(np.ones(20), test), "twenty of twenty happen"
    assert not seen_before(np.ones(5), np.ones(5))
