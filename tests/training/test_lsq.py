"""LSQ: the grids, the gradients against the papers' formulas and against autograd, and what training leaves."""

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
from featherweight.training.methods import Lsq
from featherweight.training.methods.on_grid import LEAST

FORMATS = st.builds(
    Int,
    bits=st.sampled_from([2, 3, 4, 8, 16]),
    scheme=st.sampled_from(["symmetric", "affine"]),
    per=st.sampled_from(["tensor", "channel", 4]),
)
QUANTIZERS = st.builds(
    lambda low, high, bits, signed: Affine.of(low, high, bits=bits, signed=signed),
    low=st.sampled_from([0.0, -0.3, -4.0]), high=st.sampled_from([0.2, 1.0, 5.0]),
    bits=st.sampled_from([2, 3, 4, 8, 16]), signed=st.booleans(),
)  # fmt: skip


def tensor(shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def units_of(encoded):
    """Which step each weight has, written down by hand."""
    view, per = encoded.view, encoded.format.per
    rows, cols = np.indices((view.rows, view.cols))
    if per == "tensor":
        found = rows * 0
    elif per == "channel":
        found = rows
    else:
        found = rows * -(-view.cols // per) + cols // per
    return torch.from_numpy(view.tensor(found))


@settings(max_examples=60, deadline=None)
@given(FORMATS, st.integers(0, 99), st.booleans(), st.sampled_from(["paper", "encoded"]))
def test_a_weight_is_what_the_format_decodes_to_and_imports_bit_for_bit(format, seed, narrow, start):
    weight = tensor((6, 3, 3, 2), seed)
    surrogate = Lsq(narrow=narrow, start=start).surrogate(weight, format.encode(weight.numpy()))
    with torch.no_grad():
        surrogate.step.mul_(0.8)
        surrogate.weight.add_(tensor(weight.shape, seed + 1))
    given = surrogate().detach().numpy()
    frozen = surrogate.freeze()
    assert frozen.decode().tobytes() == given.tobytes()
    again = Encoded(format, frozen.coder, frozen.view, frozen.symbols, frozen.parts)
    assert again.decode().tobytes() == given.tobytes()
    assert (
        format.encode(given, parts=frozen.parts).symbols.tobytes() == frozen.symbols.tobytes()
    )  # idempotent
    for unit in range(len(surrogate.step)):
        assert len(np.unique(given[units_of(frozen).numpy() == unit])) <= 2**format.bits - narrow
    assert torch.equal(weight, tensor((6, 3, 3, 2), seed))


@settings(max_examples=60, deadline=None)
@given(QUANTIZERS, st.integers(0, 99), st.booleans())
def test_an_activation_is_rounded_as_its_quantizer_rounds(quantizer, seed, offsets):
    learned = Lsq(offsets=offsets).range(quantizer)
    assert learned.freeze() == quantizer
    with torch.no_grad():
        learned.step.mul_(1.3)
        if learned.offset is not None:
            learned.offset.mul_(0.7)
        learned.after_step(1)
    x = tensor((5, 40), seed, 2.0).sort().values
    rounded, frozen = learned(x).detach(), learned.freeze()
    assert torch.equal(rounded, fake_quantize(x, frozen))
    assert rounded.numpy().tobytes() == frozen.dequantize(frozen.quantize(x.numpy())).tobytes()
    assert (rounded.diff() >= 0).all() and len(rounded.unique()) <= 2**quantizer.bits
    assert torch.equal(learned(rounded), rounded)
    assert frozen.quantize(np.zeros(1, np.float32))[0] == frozen.zero_point
    moved = not offsets or quantizer.zero_point == quantizer.grid[0]
    assert (frozen.zero_point == quantizer.zero_point) or not moved


def oracle(v, s, least, most):
    """Equation 1 in float64, its rounding straight through: autograd gives equations 3 and 5."""
    clipped = torch.minimum(torch.maximum(v / s, least), most)
    return (clipped + (clipped.round() - clipped).detach()) * s


@pytest.mark.parametrize("per", ["tensor", "channel", 4])
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_of_a_weight_and_its_steps(per, scaled):
    weight, upstream = tensor((6, 10), 3), tensor((6, 10), 4)
    encoded = Int(bits=3, per=per).encode(weight.numpy())
    surrogate = Lsq(scaled=scaled).surrogate(weight, encoded)
    surrogate().backward(upstream)
    v, s = weight.double().requires_grad_(True), surrogate.step.detach().double().requires_grad_(True)
    units = units_of(encoded)
    value = oracle(v, s[units], torch.tensor(-4.0).double(), torch.tensor(3.0).double())
    value.backward(upstream.double())
    count = units.flatten().bincount().double()
    gain = 1 / (count * 3).sqrt() if scaled else 1.0
    torch.testing.assert_close(surrogate.weight.grad.double(), v.grad, rtol=1e-6, atol=0)
    torch.testing.assert_close(surrogate.step.grad.double(), s.grad * gain, rtol=1e-5, atol=1e-6)
    total = torch.zeros(len(count)).double().index_add_(0, units.flatten(), weight.double().abs().flatten())
    torch.testing.assert_close(s.detach(), 2 * total / count / 3**0.5, rtol=1e-6, atol=0)  # section 2.1


def test_gradients_of_an_offset():
    """LSQ+: `round(clip((x - b) / s, 0, 15)) s + b`, with an offset of whole steps, by autograd in float64."""
    learned = Lsq().range(Affine.of(-2.0, 4.0, bits=4))
    x, upstream = tensor((3, 50), 0, 3.0), tensor((3, 50), 1)
    leaf = x.clone().requires_grad_(True)
    learned(leaf).backward(upstream)
    v, s = x.double().requires_grad_(True), learned.step.detach().double().requires_grad_(True)
    b = (learned.low * learned.step.detach()).double().requires_grad_(True)
    value = oracle(v - b, s, torch.tensor(0.0).double(), torch.tensor(15.0).double()) + b
    value.backward(upstream.double())
    gain = (50 * (learned.low + 15)) ** -0.5
    torch.testing.assert_close(leaf.grad.double(), v.grad, rtol=1e-6, atol=0)
    assert float(learned.step.grad) == pytest.approx(float(s.grad) * gain, rel=1e-5)
    assert float(learned.offset.grad) == pytest.approx(float(b.grad) * gain, rel=1e-5)


def test_a_range_from_zero_has_no_offset_and_floating_point_does_not_train():
    assert Lsq().range(Affine.of(0.0, 6.0, bits=4)).offset is None
    assert Lsq().range(Affine.of(0.0, 6.0, signed=True)).offset is None
    assert Lsq().range(Affine.of(-1.0, 6.0)).offset is not None
    assert Lsq(offsets=False).range(Affine.of(-1.0, 6.0)).offset is None
    assert Lsq().range(FloatingPoint.of(-1, 1, "bfloat16")) is None


def test_steps_stay_positive_without_weight_decay():
    weight = tensor((4, 6), 0)
    encoded = Int(bits=4).encode(weight.numpy())
    surrogate, learned = Lsq(lr_scale=0.5).surrogate(weight, encoded), Lsq().range(Affine.of(-1.0, 2.0))
    start = surrogate.step.detach().clone()
    with torch.no_grad():
        surrogate.step.sub_(1e3)
        learned.step.sub_(1e3)
        surrogate.after_step(1)
        learned.after_step(1)
    assert torch.equal(surrogate.step.detach(), start * LEAST)
    assert learned.step.item() == pytest.approx(Affine.of(-1.0, 2.0).scale * LEAST)
    assert learned.freeze().scale > 0
    decays = {group.parameters[0] is surrogate.weight: group.decays for group in surrogate.groups()}
    assert decays == {True: True, False: False}
    assert [group.lr_scale for group in surrogate.groups()] == [1.0, 0.5]
    assert not any(group.decays for group in learned.groups())


def test_zeros_alone_keep_the_step_of_the_format():
    encoded = Int(bits=4).encode(np.zeros((2, 3), np.float32))
    surrogate = Lsq().surrogate(torch.zeros(2, 3), encoded)
    assert surrogate.step.detach().numpy().tobytes() == encoded.parts["scale"].tobytes()
    assert not surrogate.freeze().symbols.any()


def test_a_transposed_view():
    weight = tensor((6, 4, 2, 2), 0)
    view = View((6, 4, 2, 2), permutation=(1, 0, 2, 3), groups=2)
    for per in ("tensor", "channel", 5):
        surrogate = Lsq().surrogate(weight, Int(bits=3, per=per).encode(weight.numpy(), view=view))
        assert surrogate.freeze().decode().tobytes() == surrogate().detach().numpy().tobytes()


@pytest.mark.parametrize(
    "format", [Clustered(), Float(), Int(bits=1), Int(bits=32), Int(bits=4, scale_type="float16")]
)
def test_what_has_no_steps_that_train_is_refused(format):
    with pytest.raises(ConfigError, match="lsq cannot train"):
        Finetune(format=format, method=Lsq())
