"""Surrogates: forward is what the format decodes to, gradients are the papers', freezing ends in bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import ConfigError, TaskError
from featherweight.formats import Astc, Basis, Clustered, Float, Int, Log2, View
from featherweight.training.methods import METHODS, Adaround, Centroids, Project, StraightThrough

SHAPES = st.sampled_from([(), (1,), (7,), (4, 6), (3, 2, 3, 3), (0, 3), (8, 5)])
FORMATS = st.one_of(
    st.builds(
        Int,
        bits=st.sampled_from([1, 2, 4, 8, 16, 32]),
        scheme=st.sampled_from(["symmetric", "affine"]),
        per=st.sampled_from(["tensor", "channel", 1, 4]),
    ),
    st.builds(Clustered, bits=st.integers(1, 4)),
    st.builds(Basis, bits=st.integers(1, 4), per=st.sampled_from(["tensor", "channel", 4])),
    st.just(Log2()),
    st.just(Float()),
)


def tensor(shape, seed, zeros=0.0):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(shape).astype(np.float32) * generator.choice([1e-3, 1.0, 50.0])
    return torch.from_numpy(np.asarray(np.where(generator.random(shape) < zeros, 0, values), np.float32))


@settings(max_examples=150, deadline=None)
@given(FORMATS, SHAPES, st.integers(0, 1000), st.sampled_from([0.0, 0.5]))
def test_straight_through_is_the_format_bit_for_bit(format, shape, seed, zeros):
    weight = tensor(shape, seed, zeros)
    entry = format.encode(weight.numpy())
    surrogate = StraightThrough().surrogate(weight, entry)
    assert surrogate().detach().numpy().tobytes() == entry.decode().tobytes()
    moved = weight * 1.3 + 0.01
    with torch.no_grad():
        surrogate.weight.copy_(moved)
    held = format.encode(moved.numpy(), parts=entry.parts).decode()  # the slow oracle
    assert surrogate().detach().numpy().tobytes() == held.tobytes()


def test_straight_through_on_a_transposed_view():
    weight = tensor((6, 4, 2, 2), 0)
    view = View((6, 4, 2, 2), permutation=(1, 0, 2, 3), groups=2)
    for per in ("tensor", "channel", 5):
        entry = Int(bits=3, per=per).encode(weight.numpy(), view=view)
        surrogate = StraightThrough().surrogate(weight, entry)
        assert surrogate().detach().numpy().tobytes() == entry.decode().tobytes()


def test_straight_through_passes_gradients_on():
    surrogate = StraightThrough().surrogate(tensor((4, 5), 0), Int(bits=2).encode(tensor((4, 5), 0).numpy()))
    gradient = tensor((4, 5), 1)
    surrogate().backward(gradient)
    assert torch.equal(surrogate.weight.grad, gradient)


def test_straight_through_refreshes_its_parts():
    weight = tensor((4, 5), 0)
    surrogate = StraightThrough(refresh=3).surrogate(weight, Int().encode(weight.numpy()))
    with torch.no_grad():
        surrogate.weight.mul_(2)
    scales = []
    for step in range(1, 4):
        surrogate.after_step(step)
        scales.append(surrogate.parts["scale"].copy())
    assert (scales[0] == scales[1]).all() and np.allclose(scales[2], 2 * scales[0])


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 4), st.integers(0, 1000), st.sampled_from([0.0, 0.5]))
def test_centroid_gradient_is_the_one_hot_sum(shape, bits, seed, zeros):
    """Han et al. 2016, eq. 3, with the indicator written out."""
    weight, gradient = tensor(shape, seed, zeros), tensor(shape, seed + 1)
    entry = Clustered(bits=bits).encode(weight.numpy())
    surrogate = Centroids().surrogate(weight, entry)
    out = surrogate()
    assert out.detach().numpy().tobytes() == entry.decode().tobytes()
    out.backward(gradient)
    one_hot = entry.symbols[:, None] == np.arange(len(entry.parts["codebook"]))
    expected = np.einsum("nk,n->k", one_hot.astype(float), gradient.numpy().reshape(-1).astype(float))
    expected[entry.parts["codebook"] == 0] = 0
    np.testing.assert_allclose(surrogate.codebook.grad.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_centroids_keep_zeros_and_codes(optimizer):
    weight = tensor((20, 10), 3, zeros=0.7)
    entry = Clustered(bits=3).encode(weight.numpy())
    surrogate = Centroids().surrogate(weight, entry)
    steps = optimizer(
        [{"params": group.parameters, "weight_decay": 0.0} for group in surrogate.groups()], lr=0.1
    )
    assert not any(group.decays for group in surrogate.groups())
    for _ in range(5):
        steps.zero_grad()
        (surrogate() - 3).square().mean().backward()
        steps.step()
    frozen = surrogate.freeze()
    assert ((frozen.decode() == 0) == (weight.numpy() == 0)).all()
    assert (frozen.symbols == entry.symbols).all()
    assert frozen.parts["codebook"].dtype == np.float32 and not np.array_equal(
        frozen.parts["codebook"], entry.parts["codebook"]
    )


def test_projection_every_so_many_steps_and_once_at_the_end():
    weight = tensor((6, 7), 0)
    surrogate = Project(every=2).surrogate(weight, Clustered(bits=2).encode(weight.numpy()))
    distinct = []
    for step in range(1, 5):
        with torch.no_grad():
            surrogate.weight.add_(0.1 * tensor((6, 7), step))
        surrogate.after_step(step)
        distinct.append(surrogate().unique().numel())
    assert [n > 4 for n in distinct] == [True, False, True, False]
    before = surrogate().detach().clone()
    assert surrogate.freeze().decode().tobytes() == before.numpy().tobytes()  # not encoded a second time


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize(
    "format",
    [
        Int(bits=3),
        Clustered(bits=2),
        Log2(),
        Float(),
        Astc("5x5"),
        Basis(),
        Basis(per="tensor"),
        Basis(1, "tensor"),
    ],
    ids=str,
)
def test_frozen_is_what_forward_gives(method, format):
    if method().misfit(format):
        return
    weight = tensor((5, 4, 3, 3), 2)
    surrogate = method().surrogate(weight, format.encode(weight.numpy()))
    surrogate().sum().backward()
    if method is Adaround:  # between two integers until its price has driven it to one of them
        surrogate.v.data = torch.where(surrogate.v.data >= 0, 10.0, -10.0)
    frozen = surrogate.freeze()
    assert surrogate().detach().numpy().tobytes() == frozen.decode().tobytes()
    assert frozen.format == format
    assert torch.equal(weight, tensor((5, 4, 3, 3), 2))


def test_state_is_taken_over():
    weight = tensor((9, 3), 0)
    for format in (Int(bits=2), Clustered(bits=3), Log2()):
        one = StraightThrough(refresh=1).surrogate(weight, format.encode(weight.numpy()))
        with torch.no_grad():
            one.weight.copy_((one.weight * 2).round())
        one.after_step(1)
        other = StraightThrough().surrogate(weight, format.encode(weight.numpy()))
        other.load(one.state())
        with torch.no_grad():
            other.weight.add_(0.3)
            one.weight.add_(0.3)
        assert torch.equal(one(), other())


def test_options_are_checked_in_code_too():
    for method, options in (
        (Project, {"every": 0}),
        (StraightThrough, {"refresh": 0}),
        (Centroids, {"lr_scale": 0.0}),
    ):
        with pytest.raises(ConfigError, match=next(iter(options))):
            method(**options)


def test_a_weight_that_leaves_the_range_of_float16_is_an_error():
    weight = tensor((4, 6), 3)
    for method in (Project(every=1), StraightThrough()):
        surrogate = method.surrogate(weight, Float(kind="float16").encode(weight.numpy()))
        with torch.no_grad():
            surrogate.weight.fill_(1e5)
        if isinstance(method, Project):
            with pytest.raises(TaskError, match="beyond the 65504 of float16"):
                surrogate.after_step(1)
        with pytest.raises(TaskError, match="beyond the 65504 of float16"):
            surrogate.freeze()


def test_centroids_take_clusters_only():
    assert "clustered" in Centroids().misfit(Int())
    assert Centroids().misfit(Clustered()) == ""


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_projecting_again_and_again_does_not_shrink_the_range(bits):
    weight = tensor((6, 7), 0)
    surrogate = Project(every=1).surrogate(weight, Int(bits=bits).encode(weight.numpy()))
    surrogate.after_step(1)
    first = surrogate().detach().clone()
    for step in range(2, 20):
        surrogate.after_step(step)
    assert torch.equal(surrogate(), first)


def test_a_price_counts_steps_away_from_zero():
    weight = tensor((4, 6), 3)
    entry = Int(bits=4, per="channel").encode(weight.numpy())
    surrogate = StraightThrough(price=0.5).surrogate(weight, entry)
    penalty = surrogate.penalty(0.3)
    steps = np.abs(weight.numpy()) / entry.parts["scale"].reshape(4, 1)
    assert penalty.item() == pytest.approx(0.5 * steps.sum(), rel=1e-6)
    penalty.backward()
    expected = 0.5 * torch.sign(weight) / torch.from_numpy(entry.parts["scale"].reshape(4, 1))
    assert torch.allclose(surrogate.weight.grad, expected)
    assert StraightThrough().surrogate(weight, entry).penalty(0.3) == 0.0


def test_a_price_takes_a_grid():
    assert StraightThrough(price=1e-6).misfit(Int(bits=16)) == ""
    for format in (Clustered(), Log2(), Float("float16"), Int(bits=32)):
        assert "steps" in StraightThrough(price=1e-6).misfit(format)
        assert StraightThrough().misfit(format) == ""
