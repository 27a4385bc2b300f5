"""Factors against the layers they replace; ranks against matrices whose rank is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featherweight.techniques.lowrank import (
    TAU,
    Energy,
    Evbmf,
    Given,
    by_axis,
    by_channel,
    factors,
    free_energy,
    noise,
    split,
    tucker,
)


def noisy(rank, rows, columns, seed, scale=0.05):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    return signal + scale * rng.normal(size=(rows, columns))


def test_evbmf_finds_the_rank_under_noise():
    """An estimate: of small matrices of noise alone it finds one component in about one of 200."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        rank, rows, columns, seed = (
            int(rng.integers(*ends)) for ends in ((0, 6), (12, 41), (12, 61), (0, 10**6))
        )
        noise_alone = np.random.default_rng(seed).normal(size=(rows, columns))
        matrix = noisy(rank, rows, columns, seed) if rank else noise_alone
        wrong += Evbmf().counted(np.linalg.svd(matrix, compute_uv=False), rows, columns) != rank
    assert wrong <= 2


def test_evbmf_does_not_depend_on_scale_or_transposition_and_knows_zeros():
    matrix = noisy(4, 20, 33, 0)
    for other in (matrix * 1e6, matrix * 1e-6, matrix.T):
        assert Evbmf().of(other) == 4
    assert Evbmf().counted(np.zeros(3), 3, 4) == 0
    assert Evbmf().of(np.zeros((3, 4))) == 1


def test_the_noise_is_where_the_free_energy_is_least():
    rows, columns = 20, 50
    squares = np.square(np.linalg.svd(noisy(3, rows, columns, 1, 0.3), compute_uv=False))
    alpha = rows / columns
    edge = (1 + 2.5129 * alpha**0.5) * (1 + alpha**0.5 / 2.5129)
    found = noise(squares, alpha, edge, columns)
    grid = [free_energy(v, squares, alpha, edge, columns) for v in np.geomspace(found / 3, found * 3, 301)]
    assert free_energy(found, squares, alpha, edge, columns) <= min(grid) + 1e-6
    assert found == pytest.approx(0.09, rel=0.2)


@given(st.integers(0, 99), st.floats(0.01, 1))
def test_energy_is_the_fewest_components(seed, share):
    matrix = np.random.default_rng(seed).normal(size=(7, 9))
    energy = np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2)
    rank = Energy(share).of(matrix)
    assert energy[rank - 1] >= share * energy[-1] * (1 - 1e-9)
    assert rank == 1 or energy[rank - 2] < share * energy[-1]


def test_error_is_the_energy_of_what_is_left_out():
    matrix = np.random.default_rng(0).normal(size=(8, 11))
    singular = np.linalg.svd(matrix, compute_uv=False)
    for rank in range(1, 9):
        left, right = split(matrix, rank)
        np.testing.assert_allclose(
            np.sum((matrix - left @ right) ** 2), np.sum(singular[rank:] ** 2), atol=1e-12
        )


def test_tucker_projects_and_its_sweeps_do_not_make_it_worse():
    weight = np.random.default_rng(0).normal(size=(6, 5, 3, 3))
    into, core, out = tucker(weight, 3, 4)
    near = np.einsum("tp,pq...,sq->ts...", out, core, into)
    error = np.sum((weight - near) ** 2)
    np.testing.assert_allclose(error, np.sum(weight**2) - np.sum(core**2), rtol=1e-12)
    start = [np.linalg.svd(np.moveaxis(weight, a, 0).reshape(weight.shape[a], -1))[0] for a in (0, 1)]
    first = np.einsum("ts...,tp,sq->pq...", weight, start[0][:, :4], start[1][:, :3])
    assert error <= np.sum(weight**2) - np.sum(first**2) + 1e-12


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (1, 1)])
def test_full_rank_is_exact(kernel):
    weight = np.random.default_rng(1).normal(size=(5, 4, *kernel))
    first, second = by_channel(weight, min(5, 4 * kernel[0] * kernel[1]))
    np.testing.assert_allclose(np.einsum("tr,rskl->tskl", second[..., 0, 0], first), weight, atol=1e-13)
    first, second = by_axis(weight, min(4 * kernel[0], 5 * kernel[1]))
    np.testing.assert_allclose(np.einsum("rsk,trl->tskl", first[..., 0], second[:, :, 0]), weight, atol=1e-13)
    into, core, out = tucker(weight, 4, 5)
    np.testing.assert_allclose(np.einsum("tp,pqkl,sq->tskl", out, core, into), weight, atol=1e-13)


