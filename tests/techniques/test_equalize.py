"""Equalisation: ranges become equal, the function stays; what cannot be scaled says why."""

from itertools import pairwise

import pytest
import torch
from tiny import Tiny
from torch import nn

from featherweight.formats import Int
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Equalize, Fold


class Of(Tiny):
    """Tiny, with another network whose channels have ranges of all sizes."""

    def __init__(self, *layers, shape=(1, 8, 8)):
        super().__init__(size=32)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "shape", shape)

    def model(self):
        network = nn.Sequential(*self.layers).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                rows = torch.rand((len(parameter), *[1] * (parameter.dim() - 1)), generator=generator)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 10 ** (3 * rows - 2))
        return network

    def example(self):
        return torch.randn((2, *self.shape), generator=torch.Generator().manual_seed(1))


def equalized(task, *before):
    model = Model.of(task.model())
    for step in (*before, Equalize()):
        model = step.apply(model, Restricted(task, step.needs), Context())
    return model


CHAINS = {
    "convolutions": ([nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)], ("0", "2")),
    "pooled": (
        [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ZeroPad2d(1), nn.Conv2d(6, 4, 3)],
        ("0", "4"),
    ),
    "depthwise": (
        [nn.Conv2d(1, 6, 3), nn.LeakyReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.PReLU(6), nn.Conv2d(6, 4, 1)],
        ("0", "2", "4"),
    ),
    "grouped": ([nn.Conv2d(1, 6, 1, bias=False), nn.Conv2d(6, 4, 3, groups=2)], ("0", "1")),
    "flattened": ([nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)], ("0", "3")),
    "averaged": (
        [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)],
        ("0", "4"),
    ),
    "linear": ([nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3)], ("1", "3")),
    "sequences": ([nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)], ("0", "2")),
}


def ranges(model, first, second, groups):
    one, two = (model.tensors[f"{path}.weight"].detach() for path in (first, second))
    blocks = two.reshape(groups, len(two) // groups, len(one) // groups, -1)
    return one.flatten(1).abs().amax(1), blocks.abs().amax((1, 3)).flatten()


@pytest.mark.parametrize("name", CHAINS)
def test_equal_ranges_and_the_same_function(name):
    layers, paths = CHAINS[name]
    task = Of(*layers)
    before, after = Model.of(task.model()), equalized(task)
    x = task.example()
    with torch.no_grad():
        expected, got = before.module(x), after.module(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    for first, second in pairwise(paths):
        groups = getattr(after.module.get_submodule(second), "groups", 1)
        torch.testing.assert_close(*ranges(after, first, second, groups), rtol=2e-2, atol=0)
    assert {note.name for note in after.notes} == {f"{paths[-1]}.weight"}
    assert all(note.kind == "skipped" for note in after.notes)


REFUSED = {
    "relu6": ([nn.Conv2d(1, 6, 3), nn.ReLU6(), nn.Conv2d(6, 4, 3)], "hardtanh clips at a fixed value"),
    "sigmoid": ([nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3)], "sigmoid does not scale"),
    "norm": ([nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)], "fold it first"),
    "other axis": ([nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Linear(6, 4)], "from another axis"),
    "mixed": ([nn.Conv2d(1, 6, 3), nn.Flatten(1, 2), nn.Linear(6, 4)], "mixes its channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_what_stays_and_why(name):
    layers, reason = REFUSED[name]
    task = Of(*layers)
    after = equalized(task)
    notes = {note.name: note.reason for note in after.notes}
    assert reason in notes["0.weight"]
    assert after.hash == Model.of(task.model()).hash


def test_residual_connections_stay():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y) + y

    notes = {note.name: note.reason for note in equalized(Of(Residual())).notes}
    assert "more than one place" in notes["0.a.weight"] and "add does not" in notes["0.b.weight"]


def test_after_folding_and_against_one_scale_a_tensor():
    task = Of(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    float_model = Model.of(task.model())
    encode = Encode(format=Int(bits=6, per="tensor"))
    with torch.no_grad():
        expected = float_model.module(task.example())
        errors = [
            float((encode.apply(model, task, Context()).module(task.example()) - expected).square().mean())
            for model in (float_model, equalized(task, Fold()))
        ]
    assert errors[1] < 0.5 * errors[0]


def test_encoded_tensors_are_thawed():
    task = Of(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    after = equalized(task, Encode(where="0.weight"))
    assert not after.weights
    assert ("thawed", "0.weight") in {(note.kind, note.name) for note in after.notes}


def test_a_transposed_convolution_is_noted():
    class Up(Tiny):
        def model(self):
            return nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten()
            ).eval()

    model = Equalize().apply(Model.of(Up().model()), Up(), Context())
    assert "transposed" in {note.name: note.reason for note in model.notes}["2.weight"]


class Clips(nn.Module):
    """A clip that a trace shows as no operator: the code looks at the weights."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.greatest = float(self.a.weight.detach().abs().max())

    def forward(self, x):
        x = torch.relu(self.a(x.flatten(1)))
        if torch.compiler.is_exporting() or float(self.a.weight.detach().abs().max()) == self.greatest:
            return self.c(torch.relu(self.b(x)))
        return self.c(torch.relu(self.b(2 * x)))


def test_pairs_that_would_not_compute_the_same_stay_with_a_note():
    task = Of(nn.Identity())
    model = Model.of(Clips().eval())
    after = Equalize().apply(model, task, Context())
    notes = {note.name: note.reason for note in after.notes}
    assert "does not compute the same" in notes["a.weight"] and "b.weight" not in notes
    assert torch.equal(after.tensors["a.weight"], model.tensors["a.weight"])
    assert not torch.equal(after.tensors["b.weight"], model.tensors["b.weight"])
    x = task.example()
    assert torch.allclose(after.module(x), model.module(x), atol=1e-5)
