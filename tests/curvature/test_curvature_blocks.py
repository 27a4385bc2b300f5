"""Blocks of the Fisher information: against gradients one by one, Woodbury's identity, and surgery written out."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featherweight import Classification
from featherweight.curvature.gauss_newton import Blocks, fisher_blocks
from featherweight.curvature.hvp import gradients
from featherweight.errors import TaskError
from featherweight.model import Model
from featherweight.task.sampling import singly
from featherweight.techniques import Context, Sparsify
from featherweight.techniques.saliencies import WoodFisher

NAMES = ["0.weight", "2.weight"]
SETTINGS = settings(max_examples=25, deadline=None)


@cache
def task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, 4, 4, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4)).eval()
    return Classification(
        network, train=(x, torch.arange(40) % 4), test=(x, torch.arange(40) % 4), batch_size=20
    )


def every_gradient(name):
    model = Model.of(task().model())
    batches = list(task().batches("train", seed=0, epoch=0))
    found = [g[name].reshape(-1) for b in batches for g, _ in gradients(model, task(), singly(task(), b))]
    return batches, torch.stack(found).double().numpy()


@pytest.mark.parametrize("width", [5, 16, 100])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_of_the_mean_product_of_gradients(name, width):
    batches, g = every_gradient(name)
    blocks = fisher_blocks(Model.of(task().model()), task(), batches, NAMES, width=width, damping=0.1)[name]
    whole = g.T @ g / len(g)
    assert blocks.damping == pytest.approx(0.1 * whole.trace() / len(whole), rel=1e-5)
    for number, block in enumerate(blocks.curvature.numpy()):
        here = slice(number * width, min((number + 1) * width, len(whole)))
        count = here.stop - here.start
        np.testing.assert_allclose(block[:count, :count], whole[here, here], rtol=1e-4, atol=1e-8)
        assert not block[count:].any()


def test_the_inverse_is_that_of_woodburys_recursion():
    batches, g = every_gradient("0.weight")
    blocks = fisher_blocks(Model.of(task().model()), task(), batches, NAMES, width=54, damping=0.1)[
        "0.weight"
    ]
    inverse = np.eye(54) / blocks.damping
    for gradient in g:
        along = inverse @ gradient
        inverse -= np.outer(along, along) / (len(g) + gradient @ along)
    weight = task().model()[0].weight.detach().numpy().reshape(3, 18)
    expected = weight.reshape(-1) ** 2 / (2 * inverse.diagonal())
    np.testing.assert_allclose(blocks.lost(weight).reshape(-1), expected, rtol=1e-4)


def random_blocks(count, width, seed):
    """Blocks, and the whole matrix of which they are the diagonal, damped."""
    rng = np.random.default_rng(seed)
    runs = -(-count // width)
    root = rng.normal(size=(runs, width, 2 * width))
    root.reshape(runs * width, -1)[count:] = 0
    curvature = torch.from_numpy((root @ root.transpose(0, 2, 1)).astype(np.float32))
    whole = torch.block_diag(*curvature.double()).numpy()[:count, :count] + 0.1 * np.eye(count)
    return Blocks(curvature, 0.1), whole


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 8), st.floats(0, 1), st.integers(0, 99))
def test_surgery_is_that_of_all_that_goes_at_once(rows, cols, width, share, seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, cols)) * (rng.random((rows, cols)) < 0.8)
    gone = rng.random(weight.shape) < share
    blocks, whole = random_blocks(weight.size, width, seed)
    made, flat, out = blocks.without(weight, gone), weight.reshape(-1), gone.reshape(-1)
    free = flat != 0
    expected, inverse = flat.copy(), np.zeros_like(whole)
    inverse[np.ix_(free, free)] = np.linalg.inv(whole[np.ix_(free, free)])
    goes = out & free
    if goes.any():
        expected -= inverse[:, goes] @ np.linalg.solve(inverse[np.ix_(goes, goes)], flat[goes])
    np.testing.assert_allclose(made.reshape(-1), np.where(out, 0, expected), atol=1e-6)
    alone = np.where(free, flat**2 / (2 * np.where(free, inverse.diagonal(), 1)), 0)
    np.testing.assert_allclose(blocks.lost(weight).reshape(-1), alone, rtol=1e-6, atol=1e-12)


def test_no_smaller_change_of_the_quadratic_has_these_zeros():
    rng = np.random.default_rng(0)
    weight, gone = rng.normal(size=(2, 6)), rng.random((2, 6)) < 0.5
    blocks, whole = random_blocks(12, 4, 0)
    made = blocks.without(weight, gone)
    lost = (made - weight).reshape(-1) @ whole @ (made - weight).reshape(-1)
    for _ in range(20):
        other = (made + 0.1 * rng.normal(size=made.shape) * ~gone - weight).reshape(-1)
        assert other @ whole @ other > lost


def test_the_step_moves_what_stays():
    model = Model.of(task().model())
    step = Sparsify(sparsity=0.5, saliency=WoodFisher(samples=40, block=18))
    made = step.apply(model, task(), Context())
    for name in NAMES:
        after, before = made.tensors[name].detach(), model.tensors[name].detach()
        assert (after == 0).sum() == after.numel() // 2
        assert ((after != before) & (after != 0)).any()


def test_more_zeros_keep_those_of_before():
    model = Model.of(task().model())
    first = Sparsify(sparsity=0.3, saliency=WoodFisher(samples=40)).apply(model, task(), Context())
    second = Sparsify(sparsity=0.6, saliency=WoodFisher(samples=40)).apply(first, task(), Context())
    for name in NAMES:
        before = first.tensors[name] == 0
        assert (second.tensors[name][before] == 0).all()
        assert (second.tensors[name] == 0).float().mean() == pytest.approx(0.6, abs=0.02)


def test_gradients_that_are_no_numbers_are_one_error():
    model = Model.of(task().model())
    broken = model.with_tensors({"2.bias": torch.full((4,), float("nan"))})
    with pytest.raises(TaskError, match=r"batch 0 .*NaN or infinity"):
        Sparsify(sparsity=0.5, saliency=WoodFisher(samples=40)).apply(broken, task(), Context())
