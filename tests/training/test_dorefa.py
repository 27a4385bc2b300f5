"""DoReFa-Net: the grids, the gradients against the formula by autograd, and what training leaves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import Affine, FloatingPoint
from featherweight.errors import ConfigError
from featherweight.formats import Basis, Int, Log2, View
from featherweight.formats.basis import as_integers, is_geometric
from featherweight.simulation import fake_quantize
from featherweight.techniques import Finetune
from featherweight.training.methods import Dorefa
from featherweight.training.methods.dorefa import rounded_gradient, squeezed

ENDS = st.sampled_from([1, 2, 3, 4, 8])


def tensor(shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def surrogate_of(weight, bits):
    view = View(tuple(weight.shape), groups=2)
    format = Basis(bits=bits, per="tensor")
    return Dorefa().surrogate(weight, format.encode(weight.numpy(), view=view))


def quantize(r, k):
    """As the paper writes it, with the identity as its gradient."""
    levels = 2**k - 1
    return r + ((r * levels).round() / levels - r).detach()


def paper(weight, k):
    """Equations of weights, from torch's own operators: autograd gives the gradient, through the maximum too."""
    if k == 1:
        signs = torch.where(weight >= 0, 1.0, -1.0)
        return weight + (weight.abs().mean() * signs - weight).detach()
    curved = weight.tanh()
    return 2 * quantize(curved / (2 * curved.abs().max()) + 0.5, k) - 1


@settings(max_examples=40, deadline=None)
@given(ENDS, st.integers(0, 99), st.sampled_from([1e-3, 0.1, 1.0, 20.0]))
def test_a_weight_is_what_the_paper_has_and_imports_bit_for_bit(bits, seed, scale):
    weight = tensor((6, 3, 3, 2), seed, scale)
    surrogate = surrogate_of(weight, bits)
    given = surrogate().detach()
    torch.testing.assert_close(given, paper(weight, bits), rtol=1e-6, atol=1e-7)
    frozen = surrogate.freeze()
    assert frozen.decode().tobytes() == given.numpy().tobytes()
    assert is_geometric(frozen) and frozen.format == Basis(bits=bits, per="tensor")
    integers = as_integers(frozen)
    assert integers.format == Int(bits=bits + 1, per="tensor")
    assert integers.decode().tobytes() == given.numpy().tobytes()
    again = frozen.format.encode(given.numpy(), view=frozen.view, parts=frozen.parts)
    assert again.symbols.tobytes() == frozen.symbols.tobytes()  # idempotent under its own basis
    assert len(given.unique()) <= 2**bits
    order = weight.flatten().argsort()
    assert (given.flatten()[order].diff() >= 0).all()
    assert torch.equal(weight, tensor((6, 3, 3, 2), seed, scale))
    if bits > 1:
        assert given.abs().max() == 1 and (given != 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.1, 1.0, 3.0]))
