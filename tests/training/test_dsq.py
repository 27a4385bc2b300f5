"""DSQ: the grids, the gradients against the soft staircase by autograd in float64, and what training leaves."""

from math import log, tanh

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import Affine, FloatingPoint
from featherweight.errors import ConfigError
from featherweight.formats import Clustered, Encoded, Float, Int, View
from featherweight.simulation import fake_quantize
from featherweight.techniques import Finetune
from featherweight.training.grids import Grid
from featherweight.training.methods import Dsq
from featherweight.training.methods.base import Method
from featherweight.training.methods.dsq import Curve
from featherweight.training.methods.oscillations import Oscillations

FORMATS = st.builds(
    Int,
    bits=st.sampled_from([2, 3, 4, 8, 16]),
    scheme=st.sampled_from(["symmetric", "affine"]),
    per=st.sampled_from(["tensor", "channel", 4]),
)
QUANTIZERS = st.builds(
    lambda low, high, bits, signed: Affine.of(low, high, bits=bits, signed=signed),
    low=st.sampled_from([0.0, -0.3, -4.0]), high=st.sampled_from([0.0, 0.2, 1.0, 5.0]),
    bits=st.sampled_from([2, 3, 4, 8, 16]), signed=st.booleans(),
)  # fmt: skip


def tensor(shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def staircase(x, lower, upper, alpha, intervals, whole):
    """The paper's section 3.2 in float64, the sign straight through; `whole` moves the ends to steps from zero."""
    delta = (upper - lower) / intervals
    k, s = torch.log(2 / alpha - 1) / delta, 1 / (1 - alpha)
    low = lower + ((lower / delta).round() * delta - lower).detach() if whole else lower
    high = upper + (low + intervals * delta - upper).detach() if whole else upper
    delta = (high - low) / intervals
    clipped = torch.minimum(torch.maximum(x, low), high)
    i = ((clipped - low) / delta).detach().floor().clamp(0, intervals - 1)
    soft = s * torch.tanh(k * (clipped - (low + (i + 0.5) * delta)))
    hard = soft + (torch.where(soft > 0, 1.0, -1.0).double() - soft).detach()
    return low + delta * (i + (hard + 1) / 2)


def test_the_curve_is_that_of_the_paper():
    for alpha in (0.01, 0.2, 0.5):
        curve = Curve(alpha)
        assert curve.scale * tanh(curve.sharpness / 2) == pytest.approx(1, rel=1e-12)  # it meets the levels
        assert 1 - tanh(curve.sharpness / 2) == pytest.approx(alpha, rel=1e-12)
        assert curve.sharpness == pytest.approx(log(2 / alpha - 1))
        x = np.linspace(0, 1, 10001, dtype=np.float32)[None]
        passed, _ = curve.passed(Grid.single(1.0, 0, 1, (True, True)), x, np.ones_like(x))
        assert np.trapezoid(passed[0], x[0]) == pytest.approx(1, rel=1e-4)  # the integral over an interval
        assert abs(passed.argmax() - 5000) < 20


@settings(max_examples=50, deadline=None)
@given(FORMATS, st.integers(0, 99), st.floats(0.01, 0.5))
def test_a_weight_is_what_the_format_decodes_to_and_imports_bit_for_bit(format, seed, alpha):
    weight = tensor((6, 3, 3, 2), seed)
    surrogate = Dsq(alpha=alpha).surrogate(weight, format.encode(weight.numpy()))
    with torch.no_grad():
        surrogate.weight.add_(tensor(weight.shape, seed + 1))
        for end in surrogate.learned():
            end.mul_(0.8 + 0.3 * torch.rand(end.shape, generator=torch.Generator().manual_seed(seed)))
        surrogate.after_step(1)
    given = surrogate().detach().numpy()
    frozen = surrogate.freeze()
    assert frozen.decode().tobytes() == given.tobytes()
    again = Encoded(format, frozen.coder, frozen.view, frozen.symbols, frozen.parts)
    assert again.decode().tobytes() == given.tobytes()
    assert (
        format.encode(given, parts=frozen.parts).symbols.tobytes() == frozen.symbols.tobytes()
    )  # idempotent
    assert (
        max(len(np.unique(row)) for row in surrogate.units(surrogate())) <= 2**format.bits + 1
    )  # zeros fill up
    assert torch.equal(weight, tensor((6, 3, 3, 2), seed))


@settings(max_examples=60, deadline=None)
@given(QUANTIZERS, st.integers(0, 99), st.floats(0.5, 1.5))
def test_an_activation_is_rounded_as_its_quantizer_rounds(quantizer, seed, factor):
    learned = Dsq().range(quantizer)
    assert learned.freeze().zero_point == quantizer.zero_point
    assert learned.freeze().scale == pytest.approx(quantizer.scale, rel=1e-5)
    with torch.no_grad():
        learned.upper.mul_(factor)
        if learned.lower is not None:
            learned.lower.mul_(2 - factor)
        learned.after_step(1)
    x = tensor((5, 40), seed, 2.0).sort().values
    rounded, frozen = learned(x).detach(), learned.freeze()
    assert torch.equal(rounded, fake_quantize(x, frozen))
    assert rounded.numpy().tobytes() == frozen.dequantize(frozen.quantize(x.numpy())).tobytes()
    assert (rounded.diff() >= 0).all() and len(rounded.unique()) <= 2**quantizer.bits
    assert torch.equal(learned(rounded), rounded)
    assert frozen.quantize(np.zeros(1, np.float32))[0] == frozen.zero_point
    assert learned.lower is not None or frozen.zero_point == quantizer.grid[0]


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("ends", [(0.0, 3.0), (-2.0, 1.7)])
def test_gradients_of_an_activation_are_those_of_the_staircase_by_autograd(ends, alpha):
    learned = Dsq(alpha=alpha).range(Affine.of(*ends, bits=3))
    x, upstream = tensor((3, 50), 0, 3.0), tensor((3, 50), 1)
    leaf = x.clone().requires_grad_(True)
    value = learned(leaf)
    value.backward(upstream)
    v = x.double().requires_grad_(True)
    lower = torch.tensor(0.0) if learned.lower is None else learned.lower.detach()
    low, u, a = (
        part.detach().double().requires_grad_(True) for part in (lower, learned.upper, learned.alpha)
    )
    expected = staircase(v, low, u, a, 7, whole=True)
    expected.backward(upstream.double())
    torch.testing.assert_close(value.detach().double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(leaf.grad.double(), v.grad, rtol=1e-3, atol=1e-4)
    assert learned.upper.grad.item() == pytest.approx(u.grad.item(), rel=1e-3, abs=1e-4)
    assert learned.alpha.grad.item() == pytest.approx(a.grad.item(), rel=2e-3, abs=1e-4)
    assert learned.lower is None or learned.lower.grad.item() == pytest.approx(
        low.grad.item(), rel=1e-3, abs=1e-4
    )


@pytest.mark.parametrize("per", ["channel", "tensor", 5])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_gradients_of_a_weight_are_those_of_the_staircase_by_autograd(scheme, per):
    weight, upstream = tensor((6, 12), 3), tensor((6, 12), 4)
    format = Int(bits=3, per=per, scheme=scheme, scale_by="mse")
    surrogate = Dsq().surrogate(weight, format.encode(weight.numpy()))
    np.testing.assert_allclose(surrogate.grid().step, surrogate.scale, rtol=1e-6)
    surrogate().backward(upstream)
    count = len(surrogate.upper)
    unit = surrogate.tensor(np.broadcast_to(np.arange(count)[:, None], surrogate.units(weight).shape))
    w = weight.double().requires_grad_(True)
    u, a = (p.detach().double().requires_grad_(True) for p in (surrogate.upper, surrogate.alpha))
    if scheme == "affine":
        low = surrogate.lower.detach().double().requires_grad_(True)
        value = staircase(w, low[unit], u[unit], a, 7, whole=True)
    else:
        value = staircase(w, -4 / 3 * u[unit], u[unit], a, 7, whole=False)
    value.backward(upstream.double())
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(surrogate.weight.grad.double(), w.grad, **close)
    torch.testing.assert_close(surrogate.upper.grad.double(), u.grad, **close)
    torch.testing.assert_close(surrogate.alpha.grad.double(), a.grad, **close)
    if scheme == "affine":
        torch.testing.assert_close(surrogate.lower.grad.double(), low.grad, **close)


def test_gradients_of_levels_and_of_what_lies_outside():
    learned = Dsq().range(Affine.of(0.0, 3.0, bits=2))
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0, 4.0], requires_grad=True)
    learned(x).backward(torch.ones(6))
    curve = Curve(0.2)
    middle = curve.scale * curve.sharpness / 2
    level = middle * (1 - tanh(curve.sharpness / 2) ** 2)
    assert x.grad.tolist() == pytest.approx([0, level, middle, level, level, 0], rel=1e-4)


