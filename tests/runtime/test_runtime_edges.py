"""Activations that rewriting a graph could lose: pieces, repeated expressions, what changes nothing, several means."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.artifact import dumps, loads
from featherweight.capture import trace
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.simulation import simulate
from featherweight.techniques import Calibrate, Context, Encode


class Images:
    """A task of random images of three channels."""

    name = "images"

    def make(self, count, seed):
        return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))

    def example(self):
        return self.make(2, 0)

    def batches(self, split, *, seed, epoch):
        return [(self.make(32, 1), None)]

    def inputs(self, batch):
        return batch[0]


class Cut(nn.Module):
    """Halves of the channels, as `cut` takes them; the second goes through a convolution."""

    def __init__(self, cut):
        super().__init__()
        self.a, self.b, self.c, self.cut = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1), cut

    def forward(self, x):
        p, q = self.cut(F.relu(self.a(x)))
        return self.c(torch.cat([p, F.relu(self.b(q))], 1))


class Branches(nn.Module):
    """What two branches make of the same tensor, each for itself."""

    def __init__(self, first, second):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.first, self.second = first, second

    def forward(self, x):
        y = self.a(x)
        return self.c(self.b(self.first(y)) + self.b(self.second(y)))


class Means(nn.Module):
    """A block of squeeze and excitation, and a mean at the end."""

    def __init__(self):
        super().__init__()
        self.a, self.f, self.g = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.h = nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x).relu()
        x = x * self.f(x.mean((2, 3), keepdim=True)).sigmoid()
        x = x * self.g(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.h(x.mean((2, 3)))


class Scaled(nn.Module):
    """An activation of no axes, and one whose mean is over the samples."""

    def __init__(self, dim):
        super().__init__()
        self.a, self.b, self.dim = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), dim

    def forward(self, x):
        y = self.a(x)
        return self.b(y * y.mean(self.dim, keepdim=self.dim is not None))


CUTS = {
    "chunk": lambda y: y.chunk(2, 1),
    "split": lambda y: y.split(4, 1),
    "split by sizes": lambda y: y.split([4, 4], 1),
    "slices": lambda y: (y[:, :4], y[:, 4:]),
    "slices and chunk": lambda y: (y[:, :4], y.chunk(2, 1)[1]),
    "tensor_split": lambda y: y.tensor_split(2, 1),
    "unbind": lambda y: y.unflatten(1, (2, 4)).unbind(1),
    "a view that changes nothing": lambda y: y.view(y.shape).split([4, 4], 1),
    "cat of one": lambda y: torch.cat([y], 1).split([4, 4], 1),
    "a cast that changes nothing": lambda y: y.float().split([4, 4], 1),
}
REPEATED = {
    "relu": (F.relu, F.relu),
    "max_pool": (lambda y: F.max_pool2d(y, 2), lambda y: F.max_pool2d(y, 2)),
    "a clamp by another name": (F.relu6, lambda y: F.hardtanh(y, 0.0, 6.0)),
    "nothing": (lambda y: y, lambda y: y),
    "a view": (lambda y: y, lambda y: y.view(y.shape)),
}
NETWORKS = (
    {f"cut by {name}": partial(Cut, cut) for name, cut in CUTS.items()}
    | {f"repeated {name}": partial(Branches, *both) for name, both in REPEATED.items()}
    | {"means": Means, "mean of all": partial(Scaled, None), "mean over the samples": partial(Scaled, 0)}
)


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_run_as_simulated(name):
    torch.manual_seed(0)
    task, network = Images(), NETWORKS[name]().eval()
    encoded = Encode(format=Int(bits=7)).apply(Model.of(network), task, Context())
    model = Calibrate(samples=32).apply(encoded, task, Context())
    session = loads(dumps(pack(model, export(model.module, task.example())))).session()
    simulation = simulate(model, task.example())
    for count in (2, 7) if name != "mean of all" else (2,):
        x = task.make(count, 3)
        expected = simulation(x).numpy()
        error = np.abs(session.run(x.numpy()) - expected)
        assert np.quantile(error, 0.99) <= np.ptp(expected) / 60, count
    if name in ("mean of all", "mean over the samples"):  # of other samples, other numbers
        return
    x = task.make(32, 1)
    plain = network(x).detach().numpy()
    assert np.quantile(np.abs(simulation(x).numpy() - plain), 0.99) <= np.ptp(plain) / 20


def test_equal_expressions_are_one_activation_and_keep_the_numbers_of_names():
    class Thrice(nn.Module):
        def forward(self, x):
            y = x * 2
            return F.relu(y) + F.relu(y), F.relu(x).view(x.shape)

    names = [node.name for node in trace(Thrice(), torch.randn(2, 3)).nodes]
    assert names == ["x", "mul", "relu", "add", "relu_2"]
