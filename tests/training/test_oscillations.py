"""Oscillating weights: the tracker against a loop over single weights; dampening and freezing against formulas."""

from math import cos, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import ConfigError
from featherweight.formats import Int, View
from featherweight.training.methods import Lsq
from featherweight.training.methods.base import shares
from featherweight.training.methods.oscillations import Oscillations, Tracker


def slow(history, momentum, thresholds):
    """Frequency, average, whether and where frozen, of one weight: what the authors' tracker does, one by one."""
    last, direction, frequency, average, frozen = history[0], 0, 0.0, float(history[0]), None
    for x, threshold in zip(history[1:], thresholds, strict=True):
        x = x if frozen is None else frozen
        moved = np.sign(last - x)
        frequency = momentum * (direction * moved == -1) + (1 - momentum) * frequency
        direction, last = (moved, x) if moved else (direction, x)
        if threshold is not None and frequency > threshold and frozen is None:
            frozen = float(np.round(average))
        average = momentum * x + (1 - momentum) * average
    return frequency, average, frozen


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from([0.02, 0.2]), st.sampled_from([None, 0.05, 0.3]), st.sampled_from([0.0, 0.25])
)  # fmt: skip
def test_the_tracker_is_that_of_the_authors_code(seed, momentum, freezing, begins):
    options = Oscillations(momentum=momentum, freezing=freezing, from_threshold=0.4, begins=begins)
    history = np.random.default_rng(seed).integers(-2, 3, (30, 2, 8)).astype(np.float32)
    tracker, progress = Tracker(history[0]), [t / 30 for t in range(1, 30)]
    for steps, done in zip(history[1:], progress, strict=True):
        held = np.where(tracker.frozen, tracker.integers, steps)  # what is frozen is what the weight gives
        tracker.follow(held, options, done)
    thresholds = [options.threshold_at(done) for done in progress]
    for u, i in np.ndindex(2, 8):
        frequency, average, frozen = slow(history[:, u, i], momentum, thresholds)
        assert tracker.frequency[u, i] == pytest.approx(frequency, abs=1e-5)
        assert tracker.average[u, i] == pytest.approx(average, abs=1e-5)
        assert bool(tracker.frozen[u, i]) == (frozen is not None)
        assert frozen is None or tracker.integers[u, i] == frozen


def test_one_move_is_no_oscillation_and_a_pause_changes_nothing():
    tracker, options = Tracker(np.zeros((1, 3))), Oscillations(momentum=0.5)
    for steps in ([1, 1, 1], [1, 2, 0], [1, 3, 0], [1, 4, 1]):
        tracker.follow(np.float32([steps]), options, 0.5)
    assert tracker.frequency.tolist() == [[0.0, 0.0, 0.125 + 0.5]]
    assert tracker.found()["oscillating"].tolist() == [[False, False, True]]


def test_schedules_follow_half_a_cosine():
    options = Oscillations(dampening=0.3, freezing=0.02, from_threshold=0.2, begins=0.25)
    for t in np.linspace(0, 1, 13):
        fall = (1 + cos(pi * (t - 0.25) / 0.75)) / 2
        assert options.dampening_at(t) == pytest.approx(0 if t < 0.25 else 0.3 * (1 - fall))
        assert options.threshold_at(t) == (None if t < 0.25 else pytest.approx(0.02 + 0.18 * fall))
    assert Oscillations().threshold_at(1.0) is None and Oscillations().dampening_at(1.0) == 0