def test_gradients_are_those_of_the_formula_by_autograd(seed, scale):
    """Of `tanh W / max|tanh W|` in float64: by autograd, and as written out."""
    weight, upstream = tensor((5, 7), seed, scale).double(), tensor((5, 7), seed + 1).double()
    leaf, other = (weight.clone().requires_grad_(True) for _ in range(2))
    squeezed(leaf).backward(upstream)
    paper(other, 3).backward(upstream)
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-12, atol=1e-14)
    curved = weight.tanh()
    most = curved.abs().max()
    expected = upstream / most
    top = curved.abs().flatten().argmax()
    expected.view(-1)[top] -= curved.flatten()[top].sign() * (upstream * curved).sum() / most**2
    torch.testing.assert_close(leaf.grad, expected * (1 - curved**2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gradients_of_a_weight(bits):
    weight, upstream = tensor((6, 10), 3), tensor((6, 10), 4)
    surrogate = surrogate_of(weight, bits)
    surrogate().backward(upstream)
    leaf = weight.double().requires_grad_(True)
    paper(leaf, bits).backward(upstream.double())
    torch.testing.assert_close(surrogate.weight.grad.double(), leaf.grad, rtol=1e-5, atol=1e-6)


def test_zeros_alone_and_the_sign_of_zero():
    for bits in (1, 2):
        surrogate = surrogate_of(torch.zeros(2, 3), bits)
        value = surrogate()
        value.sum().backward()
        assert surrogate.freeze().decode().tobytes() == value.detach().numpy().tobytes()
        assert surrogate.weight.grad.isfinite().all()
    assert surrogate_of(torch.tensor([[0.0, -1.0], [2.0, -0.0]]), 1)().tolist() == [
        [0.75, -0.75],
        [0.75, 0.75],
    ]


@pytest.mark.parametrize(
    ("bits", "signed"), [(1, False), (2, False), (2, True), (4, False), (4, True), (8, False), (8, True)]
)
def test_an_activation_is_clipped_to_one_and_rounded(bits, signed):
    fixed = Dorefa().range(Affine.of(0.0, 5.0, bits=bits, signed=signed))
    quantizer = fixed.freeze()
    assert quantizer == Affine(
        float(np.float32(1 / (2**bits - 1))), -(2 ** (bits - 1)) * signed, bits, signed
    )
    x = (tensor((4, 50), bits, 0.8) + 0.3).requires_grad_(True)
    upstream = tensor((4, 50), 1)
    rounded = fixed(x)
    rounded.backward(upstream)
    leaf = x.detach().double().requires_grad_(True)
    value = quantize(leaf.clamp(0, 1), bits)
    value.backward(upstream.double())
    torch.testing.assert_close(rounded.double(), value, rtol=0, atol=1e-6)
    assert torch.equal(x.grad.double(), leaf.grad)
    assert torch.equal(rounded.detach(), fake_quantize(x.detach(), quantizer))
    assert len(rounded.unique()) <= 2**bits and torch.equal(fixed(rounded.detach()), rounded)
    ordered = fixed(x.detach().flatten().sort().values)
    assert (ordered.diff() >= 0).all()
    assert not fixed.parameters() and not fixed.state()


def test_what_can_be_negative_keeps_its_quantizer():
    assert Dorefa().range(Affine.of(-1.0, 5.0)) is None
    assert Dorefa().range(FloatingPoint.of(0, 1, "float8_e4m3fn")) is None


def test_state_is_taken_over():
    weight = tensor((4, 6), 0)
    one, other = (surrogate_of(weight, 2) for _ in range(2))
    with torch.no_grad():
        one.weight.mul_(-0.3).add_(0.1)
    other.load(one.state())
    assert torch.equal(one(), other())


def test_gradients_are_rounded_as_the_paper_has_it():
    gradient = tensor((6, 3, 5), 0) * torch.logspace(-6, 3, 6).reshape(6, 1, 1)
    gradient[2] = 0
    for bits in (1, 2, 6):
        torch.manual_seed(bits)
        rounded = rounded_gradient(gradient, bits)
        torch.manual_seed(bits)
        noise, n = torch.rand(gradient.shape) - 0.5, 2**bits - 1
        for sample, found, drawn in zip(gradient.double(), rounded, noise.double(), strict=True):
            most = sample.abs().max()
            if most == 0:
                assert not found.any()
                continue
            ratio = (sample / (2 * most) + 0.5 + drawn / n).clamp(0, 1)
            expected = 2 * most * ((ratio * n).round() / n - 0.5)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
            assert len(found.unique()) <= 2**bits


def test_rounded_gradients_have_the_gradient_as_their_mean():
    gradient = tensor((1, 40), 1)
    torch.manual_seed(0)
    draws = torch.stack([rounded_gradient(gradient, 2) for _ in range(20_000)]).double()
    step = 2 * float(gradient.abs().max()) / 3
    z = (draws.mean(0) - gradient) / (step / 2 / 20_000**0.5)
    assert z.abs().max() < 5
    assert rounded_gradient(gradient.bfloat16(), 4).dtype == torch.bfloat16
    assert rounded_gradient(torch.zeros(0, 3), 4).shape == (0, 3)


def test_integers_train_straight_through():
    weight = tensor((4, 6), 0)
    entry = Int(bits=8).encode(weight.numpy())
    surrogate = Dorefa().surrogate(weight, entry)
    assert surrogate().detach().numpy().tobytes() == entry.decode().tobytes()
    assert surrogate.freeze().format == Int(bits=8)


@pytest.mark.parametrize(("format", "reason"), [(Log2(), "basis, or integers"), (Basis(), 'per = "tensor"')])
def test_other_formats_are_refused(format, reason):
    with pytest.raises(ConfigError, match=f"dorefa cannot train .*{reason}"):
        Finetune(format=format, method=Dorefa())
