"""Clustered against k-means written out, weight by weight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featherweight.formats import Clustered, Importance
from featherweight.formats.clustered import boundaries, lloyd, start

vectors = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))


def slow_lloyd(values, weights, centres):
    """Every distance, every mean, until nothing moves."""
    centres = centres.astype(np.float64)
    nearest = None
    for _ in range(1000):
        moved = np.abs(np.subtract.outer(values.astype(np.float64), centres)).argmin(axis=1)
        if nearest is not None and (moved == nearest).all():
            break
        nearest = moved
        for k in range(len(centres)):
            total = weights[nearest == k].sum()
            if total > 0:
                mean = (weights * values)[nearest == k].sum() / total
                centres[k] = np.float32(mean)
    return centres[np.unique(nearest)]


@pytest.mark.parametrize("init", ["linear", "density"])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 5])
def test_it_is_k_means(init, weighed, bits):
    rng = np.random.default_rng(bits)
    values = np.sort(rng.laplace(size=800).astype(np.float32))
    weights = rng.exponential(size=800) if weighed else np.ones(800)
    centres = start(values, 2**bits, init)
    expected = slow_lloyd(values, weights, centres)
    np.testing.assert_allclose(lloyd(values, weights if weighed else None, centres), expected, rtol=1e-6)


@given(vectors, st.integers(1, 5))
def test_it_is_a_fixed_point_and_no_worse_than_its_start(values, bits):
    """Each value is the mean of its weights, and the error is not above that of the linear start."""
    encoded = Clustered(bits=bits).encode(values)
    decoded = encoded.decode()
    kept = values != 0
    for level in np.unique(decoded[kept]):
        members = values[kept & (decoded == level)].astype(np.float64)
        assert level == pytest.approx(members.mean(), rel=1e-5, abs=1e-6 * float(np.abs(values).max()))
    rest = np.sort(values[kept])
    if rest.size:
        centres = start(rest, 2**bits - (not kept.all()), "linear")
        started = np.square(np.subtract.outer(rest.astype(np.float64), centres)).min(axis=1).sum()
        assert np.square(decoded.astype(np.float64) - values).sum() <= started * (1 + 1e-5) + 1e-9


def test_zeros_are_pinned_and_shared_with_nothing():
    """As after pruning: zero is the first value, and no survivor is given to it, however small."""
    weight = np.float32([0, -0.0, 1e-6, 5, 5, -5, 0])
    encoded = Clustered(bits=2).encode(weight)
    assert encoded.parts["codebook"][0] == 0
    assert encoded.spec.zero == 0
    assert (encoded.symbols == 0).tolist() == [True, True, False, False, False, False, True]
    assert (encoded.decode() == 0).tolist() == (weight == 0).tolist()


def test_a_centre_that_lands_on_zero_is_not_the_zero_symbol():
    encoded = Clustered(bits=1).encode(np.float32([-1, 1, 50]))
    assert encoded.spec.zero is None
    assert encoded.symbols.tolist() == [0, 0, 1]
    np.testing.assert_allclose(encoded.decode(), [0, 0, 50], atol=1e-37)


def test_few_distinct_values_are_exact():
    rng = np.random.default_rng(0)
    values = np.float32([-0.3, 0.1, 0.10000001, 7e-5, 1e6])
    weight = rng.choice(values, 5000)
    np.testing.assert_array_equal(Clustered(bits=8, init="density").encode(weight).decode(), weight)
    assert Clustered(bits=4).encode(np.full(9, 0.1, np.float32)).parts["codebook"].tolist() == [
        np.float32(0.1)
    ]


def test_unused_values_are_left_out():
    """Linear starts between far outliers are empty; the alphabet follows the codebook."""
    weight = np.append(np.random.default_rng(0).normal(size=500), 1e4).astype(np.float32)
    encoded = Clustered(bits=6).encode(weight)
    assert len(encoded.parts["codebook"]) == encoded.spec.alphabet < 64
    assert set(encoded.symbols.tolist()) == set(range(encoded.spec.alphabet))


def test_importance_moves_the_values():
    weight = np.float32([[1.0, 2.0, 10.0, 11.0]])
    importance = Importance(np.array([[1.0, 3.0, 1.0, 0.0]]))
    assert Clustered(bits=1).encode(weight, importance=importance).parts["codebook"].tolist() == [1.75, 10.0]
    nothing = Clustered(bits=1).encode(weight, importance=Importance(np.zeros((1, 4))))
    assert nothing.decode().tolist() == [[1, 1, 11, 11]]


def test_a_learned_codebook_need_not_be_sorted():
    weight = np.float32([0, 0.9, -2.1, 0.4])
    encoded = Clustered(bits=2).encode(weight, parts={"codebook": np.float32([0, 1.0, -2.0, 0.5])})
    assert encoded.symbols.tolist() == [0, 1, 2, 3]


@given(st.sets(st.integers(-(2**20), 2**20), min_size=2), st.lists(st.integers(-(2**20), 2**20), min_size=1))
def test_boundaries_decide_as_distances_do(levels, values):
    levels, values = np.float32(sorted(levels)) / 1000, np.float32(values) / 1000
    distance = np.abs(np.subtract.outer(values.astype(np.float64), levels.astype(np.float64)))
    np.testing.assert_array_equal(np.searchsorted(boundaries(levels), values), distance.argmin(axis=1))


def test_a_cluster_of_one_survives_long_sums():
    """Prefix sums over a million weights lose digits; the value of a lone weight does not."""
    weight = np.random.default_rng(0).normal(1e3, 1, 1_000_000).astype(np.float32)
    weight[0] = 7.123e-3
    assert Clustered(bits=4).encode(weight).decode()[0] == weight[0]