def weight_of(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(options, per="channel", shape=(6, 3, 2, 2), bits=3, view=None):
    weight = weight_of(shape, 0)
    encoded = Int(bits=bits, per=per).encode(weight.numpy(), view=view)
    return Lsq(oscillations=options).surrogate(weight, encoded)


@pytest.mark.parametrize("per", ["channel", "tensor", 5])
def test_dampening_is_the_mean_over_kernels_of_sums_over_channels(per):
    surrogate = made(Oscillations(dampening=0.4, begins=0.0), per)
    value = surrogate.penalty(0.5)
    value.backward()
    w = surrogate.weight.detach().double().requires_grad_(True)
    ends = [
        surrogate.tensor(np.broadcast_to((end * surrogate.grid().step)[:, None], surrogate.units(w).shape))
        for end in (surrogate.low, surrogate.high)
    ]
    clipped = torch.minimum(torch.maximum(w, ends[0].double()), ends[1].double())
    expected = 0.2 * (surrogate().detach().double() - clipped).square().sum(0).mean()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(surrogate.weight.grad.double(), w.grad, rtol=1e-4, atol=1e-8)
    assert surrogate.step.grad is None
    assert made(Oscillations()).penalty(0.9) == 0.0 and made(None).penalty(0.9) == 0.0


@pytest.mark.parametrize("per", ["channel", "tensor", 5])
def test_what_is_frozen_stays_on_its_integer_and_only_its_step_learns(per):
    surrogate = made(Oscillations(freezing=0.02), per)
    frozen = torch.rand(surrogate.tracker.steps.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    surrogate.tracker.frozen = frozen
    surrogate.tracker.integers = torch.where(frozen, torch.full(frozen.shape, -2.0), 0.0)
    with torch.no_grad():
        surrogate.weight.add_(weight_of(surrogate.weight.shape, 2))
    upstream = weight_of(surrogate.weight.shape, 3)
    value = surrogate()
    value.backward(upstream)
    where = surrogate.tensor(frozen.numpy())
    w = surrogate.weight.detach().double().requires_grad_(True)
    s = surrogate.step.detach().double().requires_grad_(True)
    count = surrogate.tensor(np.broadcast_to(np.arange(len(s))[:, None], frozen.shape))
    each = s[count]
    clipped = (w / each).clamp(-4, 3)
    rounded = (clipped + (clipped.round() - clipped).detach()) * each
    expected = torch.where(where, -2 * each, rounded)
    expected.backward(upstream.double())
    torch.testing.assert_close(value.detach().double(), expected.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(surrogate.weight.grad.double(), w.grad, rtol=1e-6, atol=0)
    gain = torch.from_numpy(surrogate.gain)
    torch.testing.assert_close(surrogate.step.grad.double(), s.grad * gain, rtol=1e-4, atol=1e-5)
    decoded = surrogate.freeze()
    assert decoded.decode().tobytes() == value.detach().numpy().tobytes()
    assert shares([surrogate])["frozen"] == pytest.approx(float(where.float().mean()))


def test_a_toy_weight_between_two_integers_oscillates_until_it_is_dampened_or_frozen():
    """The paper's regression of one weight: its optimum lies between two integers."""

    def trained(options):
        weight = torch.tensor([[0.2, -0.2, 0.7, 0.31]])
        surrogate = Lsq(oscillations=options).surrogate(
            weight, Int(bits=3, per="tensor").encode(np.float32([[-1.0, 0.0, 0.6, 0.7]]))
        )
        with torch.no_grad():
            surrogate.step.fill_(0.25)
        goal = torch.tensor([[0.42, -0.33, 0.55, 0.5]])
        optimizer = torch.optim.SGD([surrogate.weight], lr=0.05)
        for step in range(400):
            optimizer.zero_grad()
            loss = (surrogate() - goal).square().sum() / 2 + surrogate.penalty((step + 0.5) / 400)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                surrogate.after_step(step + 1)
        return surrogate

    free = trained(Oscillations(momentum=0.05))
    assert shares([free]) == {"oscillating": 0.75, "frozen": 0.0}  # but for 0.5, which is on the grid
    dampened = trained(Oscillations(momentum=0.05, dampening=5.0))
    assert shares([dampened])["oscillating"] == 0
    frozen = trained(Oscillations(momentum=0.05, freezing=0.1, from_threshold=0.3))
    assert shares([frozen]) == {"oscillating": 0.0, "frozen": 0.75}
    errors = [
        (part().detach() - torch.tensor([[0.42, -0.33, 0.55, 0.5]])).abs().max()
        for part in (frozen, dampened)
    ]
    assert max(errors) < 0.25


def test_state_is_kept_whole():
    options, steps = Oscillations(momentum=0.3, freezing=0.1), range(1, 20)
    one, other = made(options), made(options)

    def train(surrogate, steps):
        for step in steps:
            surrogate.penalty(step / 20)
            with torch.no_grad():
                surrogate.weight.add_(weight_of(surrogate.weight.shape, step), alpha=0.3)
                surrogate.after_step(step)

    train(one, steps[:9])
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    for part in (one, other):
        train(part, steps[9:])
    assert one.tracker.frozen.any() and not one.tracker.frozen.all()
    assert one.state().keys() == other.state().keys() > {"weight", "step", "oscillation_frequency"}
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())
    assert one.freeze().decode().tobytes() == other.freeze().decode().tobytes()
    assert made(None).state().keys() == {"weight", "step"}


def test_wide_weights_are_dampened_but_neither_counted_nor_frozen():
    wide = made(Oscillations(dampening=0.4, begins=0.0), bits=5)
    assert wide.tracker is None and wide.masks() == {} and wide.penalty(0.5) > 0
    assert made(Oscillations(most_bits=5), bits=5).tracker is not None
    assert shares([wide]) == {}


def test_a_transposed_view_counts_its_own_weights():
    view = View((6, 4, 2, 2), permutation=(1, 0, 2, 3), groups=2)
    surrogate = made(Oscillations(), 5, (6, 4, 2, 2), view=view)  # rows of 24, the last group of 4
    assert all(mask.shape == (6, 4, 2, 2) for mask in surrogate.masks().values())


@pytest.mark.parametrize(
    "options", [{"momentum": 0.0}, {"dampening": -1.0}, {"freezing": 1.0}, {"begins": 1.0}]
)
def test_what_is_no_fraction_is_refused(options):
    with pytest.raises(ConfigError, match="oscillations"):
        Oscillations(**options)
