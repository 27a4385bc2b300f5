"""LQ-Nets: each step against dense algebra, starts, gradients, and what training leaves."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import Affine, BinaryCoded, FloatingPoint
from featherweight.errors import ConfigError
from featherweight.formats import Basis, Int, Log2, View
from featherweight.formats.basis import levels
from featherweight.simulation import fake_quantize
from featherweight.techniques import Finetune
from featherweight.training.methods import LqNets
from featherweight.training.methods.lq_nets import at_levels

FORMATS = st.builds(Basis, bits=st.integers(1, 4), per=st.sampled_from(["tensor", "channel", 4]))


def tensor(shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def units_of(encoded):
    """Which basis each weight has, written down by hand."""
    view, per = encoded.view, encoded.format.per
    rows, cols = np.indices((view.rows, view.cols))
    return {"tensor": rows * 0, "channel": rows}.get(per, rows * -(-view.cols // 4) + cols // 4).ravel()


def moved(x, codes, basis, low):
    """One step of the paper for one unit, with the matrix of its bits."""
    b = np.array([[1.0 if code >> j & 1 else low for j in range(len(basis))] for code in codes])
    gram = b.T @ b + 1e-4 * np.eye(len(basis))
    new = np.linalg.inv(gram) @ (b.T @ x.astype(np.float64) + 1e-4 * basis)
    return 0.9 * basis + 0.1 * new


@settings(max_examples=40, deadline=None)
@given(FORMATS, st.integers(0, 99), st.sampled_from(["encoded", "paper"]))
def test_a_basis_follows_its_weights_as_the_paper_has_it(format, seed, start):
    weight = tensor((6, 3, 3, 2), seed)
    surrogate = LqNets(start=start).surrogate(weight, format.encode(weight.numpy()))
    for step in (1, 2):
        old = surrogate.basis.numpy().astype(np.float64)
        given = surrogate().detach()
        frozen = surrogate.freeze()
        assert frozen.decode().tobytes() == given.numpy().tobytes()
        with torch.no_grad():  # the optimizer moves the weights; the basis follows those of the forward pass
            x = frozen.view.matrix(surrogate.weight.detach().numpy().copy()).ravel()
            surrogate.weight.add_(tensor(weight.shape, seed + step, 0.3))
        surrogate.after_step(step)
        units = units_of(frozen)
        for unit in range(len(old)):
            expected = moved(x[units == unit], frozen.symbols[units == unit], old[unit], -1)
            np.testing.assert_allclose(surrogate.basis[unit].numpy(), expected, rtol=1e-5, atol=1e-6)
    for unit in np.unique(units):
        assert len(np.unique(given.numpy().ravel()[units == unit])) <= 2**format.bits
    assert (
        frozen.format.encode(given.numpy(), parts=frozen.parts).decode().tobytes() == given.numpy().tobytes()
    )
    assert torch.equal(weight, tensor((6, 3, 3, 2), seed))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 99), st.sampled_from(["encoded", "paper"]), st.booleans())
def test_levels_follow_an_activation_as_the_paper_has_it(bits, seed, start, signed):
    learned = LqNets(start=start).range(Affine.of(0.0, 3.0, bits=bits, signed=signed and bits > 1))
    for step in (1, 2):
        old, quantizer = learned.basis.numpy().astype(np.float64), learned.freeze()
        parts = [tensor((5, 40), seed + k).relu() for k in range(2)]  # two edges share it
        given = [learned(x) for x in parts]
        for x, rounded in zip(parts, given, strict=True):
            assert rounded.numpy().tobytes() == fake_quantize(x, quantizer).numpy().tobytes()
            assert torch.equal(learned(rounded), rounded)  # which adds nothing to what was seen
            order = x.flatten().argsort()
            assert (rounded.flatten()[order].diff() >= 0).all() and len(rounded.unique()) <= 2**bits
        learned.after_step(step)
        both = torch.stack(parts).numpy().ravel()
        expected = moved(both, quantizer.quantize(both), old, 0)
        np.testing.assert_allclose(learned.basis.numpy(), expected, rtol=1e-5, atol=1e-6)
    before = learned.basis.clone()
    learned.after_step(3)  # nothing was seen
    assert torch.equal(learned.basis, before)


def test_starts():
    weight = tensor((8, 4, 3, 3), 0)
    encoded = Basis(bits=3).encode(weight.numpy())
    assert LqNets().surrogate(weight, encoded).basis.numpy().tobytes() == encoded.parts["basis"].tobytes()
    paper = LqNets(start="paper").surrogate(weight, encoded).basis
    base = 0.6745 * (2 / (3 * 3 * 8)) ** 0.5 / 4
    torch.testing.assert_close(paper, (base * torch.tensor([1.0, 2.0, 4.0])).expand(8, 3))
    transposed = View((4, 8, 3, 3), permutation=(1, 0, 2, 3))
    other = Basis(bits=3).encode(weight.reshape(4, 8, 3, 3).numpy(), view=transposed)
    turned = LqNets(start="paper").surrogate(weight.reshape(4, 8, 3, 3), other)
    assert torch.equal(turned.basis, paper)
    grid = Affine.of(0.0, 2.0, bits=3)
    step = grid.scale
    assert LqNets().range(grid).freeze() == BinaryCoded((step, 2 * step, 4 * step))
    follows = LqNets(start="paper").range(grid).basis
    torch.testing.assert_close(follows, 0.6745 * 2 / 7 * torch.tensor([1.0, 2.0, 4.0]))


def test_gradients():
    weight, upstream = tensor((6, 10), 3), tensor((6, 10), 4)
    surrogate = LqNets().surrogate(weight, Basis(bits=2).encode(weight.numpy()))
    surrogate().backward(upstream)
    assert torch.equal(surrogate.weight.grad, upstream)
    assert [group.parameters for group in surrogate.groups()] == [[surrogate.weight]]
    learned = LqNets().range(Affine.of(0.0, 1.0, bits=2))
    x = tensor((3, 50), 1).requires_grad_(True)
    learned(x).backward(tensor((3, 50), 2))
    top = float(learned.basis.sum())
    leaf = (
        x.detach().double().requires_grad_(True)
    )  # by autograd in float64: the clip from above, straight through
    clipped = leaf.clamp(max=top)
    rounded = torch.from_numpy(learned.freeze().dequantize(learned.freeze().quantize(x.detach().numpy())))
    (clipped + (rounded.double() - clipped).detach()).backward(tensor((3, 50), 2).double())
    assert torch.equal(x.grad.double(), leaf.grad)
    assert (x.grad[x > top] == 0).all() and (x.grad[x < 0] != 0).all()
    assert not learned.parameters()


def test_the_step_ends_in_qem_of_fixed_weights():
    """With weights that stay, the moving average is QEM: the error falls to that of the fitted basis."""
    weight = tensor((4, 300), 0)
    encoded = Basis(bits=2).encode(weight.numpy())
    surrogate = LqNets(start="paper").surrogate(weight, encoded)
    errors = []
    for step in range(200):
        errors.append(float((surrogate().detach() - weight).square().sum()))
        surrogate.after_step(step)
    fitted = float(np.square(encoded.decode() - weight.numpy()).sum())
    assert errors[-1] <= 1.02 * fitted and errors[0] > 1.5 * fitted
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(errors))


def test_codes_that_never_occur_leave_a_basis_finite():
    surrogate = LqNets().surrogate(torch.zeros(2, 3), Basis(bits=3).encode(np.zeros((2, 3), np.float32)))
    surrogate()
    surrogate.after_step(1)
    assert surrogate.basis.isfinite().all()
    learned = LqNets().range(Affine.of(0.0, 1.0, bits=3))
    learned(torch.full((2, 3), 1e-3))
    learned.after_step(1)
    assert learned.basis.isfinite().all() and learned.freeze().range[1] > 0


def test_state_is_taken_over():
    weight = tensor((4, 6), 0)
    entry = Basis(bits=2).encode(weight.numpy())
    one, other = (LqNets().surrogate(weight, entry) for _ in range(2))
    ranges = [LqNets().range(Affine.of(0.0, 1.0, bits=2)) for _ in range(2)]
    x = tensor((5, 9), 3).relu()
    one(), ranges[0](x)
    with torch.no_grad():
        one.weight.mul_(1.7)
    one.after_step(1), ranges[0].after_step(1)
    assert set(one.state()) == {"weight", "basis"} and set(ranges[0].state()) == {"basis"}
    other.load(one.state()), ranges[1].load(ranges[0].state())
    assert torch.equal(one(), other()) and torch.equal(ranges[0](x), ranges[1](x))
    for part in (one, other, *ranges):
        part.after_step(2)
    assert torch.equal(one.basis, other.basis) and torch.equal(ranges[0].basis, ranges[1].basis)


def test_other_activations_and_formats_stay():
    for quantizer in (
        Affine.of(-2.0, 5.0, bits=2), Affine.of(0.0, 5.0), FloatingPoint.of(0, 1, "float8_e4m3fn")
    ):  # fmt: skip
        assert LqNets().range(quantizer) is None
    with pytest.raises(ConfigError, match="lq_nets cannot train log2"):
        Finetune(format=Log2(), method=LqNets())
    weight = tensor((4, 6), 0)
    entry = Int(bits=8).encode(weight.numpy())
    assert LqNets().surrogate(weight, entry).freeze().decode().tobytes() == entry.decode().tobytes()


@pytest.mark.parametrize("low", [-1, 0])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_levels_in_one_pass_are_those_one_by_one(bits, low):
    rng = np.random.default_rng(bits)
    x, basis = rng.normal(size=(5, 67)).astype(np.float32), rng.normal(size=(5, bits)).astype(np.float32)
    lengths = np.array([67, 64, 1, 0, 33])
    rounded, mass, moment = at_levels(x, basis, lengths, low)
    found = levels(basis, low)
    for unit, length in enumerate(lengths):
        some, given = x[unit, :length], rounded[unit, :length]
        nearest = np.abs(some[:, None].astype(float) - found[unit]).min(axis=1)
        np.testing.assert_array_equal(np.abs(some.astype(float) - given), nearest)
        assert mass[unit].sum() == length and np.isclose(moment[unit].sum(), some.sum(dtype=float))
        for code in np.flatnonzero(mass[unit]):
            of_it = some[given == found[unit, code]]
            assert mass[unit, code] == len(of_it) and np.isclose(moment[unit, code], of_it.sum(dtype=float))