def test_softness_stays_in_bounds_and_may_stay_as_it_is():
    for options, expected in (({}, [0.01, 0.5]), ({"learns_alpha": False}, [0.2, 0.2])):
        weight = tensor((4, 6), 0)
        parts = (
            Dsq(**options).surrogate(weight, Int(bits=4).encode(weight.numpy())),
            Dsq(**options).range(Affine.of(-1, 2)),
        )
        for part, x in zip(parts, ([], [tensor((3, 4), 1)]), strict=True):
            found = []
            for gradient in (1e3, -1e3):
                part(*x).sum().backward()
                if part.alpha.grad is not None:
                    part.alpha.grad.fill_(gradient)
                torch.optim.SGD(part.parameters(), lr=1.0).step()
                with torch.no_grad():
                    part.after_step(1)
                found.append(part.alpha.item())
            assert found == pytest.approx(expected)


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_steps_stay_positive_and_zero_in_the_range(scheme):
    weight = tensor((4, 6), 0)
    surrogate = Dsq().surrogate(weight, Int(bits=4, scheme=scheme).encode(weight.numpy()))
    learned = Dsq().range(Affine.of(-1.0, 2.0))
    for move in (-1e3, 1e3):
        for part in (surrogate, learned):
            with torch.no_grad():
                for end in part.learned():
                    end.add_(move)
                part.after_step(1)
        assert (surrogate.grid().step > 0).all() and learned.freeze().scale > 0
        assert surrogate.freeze().decode().tobytes() == surrogate().detach().numpy().tobytes()
    assert not any(group.decays for part in (surrogate, learned) for group in part.groups()[-1:])


