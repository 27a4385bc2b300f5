"""Rounding to uniform grids while training: the numbers, the gradients, and that threads and layouts change nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import Affine
from featherweight.training import grids
from featherweight.training.grids import Grid, rounded_activation
from featherweight.training.quantizers import through

ENDS = st.sampled_from([(-8, 7), (0, 15), (-2, 1), (0, 3)])


def numbers(shape, seed, scale=1.0):
    return np.float32(scale) * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def oracle(v, s, least, most):
    """Round straight through what is clipped, in float64: autograd gives LSQ's equations 3 and 5."""
    clipped = torch.minimum(torch.maximum(v / s, least), most)
    return (clipped + (clipped.round() - clipped).detach()) * s


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), ENDS, st.integers(1, 80))
def test_gradients_are_those_of_the_formula_by_autograd(seed, ends, count):
    x, upstream = numbers((7, count), seed), numbers((7, count), seed + 2)
    step = np.abs(numbers(7, seed + 1)) / 4 + np.float32(0.05)
    v, s = torch.from_numpy(x).double(), torch.from_numpy(step).double()[:, None]
    low, high = (torch.tensor(float(end)).double() for end in ends)
    v.requires_grad_(True), s.requires_grad_(True)
    value = oracle(v, s, low, high)
    by_v, by_s = torch.autograd.grad(value, (v, s), torch.from_numpy(upstream).double())
    grid = Grid(step, *(np.full(7, end, np.float32) for end in ends))
    np.testing.assert_allclose(grid.round(x), value.detach(), rtol=1e-6)
    passed, sums = grid.passed(x, upstream)
    np.testing.assert_array_equal(passed, by_v.float().numpy())
    found = sums[:, 0] + ends[0] * sums[:, 1] + ends[1] * sums[:, 2]
    np.testing.assert_allclose(found, by_s[:, 0], rtol=1e-5, atol=1e-5)


def test_what_lies_between_the_last_level_and_half_a_step_beyond_is_clipped():
    """LSQ clips, then rounds; code that rounds first has a slope of 7 - 7.4 here."""
    x, one = np.float32([[7.4]]), np.ones((1, 1), np.float32)
    passed, sums = Grid.single(1.0, -8, 7).passed(x, one)
    assert passed.item() == 0 and sums.tolist() == [[0, 0, 1]]
    passed, sums = Grid.single(1.0, -8, 7).passed(np.float32([[6.6]]), one)
    assert passed.item() == 1 and sums[0] == pytest.approx([0.4, 0, 0], abs=1e-6)


@pytest.mark.parametrize("closed", [(False, False), (True, False), (False, True), (True, True)])
def test_the_ends_themselves(closed):
    grid = Grid.single(0.5, -2, 3, closed)
    passed, sums = grid.passed(np.float32([[-1.0, 0.0, 1.5]]), np.float32([[1.0, 10.0, 100.0]]))
    assert passed.tolist() == [[1.0 * closed[0], 10.0, 100.0 * closed[1]]]
    assert sums.tolist() == [[0.0, 1.0 - closed[0], 100.0 * (1 - closed[1])]]


def test_numbers_that_are_none_stay_and_zero_is_positive():
    found = Grid.single(0.5, -2, 3).round(np.float32([[np.nan, -0.1, np.inf, -np.inf]]))
    assert np.isnan(found[0, 0]) and found[0, 1:].tobytes() == np.float32([0.0, 1.5, -1.0]).tobytes()


def test_threads_change_no_bytes(monkeypatch):
    monkeypatch.setattr(grids, "BLOCK", 1000)
    x, upstream, grid = numbers((1, 12345), 0), numbers((1, 12345), 1), Grid.single(0.3, -4, 3)

    def made():
        return [part.tobytes() for part in (grid.round(x), *grid.passed(x, upstream))]

    alone, before = made(), torch.get_num_threads()
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert made() == alone
    finally:
        torch.set_num_threads(before)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3).transpose(0, 2),
    "with gaps": lambda x: torch.cat([x, x], 1)[:, :3],
    "expanded": lambda x: x[:1].expand(4, 3, 5, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_gradient", LAYOUTS)
def test_layouts_change_no_numbers(layout, of_gradient):
    quantizer = Affine.of(-1.0, 1.5, bits=3)
    x = LAYOUTS[layout](torch.from_numpy(numbers((4, 3, 5, 2), 0))).detach()
    upstream = LAYOUTS[of_gradient](torch.from_numpy(numbers((4, 3, 5, 2), 1))).reshape(x.shape)
    leaf = x.clone().requires_grad_(True)
    rounded = through(leaf, quantizer)
    rounded.backward(upstream)
    assert np.array_equal(rounded.detach().numpy(), quantizer.dequantize(quantizer.quantize(x.numpy())))
    low, high = quantizer.range
    assert torch.equal(leaf.grad, upstream * ((x >= low) & (x <= high)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 28, 1)])
def test_any_shape(shape):
    leaf = torch.from_numpy(np.asarray(numbers(shape, 0))).requires_grad_(True)
    rounded = through(leaf, Affine.of(-9.0, 9.0))
    rounded.sum().backward()
    assert rounded.shape == leaf.shape and torch.equal(leaf.grad, torch.ones(shape))


def test_half_precision_gets_its_own_gradient_back():
    leaf = torch.from_numpy(numbers((4, 6), 0)).bfloat16().requires_grad_(True)
    rounded = through(leaf, Affine.of(-1.0, 1.0, bits=4))
    rounded.sum().backward()
    assert rounded.dtype == torch.float32 and leaf.grad.dtype == torch.bfloat16


def test_a_network_may_write_into_what_was_rounded_but_not_into_what_it_was_rounded_from():
    x = torch.from_numpy(numbers((4, 6), 0)).requires_grad_(True)
    source = x * 1
    rounded = rounded_activation(source, Grid.single(0.1, -8, 7))
    rounded.relu_().sum().backward()
    inside = (x.detach() > 0) & (x.detach() / 0.1 < 7)
    assert torch.equal(x.grad != 0, inside & (x.detach() / 0.1).round().bool())
    source = x * 1
    rounded = rounded_activation(source, Grid.single(0.1, -8, 7))
    source.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        rounded.sum().backward()
