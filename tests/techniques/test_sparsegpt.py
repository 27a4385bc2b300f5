"""SparseGPT: against optimal brain surgery written out, against magnitude, and the law that zeros stay zeros."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gptq import Deep, applied, error, outputs
from tiny import Tiny
from torch import nn

from featherweight.curvature.linear_ops import Moments
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.techniques import Encode, Gptq, Sparsify
from featherweight.techniques.saliencies.base import least, outside_pattern
from featherweight.techniques.saliencies.surgeon import LAZY, SparseGpt, zeroed

SETTINGS = settings(max_examples=25, deadline=None)
PATTERNS = st.none() | st.sampled_from([(1, 1), (1, 2), (2, 4), (3, 5)])


def layer(rows, cols, seed, zeros=0.0, groups=1):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(groups, 3 * cols, cols)) @ rng.normal(size=(cols, cols))
    weight = rng.normal(size=(rows, cols)) * (rng.random((rows, cols)) >= zeros)
    return weight, Moments(inputs.transpose(0, 2, 1) @ inputs, None)


def surgery(weight, hessian, sparsity, pattern, damping):
    """Algorithm 1 with an inverse of the columns that are left for every column."""
    rows, cols = weight.shape
    hessian = hessian + damping * np.trace(hessian) / cols * np.eye(cols)
    left, gone = weight.copy(), np.zeros(weight.shape, bool)
    width = pattern[1] if pattern else LAZY
    for j in range(cols):
        if j % width == 0:
            run = range(j, min(j + width, cols))
            cost = np.stack([left[:, i] ** 2 / np.linalg.inv(hessian[i:, i:])[0, 0] for i in run], axis=1)
            done = round(sparsity * rows * run.stop) - round(sparsity * rows * run.start)
            gone[:, run] = outside_pattern(cost, *pattern) if pattern else least(cost, done / cost.size)
        inverse = np.linalg.inv(hessian[j:, j:])
        missed = np.where(gone[:, j], left[:, j], 0)
        left[:, j:] -= np.outer(missed / inverse[0, 0], inverse[0])
        left[gone[:, j], j] = 0
    return left


@SETTINGS
@given(st.integers(1, 5), st.integers(1, 40), st.floats(0, 1), PATTERNS, st.integers(0, 99))
def test_equals_optimal_brain_surgery(rows, cols, sparsity, pattern, seed):
    weight, moments = layer(rows, cols, seed)
    found = zeroed(weight, moments, sparsity, pattern, damping=0.1)
    expected = surgery(weight, moments.hessian[0], sparsity, pattern, 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_runs_of_columns_share_a_choice():
    weight, moments = layer(3, 2 * LAZY + 20, 0)
    found = zeroed(weight, moments, 0.6, None, damping=0.1)
    np.testing.assert_allclose(found, surgery(weight, moments.hessian[0], 0.6, None, 0.1), atol=1e-5)
    assert (found == 0).sum() == round(0.6 * weight.size)


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 150), st.floats(0, 1), st.floats(0, 1))
def test_so_many_zeros_and_those_of_before(groups, rows, cols, zeros, sparsity):
    weight, moments = layer(groups * rows, cols, rows, zeros, groups)
    made = zeroed(weight, moments, sparsity, None, damping=0.01)
    assert (made[weight == 0] == 0).all()
    assert (made == 0).sum() == max(round(sparsity * weight.size), (weight == 0).sum())


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 30), st.floats(0, 1), PATTERNS.filter(bool))
def test_a_pattern_holds_in_every_run_of_neighbours(rows, cols, zeros, pattern):
    weight, moments = layer(rows, cols, rows, zeros)
    made = zeroed(weight, moments, 0.0, pattern, damping=0.01)
    assert (made[weight == 0] == 0).all()
    for start in range(0, cols, pattern[1]):
        had, has = ((part[:, start : start + pattern[1]] != 0).sum(axis=1) for part in (weight, made))
        assert np.array_equal(has, np.minimum(had, pattern[0]))


def test_inputs_that_do_not_correlate_leave_magnitude_alone():
    weight, _ = layer(4, 24, 1)
    made = zeroed(weight, Moments(np.eye(24)[None], None), 0.5, None, damping=0.01)
    np.testing.assert_allclose(made, np.where(least(np.abs(weight), 0.5), 0, weight), atol=1e-12)


def test_nothing_to_prune_changes_nothing():
    weight, moments = layer(4, 200, 2, zeros=0.3)
    assert np.array_equal(zeroed(weight, moments, 0.3 - 0.1, None, damping=0.01), weight)


@pytest.mark.parametrize("amount", [{"sparsity": 0.5}, {"pattern": (2, 4)}], ids=str)
def test_outputs_stay_nearer_than_by_magnitude(amount):
    task = Deep(size=96)
    after = applied(Sparsify(**amount, saliency=SparseGpt(samples=96)), task)
    assert error(after, task) < 0.5 * error(applied(Sparsify(**amount), task), task)
    assert not after.notes


def test_zeros_stay_through_gptq_and_through_more_pruning():
    task = Deep(size=48)
    sparse = applied(Sparsify(sparsity=0.5, saliency=SparseGpt(samples=48)), task)
    more = applied(Sparsify(sparsity=0.7, saliency=SparseGpt(samples=48)), task, sparse)
    written = applied(Gptq(format=Int(bits=4), samples=48), task, sparse)
    for name in ("0.weight", "2.weight", "4.weight", "7.weight"):
        zero = sparse.tensors[name] == 0
        assert int(zero.sum()) == round(0.5 * zero.numel())
        assert int((more.tensors[name] == 0).sum()) == round(0.7 * zero.numel())
        for after in (more, written):
            assert (after.tensors[name][zero] == 0).all()
    assert error(written, task) < float(outputs(Model.of(task.model()), task).square().mean())


def test_what_no_layer_multiplies_goes_by_magnitude_and_encodings_are_thawed():
    class Transposed(Tiny):
        def model(self):
            return nn.Sequential(nn.ConvTranspose2d(1, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()

    torch.manual_seed(0)
    task = Transposed(size=32)
    start = applied(Encode(where="2.weight", format=Int(bits=8)), task)
    after = applied(Sparsify(pattern=(1, 2), saliency=SparseGpt(samples=1000)), task, start)
    by_magnitude = applied(Sparsify(pattern=(1, 2)), task, start)
    assert torch.equal(after.tensors["0.weight"], by_magnitude.tensors["0.weight"])
    assert not after.weights
    kinds = {(note.kind, note.name): note.reason for note in after.notes}
    assert kinds[("chose", "0.weight")].startswith("by magnitude: conv_transpose2d")
    assert kinds[("chose", "calibration")] == "only 32 inputs of the 1000 asked for"
    assert ("thawed", "2.weight") in kinds


def test_refuses_what_cannot_be_meant_and_nan():
    for scope in ("global", "lamp"):
        with pytest.raises(ConfigError, match="scope"):
            Sparsify(sparsity=0.5, scope=scope, saliency=SparseGpt())
    with pytest.raises(ConfigError, match=r"sparsegpt\.damping"):
        SparseGpt(damping=0.0)
    broken = Tiny().model()
    with torch.no_grad():
        broken[8].weight[0, 0] = torch.nan
    with pytest.raises(UnsupportedError, match=r"8.weight: NaN"):
        applied(Sparsify(where="8.weight", sparsity=0.5, saliency=SparseGpt()), model=Model.of(broken))


def test_is_an_option_in_a_recipe():
    step = Sparsify(pattern=(2, 4), saliency=SparseGpt(samples=64))
    written = {"step": "sparsify", "pattern": [2, 4], "saliency": {"saliency": "sparsegpt", "samples": 64}}
    assert msgspec.convert(written, Sparsify) == step
    assert msgspec.json.decode(msgspec.json.encode(step)) == written
    assert step.needs == "unlabelled" and Sparsify(sparsity=0.5).needs == "none"