def test_narrow_weights_do_without_the_lowest_integer():
    weight = tensor((4, 60), 0, 3.0)
    encoded = Int(bits=3).encode(weight.numpy())
    surrogate = Dsq(narrow=True).surrogate(weight, encoded)
    with torch.no_grad():
        surrogate.upper.mul_(0.3)
    steps = surrogate.units(surrogate()) / surrogate.grid().step[:, None]
    assert steps.min() == pytest.approx(-3) and steps.max() == pytest.approx(3)
    assert Dsq(narrow=True).misfit(Int(scheme="affine")) and not Dsq(narrow=True).misfit(Int())


def test_a_transposed_view_and_oscillations():
    weight = tensor((6, 4, 2, 2), 0)
    view = View((6, 4, 2, 2), permutation=(1, 0, 2, 3), groups=2)
    for per in ("tensor", "channel", 5):
        encoded = Int(bits=3, per=per, scheme="affine").encode(weight.numpy(), view=view)
        surrogate = Dsq(oscillations=Oscillations()).surrogate(weight, encoded)
        surrogate.tracker.frozen[:, 0], surrogate.tracker.integers[:, 0] = (
            True,
            -9.0,
        )  # beyond any grid: its end
        assert surrogate.freeze().decode().tobytes() == surrogate().detach().numpy().tobytes()


def test_what_has_no_steps_that_train_is_refused():
    for format in (Clustered(), Float(), Int(bits=1), Int(bits=32), Int(bits=4, scale_type="float16")):
        with pytest.raises(ConfigError, match="dsq cannot train"):
            Finetune(format=format, method=Dsq())
    with pytest.raises(ConfigError, match=r"dsq\.alpha"):
        Dsq(alpha=0.6)
    assert Dsq().range(FloatingPoint.of(-1, 1, "bfloat16")) is None
    assert isinstance(Dsq(), Method)
