"""The sweep against its definition, written out: after each block, what is left minimises the error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import UnsupportedError
from featherweight.formats.sweep import LAZY, SMALL, inverse_factor, ordered, sweep, triangular_inverse

STEP = 0.25


def nearest(block, columns):
    return STEP * np.rint(block / STEP)


def layer(rows, cols, samples, seed, groups=1):
    """A weight and the Hessians of correlated inputs, singular where there are few samples."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(groups, samples, cols)) @ rng.normal(size=(cols, cols))
    return rng.normal(size=(rows, cols)), inputs.transpose(0, 2, 1) @ inputs


def obs(weight, hessian, quantise, damping, order):
    """Optimal brain surgery, column by column, on an explicit inverse that is downdated."""
    hessian = hessian + damping * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    left, inverse = weight.copy(), np.linalg.inv(hessian)
    for j in order:
        made = quantise(left[:, [j]], np.array([j]))[:, 0]
        error = (left[:, j] - made) / inverse[j, j]
        left -= np.outer(error, inverse[j])
        left[:, j] = made
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j] = inverse[:, j] = 0
    return left


def least_squares(weight, hessian, quantise, width):
    """After each block, solve for the columns that are left, from the original weight."""
    cols = weight.shape[1]
    left = weight.copy()
    for start in range(0, cols, width):
        stop = min(start + width, cols)
        left[:, start:stop] = quantise(left[:, start:stop], np.arange(start, stop))
        missed = weight[:, :stop] - left[:, :stop]
        coupling = hessian[:stop, stop:] @ np.linalg.inv(hessian[stop:, stop:])
        left[:, stop:] = weight[:, stop:] + missed @ coupling
    return left


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 60), st.integers(0, 99))
def test_equals_optimal_brain_surgery(rows, cols, samples, seed):
    weight, hessian = layer(rows, cols, samples, seed)
    for order in ("given", "activation"):
        columns = ordered(hessian, 1, order)
        expected = obs(weight, hessian[0], nearest, 0.1, columns)
        np.testing.assert_allclose(
            sweep(weight, hessian[0], nearest, damping=0.1, order=order), expected, atol=1e-6
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 7), st.integers(0, 99))
def test_blocks_of_columns_leave_the_least_error(rows, cols, width, seed):
    weight, (hessian,) = layer(rows, cols, 3 * cols, seed)
    hessian = hessian + np.eye(cols)

    def jointly(block, columns):
        return nearest(block + block.mean(axis=1, keepdims=True), columns)

    expected = least_squares(weight, hessian, jointly, width)
    np.testing.assert_allclose(sweep(weight, hessian, jointly, width=width, damping=0.0), expected, atol=1e-6)


def test_lazy_updates_are_the_same_updates():
    cols = 2 * LAZY + 17
    weight, (hessian,) = layer(3, cols, 3 * cols, 0)
    for width in (1, 5, 2 * LAZY):
        expected = least_squares(weight, hessian, nearest, width)
        np.testing.assert_allclose(
            sweep(weight, hessian, nearest, width=width, damping=0.0), expected, atol=1e-6
        )


def test_groups_of_rows_have_their_own_hessian():
    weight, hessian = layer(6, 9, 20, 1, groups=3)
    parts = [sweep(weight[2 * g : 2 * g + 2], hessian[g], nearest) for g in range(3)]
    np.testing.assert_allclose(sweep(weight, hessian, nearest), np.concatenate(parts), atol=1e-12)


def test_whole_blocks_are_ordered_and_a_short_one_comes_last():
    hessian = np.diag([1.0, 1.0, 5.0, 0.0, 2.0, 2.0, 9.0])[None]
    assert ordered(hessian, 2, "activation").tolist() == [2, 3, 4, 5, 0, 1, 6]
    seen = []

    def watch(block, columns):
        seen.append(columns.tolist())
        return block

    weight = np.arange(7.0)[None]
    assert sweep(weight, hessian, watch, width=2, order="activation").tolist() == weight.tolist()
    assert seen == [[2, 3], [4, 5], [0, 1], [6]]


def test_never_worse_than_rounding_where_columns_are_correlated():
    for seed in range(10):
        weight, (hessian,) = layer(8, 24, 48, seed)

        def error(made, weight=weight, hessian=hessian):
            return np.einsum("ri,ij,rj->", weight - made, hessian, weight - made)

        assert error(sweep(weight, hessian, nearest)) < 0.7 * error(nearest(weight, None))


def test_inputs_that_are_never_there():
    weight, (hessian,) = layer(4, 6, 12, 2)
    hessian[2] = hessian[:, 2] = 0
    made = sweep(weight, hessian, nearest)
    assert np.array_equal(made[:, 2], nearest(weight, None)[:, 2])
    assert np.array_equal(sweep(weight, np.zeros((6, 6)), nearest), nearest(weight, None))
    assert sweep(np.zeros((3, 0)), np.zeros((0, 0)), nearest).shape == (3, 0)


def test_refuses_what_has_no_factor():
    weight = np.ones((1, 2))
    for hessian, what in (([[1.0, 2.0], [2.0, 1.0]], "positive definite"), ([[np.nan, 0], [0, 1]], "NaN")):
        with pytest.raises(UnsupportedError, match=what):
            sweep(weight, np.array(hessian), nearest, damping=0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_factor_is_that_of_the_inverse(seed):
    _, hessian = layer(1, 12, 40, seed, groups=2)
    upper = inverse_factor(hessian)
    assert np.array_equal(upper, np.triu(upper)) or np.abs(np.tril(upper, -1)).max() < 1e-12
    np.testing.assert_allclose(
        upper.transpose(0, 2, 1) @ upper @ hessian, np.broadcast_to(np.eye(12), (2, 12, 12)), atol=1e-6
    )


@pytest.mark.parametrize("size", [1, SMALL, SMALL + 1, 5 * SMALL])
def test_triangular_matrices_are_inverted(size):
    rng = np.random.default_rng(size)
    upper = np.triu(rng.normal(size=(3, size, size)), 1) / size + np.diag(rng.uniform(1, 2, size))
    found = triangular_inverse(upper)
    np.testing.assert_allclose(found @ upper, np.broadcast_to(np.eye(size), upper.shape), atol=1e-12)
    assert (np.tril(found, -1) == 0).all()