CONVOLUTIONS = [
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    {"padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("arguments", CONVOLUTIONS)
@pytest.mark.parametrize(("form", "rank"), [("channel", 6), ("spatial", 12), ("tucker", 3), ("tucker", 6)])
def test_layers_compute_what_their_weights_say(form, rank, arguments):
    """The sequence equals one convolution with the product of its factors; at full rank, with the weight itself."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 6, 3, bias=False, **arguments).double(), torch.randn(2, 4, 9, 8).double()
    expected = layer(x)
    made = factors(layer, form, Given(rank), tuple(x.shape), tuple(expected.shape))
    found, macs = x, 0
    for factor in made:
        part = factor.spec.build().double()
        part.weight.data.copy_(torch.from_numpy(factor.weight.copy()))
        found = part(found)
        macs += factor.places * factor.weight.size
        assert factor.places == found.shape[0] * found.shape[2] * found.shape[3]
    if form == "tucker" and rank == 3:
        into, core, out = tucker(layer.weight.detach().numpy(), 3, 3)
        layer.weight.data.copy_(torch.from_numpy(np.einsum("tp,pq...,sq->ts...", out, core, into)))
        expected = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(6, 12), st.integers(6, 12), st.integers(0, 999))
def test_weighed_by_inputs_the_outputs_are_nearest(rank, rows, columns, seed):
    rng = np.random.default_rng(seed)
    matrix, inputs = (
        rng.normal(size=(rows, columns)),
        rng.normal(size=(columns, 50)) * rng.random((columns, 1)),
    )
    root = np.linalg.cholesky(inputs @ inputs.T)
    left, right = split(matrix, rank, root)
    error = np.linalg.norm((matrix - left @ right) @ inputs)
    best = np.linalg.svd(matrix @ inputs, compute_uv=False)[rank:]  # Eckart and Young: no rank does better
    np.testing.assert_allclose(error, np.linalg.norm(best), rtol=1e-6, atol=1e-8)
    assert error <= np.linalg.norm((matrix - np.matmul(*split(matrix, rank))) @ inputs) + 1e-9


def test_the_noise_is_the_global_minimum_of_the_free_energy():
    draw = np.random.default_rng(5)
    for _ in range(30):
        rows = int(draw.integers(2, 40))
        columns, rank = int(draw.integers(rows, 120)), int(draw.integers(0, rows))
        matrix = draw.normal(size=(rows, rank)) @ draw.normal(size=(rank, columns))
        singular = np.linalg.svd(
            matrix + 10 ** draw.uniform(-3, 1) * draw.normal(size=(rows, columns)), compute_uv=False
        )
        squares, alpha = np.square(singular / singular.max()), rows / columns
        edge = (1 + TAU * alpha**0.5) * (1 + alpha**0.5 / TAU)
        found = noise(squares, alpha, edge, columns)
        upper = squares.mean() / columns
        floor = np.maximum(squares, upper * 1e-12)
        tail = squares[min(int(np.ceil(rows / (1 + alpha))) - 1, rows - 1) :]
        lower = max(tail[0] / (columns * edge), tail.mean() / columns, upper * 1e-12)
        grid = np.exp(np.linspace(np.log(lower), np.log(upper), 500))
        least = min(free_energy(value, floor, alpha, edge, columns) for value in grid)
        assert free_energy(found, floor, alpha, edge, columns) <= least + 1e-6 * abs(least)
