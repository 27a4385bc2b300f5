"""Folding: the arithmetic against the layers themselves, the structure, and what cannot be folded."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Tiny
from torch import nn

from featherweight.formats import Clustered
from featherweight.model import Model
from featherweight.structure import LayerSpec, spec_of
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Fold
from featherweight.techniques.fold import folded

LAYERS = [
    (lambda b: nn.Linear(6, 8, bias=b), (3, 6), nn.BatchNorm1d),
    (lambda b: nn.Conv1d(6, 8, 3, bias=b, padding=1), (3, 6, 7), nn.BatchNorm1d),
    (lambda b: nn.Conv2d(6, 8, 3, bias=b, groups=2, padding="same"), (3, 6, 7, 7), nn.BatchNorm2d),
    (
        lambda b: nn.Conv2d(6, 8, (1, 3), bias=b, stride=2, padding=(0, 2), padding_mode="reflect"),
        (3, 6, 7, 7),
        nn.BatchNorm2d,
    ),
    (lambda b: nn.ConvTranspose2d(6, 8, 3, bias=b, stride=2, output_padding=1), (3, 6, 5, 5), nn.BatchNorm2d),
    (lambda b: nn.ConvTranspose2d(6, 8, 2, bias=b, groups=2), (3, 6, 5, 5), nn.BatchNorm2d),
    (lambda b: nn.Conv3d(6, 8, 2, bias=b), (2, 6, 4, 4, 4), nn.BatchNorm3d),
]


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(values.abs() + 0.1 if "var" in name else values)
    return module.eval()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LAYERS), st.booleans(), st.booleans(), st.integers(0, 99))
def test_arithmetic_and_rebuilt_layer(layer, bias, affine, seed):
    make, shape, norm_kind = layer
    conv, norm = randomised(make(bias), seed), randomised(norm_kind(8, affine=affine), seed + 1)
    groups = conv.groups if getattr(conv, "transposed", False) else 0
    weight, shift = folded(
        conv.weight,
        conv.bias,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        transposed_groups=groups,
    )
    rebuilt = spec_of(conv, bias=True).build()
    rebuilt.load_state_dict({"weight": weight, "bias": shift})
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    expected = norm(conv(x)).detach()
    torch.testing.assert_close(rebuilt(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@dataclass(frozen=True)
class Given(Tiny):
    """A task around one network and one input shape."""

    network: nn.Module = None
    shape: tuple[int, ...] = (2, 3, 8, 8)

    def model(self):
        return self.network

    def example(self):
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


def fold(module, shape=(2, 3, 8, 8)):
    model = Model.of(randomised(module))
    task = Given(network=module, shape=shape)
    after = Fold().apply(model, Restricted(task, "none"), Context())
    x = task.example()
    expected = model.module(x).detach()
    torch.testing.assert_close(after.module(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return after


class Block(nn.Module):
    """A residual block with a norm that can be folded, one behind an addition, one behind two readers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.sum = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.norm1(self.conv1(x))
        z = self.conv2(torch.relu(y))
        return self.sum(self.norm2(z) + z)


def test_a_residual_block():
    after = fold(Block())
    assert after.structure["norm1"] == LayerSpec("Identity")
    assert after.structure["conv1"].arguments["bias"] is True
    assert set(after.structure) == {"norm1", "conv1"}
    notes = {note.name: note.reason for note in after.notes}
    assert set(notes) == {"norm2", "sum"} and all(note.kind == "skipped" for note in after.notes)
    assert "also used elsewhere" in notes["norm2"] and "follows add" in notes["sum"]
    assert not any("norm1" in name for name in after.tensors)


class NormAct(nn.BatchNorm2d):
    """Batch norm and an activation in one module, as timm's `BatchNormAct2d`."""

    def __init__(self, act, scale=1.0):
        super().__init__(4)
        self.act, self.scale = act, scale

    def forward(self, x):
        found = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return self.act(found) * self.scale if self.scale != 1 else self.act(found)


@pytest.mark.parametrize("act", [
    nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU(), nn.GELU("tanh"), nn.LeakyReLU(0.3), nn.Hardswish(),
    nn.Sigmoid(), nn.Identity(), torch.relu,
])  # fmt: skip
def test_a_norm_with_an_activation_leaves_the_activation(act):
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), NormAct(act)))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    after = fold(module)
    assert set(after.structure) == {"0", "1"}
    torch.testing.assert_close(after.module(x), module.eval()(x), rtol=1e-5, atol=1e-5)
    assert not any(name.startswith("1.") for name in after.tensors)


def test_a_norm_that_does_more_stays():
    after = fold(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(nn.ReLU(), scale=2.0)))
    assert after.structure == {} and "more than a batch norm and an activation" in after.notes[0].reason


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_does_more_is_kept_or_left(bias):
    after = fold(nn.Sequential(Scaled(3, 4, 3, bias=bias), nn.BatchNorm2d(4)))
    assert set(after.structure) == ({"1"} if bias else set())


def test_encoded_tensors_in_the_way_are_thawed():
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)))
    task = Given(network=module)
    model = Encode(where=["weights", "1.weight"], format=Clustered(bits=3)).apply(
        Model.of(module), task, Context()
    )
    after = Fold().apply(model, task, Context())
    assert set(after.weights) == {"2.weight"}
    assert {note.name for note in after.notes if note.kind == "thawed"} == {"0.weight", "1.weight"}


def test_nothing_to_fold():
    (note,) = fold(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).notes
    assert note.reason == "nothing to fold: the network computes none"


class Looks(nn.Module):
    """What a trace cannot show: its code looks at the class of a layer."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.b, self.other = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.a(x))
        x = 2 * x if isinstance(self.norm, nn.BatchNorm2d) else x
        return self.other(self.b(x)).flatten(1)


def test_what_would_not_compute_the_same_stays_with_a_note():
    model = Model.of(randomised(Looks()))
    task = Given(network=model.module, shape=(2, 1, 8, 8))
    after = Fold().apply(model, task, Context())
    assert isinstance(after.module.norm, nn.BatchNorm2d) and isinstance(after.module.other, nn.Identity)
    (note,) = after.notes
    assert note.name == "norm" and "does not compute the same" in note.reason
    x = task.example()
    expected = model.module(x).detach()
    torch.testing.assert_close(after.module(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


class Noisy(nn.Module):
    """A network that draws random numbers in eval mode too."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.a(x))
        return x + torch.randn_like(x)


def test_a_network_that_draws_random_numbers_is_folded():
    network = randomised(Noisy())
    state = torch.get_rng_state()
    after = Fold().apply(Model.of(network), Given(network=network, shape=(2, 1, 8, 8)), Context())
    assert isinstance(after.module.norm, nn.Identity) and after.notes == ()
    assert torch.equal(torch.get_rng_state(), state)
