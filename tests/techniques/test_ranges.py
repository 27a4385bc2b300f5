"""Histograms against sorted numbers, ranges against every range tried."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featherweight.activations import Affine
from featherweight.techniques.activation_quantizers import (
    POINTS,
    SAMPLED,
    Histogram,
    divergence,
    flattened,
    histogram,
    quantizer,
    squared_error,
)

numbers = st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=40)
GRID = Affine.of


def seen(values):
    values = np.array(values, np.float32)
    return Histogram.of(values, float(values.min()), float(values.max()))


@given(numbers, numbers)
@example([1.0], [2.0])
@example([4096.0], [-1.401298464324817e-45])
@settings(max_examples=200, deadline=None)
def test_two_histograms_are_that_of_both(a, b):
    total, both = seen(a) + seen(b), seen(a + b)
    assert total.counts.tolist() == both.counts.tolist()
    assert total.bins.tolist() == both.bins.tolist()
    assert (total.low, total.high) == (both.low, both.high)
    assert total.counts.sum() == len(a) + len(b)


@given(numbers)
@settings(deadline=None)
def test_numbers_are_in_their_bins(values):
    found = seen(values)
    middles, counts = found.points
    expected = np.repeat(middles, counts)
    width = (found.high - found.low) / POINTS + max(-found.low, found.high) / 1024
    assert np.abs(expected - np.sort(np.float32(values))).max() <= width + 1e-30


def test_an_outlier_moves_no_percentile():
    x = np.append(normal(), np.float32(1e7))
    assert np.allclose(quantizer(seen(x), 99.0, GRID).range, np.percentile(x, [1, 99]), rtol=0.01)
    assert seen(x).magnitude(99.0) == pytest.approx(np.percentile(np.abs(x), 99), rel=0.01)
    assert seen(x).within(100.0).high == pytest.approx(normal().max(), rel=0.001)
    assert seen(x).power == pytest.approx(np.square(x.astype(np.float64)).mean(), rel=0.01)


def test_ends_are_of_all_numbers_in_any_layout():
    x = torch.randn(2, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    x[1, 2, 3, 4] = 100.0
    for layout in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3)):
        found = histogram(layout)
        assert (found.low, found.high) == (float(x.min()), 100.0)
        assert SAMPLED <= found.counts.sum() <= x.numel()
    assert flattened(x).data_ptr() == x.data_ptr()
    assert np.isnan(histogram(torch.tensor([1.0, float("nan")])).low)


def normal():
    return np.random.default_rng(0).normal(size=20000).astype(np.float32)


def test_minmax_and_percentiles():
    x = normal()
    assert quantizer(seen(x), "minmax", GRID) == Affine.of(x.min(), x.max())
    clipped = quantizer(seen(x), 99.0, GRID)
    low, high = np.percentile(x, [1, 99])
    assert np.allclose(clipped.range, [low, high], atol=0.03)
    assert quantizer(seen(x), 100.0, GRID) == quantizer(seen(x), "minmax", GRID)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_least_squares_is_near_the_best_of_all_ranges(bits):
    x = np.concatenate([normal(), np.float32([30.0])])
    grid = partial(Affine.of, bits=bits)

    def error(q):
        return float(np.square(q.dequantize(q.quantize(x)) - x, dtype=np.float64).sum())

    found = error(quantizer(seen(x), "mse", grid))
    tried = [
        error(grid(low, high)) for low in np.linspace(x.min(), -0.5, 30) for high in np.linspace(0.5, 30, 60)
    ]
    assert found <= 1.1 * min(tried)
    assert found <= error(quantizer(seen(x), "minmax", grid))


def test_entropy_keeps_a_rare_outlier_out_at_few_bits():
    x = np.concatenate([np.abs(normal()), np.float32([50.0])])
    chosen = quantizer(seen(x), "entropy", partial(Affine.of, bits=4))
    assert 1.5 < chosen.range[1] < 10
    values, counts = seen(x).points
    assert divergence(values, counts, chosen) < divergence(values, counts, Affine.of(0, 50, bits=4))


def test_divergence_written_out():
    values, counts = np.float32([0, 1, 2, 3]), np.array([4, 2, 1, 1])
    coarse = Affine(2.0, 0, 2)  # 0, 0.5 -> 0, 1.5 -> 2: levels 0, 0, 1, 2
    p = np.array([4, 2, 1, 1]) / 8
    q = np.array([3, 3, 1, 1]) / 8
    assert divergence(values, counts, coarse) == pytest.approx(float((p * np.log(p / q)).sum()))
    assert squared_error(values, counts, coarse) == pytest.approx(2 * 1 + 1 * 1)


def test_constant_zeros_have_a_range():
    for ranges in ("minmax", "mse", "entropy", 99.9):
        assert quantizer(seen([0.0]), ranges, GRID).range == pytest.approx((0, 1))
