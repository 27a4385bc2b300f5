"""PACT: the grid, the gradients of the bound against the formula, its penalty, and how weights train beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import Affine, FloatingPoint
from featherweight.errors import ConfigError
from featherweight.formats import Basis, Clustered, Int
from featherweight.simulation import fake_quantize
from featherweight.techniques import Finetune
from featherweight.training.methods import Pact
from featherweight.training.methods.dorefa import TanhWeight
from featherweight.training.methods.latent import Rounded


def tensor(shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.sampled_from(["calibrated", 0.7, 10.0]),
    st.integers(0, 99),
)
def test_an_activation_is_rounded_as_its_quantizer_rounds(bits, signed, start, seed):
    quantizer = Affine.of(0.0, 1.5, bits=bits, signed=signed)
    learned = Pact(start=start).range(quantizer)
    top = quantizer.range[1] if start == "calibrated" else start
    assert learned.freeze().range == pytest.approx((0.0, top), rel=1e-6)
    assert learned.freeze().zero_point == quantizer.grid[0]
    x = tensor((5, 40), seed, top).sort().values
    rounded, frozen = learned(x).detach(), learned.freeze()
    assert torch.equal(rounded, fake_quantize(x, frozen))
    assert rounded.numpy().tobytes() == frozen.dequantize(frozen.quantize(x.numpy())).tobytes()
    assert (rounded.diff() >= 0).all() and len(rounded.unique()) <= 2**bits
    assert torch.equal(learned(rounded), rounded)


@pytest.mark.parametrize("calibrated", [False, True])
def test_gradients_are_those_of_the_papers(calibrated):
    learned = Pact(calibrated=calibrated).range(Affine.of(0.0, 1.5, bits=3))
    x, upstream = tensor((3, 50), 0, 1.5), tensor((3, 50), 1)
    x[0, :3] = torch.tensor([-1.0, 0.0, 1.5])  # the bound itself counts as clipped
    leaf = x.clone().requires_grad_(True)
    learned(leaf).backward(upstream)
    v, a = x.double().requires_grad_(True), learned.bound.detach().double().requires_grad_(True)
    y = torch.where(v < a, v, a).clamp(min=0)  # equation 1
    if calibrated:  # the step is the bound's too
        value = (y * 7 / a + ((y * 7 / a).round() - y * 7 / a).detach()) * a / 7
    else:
        step = a.detach() / 7
        value = y + ((y / step).round() * step - y).detach()
    value.backward(upstream.double())
    torch.testing.assert_close(leaf.grad.double(), v.grad, rtol=1e-6, atol=0)
    assert learned.bound.grad.item() == pytest.approx(a.grad.item(), rel=1e-5)
    if not calibrated:
        assert learned.bound.grad.item() == pytest.approx(upstream[x >= 1.5].sum().item(), rel=1e-5)


def test_the_bound_has_a_penalty_and_stays_positive():
    learned = Pact(decay=0.01, start=10.0, lr_scale=0.5).range(Affine.of(0.0, 6.0, bits=4))
    value = learned.penalty(0.3)
    value.backward()
    assert value.item() == pytest.approx(1.0) and learned.bound.grad.item() == pytest.approx(0.2)
    (group,) = learned.groups()
    assert not group.decays and group.lr_scale == 0.5
    with torch.no_grad():
        learned.bound.sub_(1e3)
        learned.after_step(1)
    assert 0 < learned.freeze().scale < 1e-2


def test_ranges_below_zero_and_floating_point_stay():
    assert Pact().range(Affine.of(-1.0, 6.0)) is None
    assert Pact().range(FloatingPoint.of(0, 1, "bfloat16")) is None


def test_weights_are_those_of_dorefa_or_integers():
    weight = tensor((4, 6), 0)
    made = Pact().surrogate(weight, Basis(bits=2, per="tensor").encode(weight.numpy()))
    assert isinstance(made, TanhWeight)
    integers = Pact().surrogate(weight, Int(bits=8).encode(weight.numpy()))
    assert isinstance(integers, Rounded)
    assert np.array_equal(integers().detach().numpy(), Int(bits=8).encode(weight.numpy()).decode())
    for format in (Clustered(), Basis(bits=2)):
        with pytest.raises(ConfigError, match="pact cannot train"):
            Finetune(format=format, method=Pact())
