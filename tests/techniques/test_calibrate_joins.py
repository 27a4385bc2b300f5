"""Joins of unlike ranges, masks and outliers: in integers where nothing is lost, in float and said elsewhere."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.artifact import dumps, loads
from featherweight.errors import TaskError
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.simulation import simulate
from featherweight.techniques import Calibrate, Context, Encode

torch.manual_seed(0)


class Given:
    """A task of given inputs, without labels."""

    name = "given"

    def __init__(self, inputs):
        self.all = inputs

    def some(self, count):
        return {name: value[:count] for name, value in self.all.items()}

    def example(self):
        return self.some(2)

    def batches(self, split, *, seed, epoch):
        return [self.all]

    def inputs(self, batch):
        return batch


def quantized(network, inputs, **options):
    """Return the model in integers of 8 bits, and dB of outputs to error: of the simulation, and of the runtime."""
    task = Given(inputs)
    encoded = Encode(format=Int(bits=8)).apply(Model.of(network.eval()), task, Context())
    model = Calibrate(**options).apply(encoded, task, Context())
    with torch.no_grad():
        expected = network(**inputs).numpy()
    simulated = simulate(model, task.example())(**inputs).numpy()
    session = loads(dumps(pack(model, export(model.module, task.example())))).session()
    ran = session.run({name: value.numpy() for name, value in inputs.items()})

    def db(got):
        return 10 * np.log10(np.square(expected).mean() / np.square(got - expected).mean())

    return model, expected, simulated, ran, min(db(simulated), db(ran))


class Detection(nn.Module):
    """Boxes in pixels beside scores, which another layer reads or not."""

    def __init__(self, read):
        super().__init__()
        self.b, self.c = nn.Linear(8, 4), nn.Linear(8, 5)
        self.read = nn.Linear(9, 3) if read else nn.Identity()

    def forward(self, x):
        return self.read(torch.cat([torch.sigmoid(self.b(x)) * 640, torch.sigmoid(self.c(x)) * 0.9], 1))


@pytest.mark.parametrize("read", [False, True])
def test_scores_beside_boxes_stay_scores(read):
    model, expected, simulated, ran, db = quantized(Detection(read), {"x": torch.randn(64, 8)})
    assert db > 30
    if not read:
        for got in (simulated, ran):
            assert np.abs(got[:, 4:] - expected[:, 4:]).max() < 0.02
    said = [note for note in model.notes if note.name == "cat" and "unlike ranges" in note.reason]
    assert bool(said) == read


class Sum(nn.Module):
    """A small branch added to a large one, between convolutions."""

    def __init__(self, times):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.times = times

    def forward(self, x):
        return self.c(self.a(x) + self.b(x * self.times))


@pytest.mark.parametrize("times", [1.0, 20.0])
def test_sums_share_where_ranges_are_alike(times):
    model, *_, db = quantized(Sum(times), {"x": torch.randn(32, 3, 8, 8)})
    operands = [model.activations[edge] for edge in ("conv2d", "conv2d_1")]
    assert (operands[0] == operands[1]) == (times == 1)
    assert any("quantizer each" in note.reason for note in model.notes) == (times != 1)
    assert db > 30


class Masked(nn.Module):
    """Scores and an additive mask; what a layer reads is masked too."""

    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, m):
        return self.o(torch.softmax(self.l(x) + m, -1))


@pytest.mark.parametrize("least", [-float("inf"), float(np.finfo(np.float32).min), -1e4])
def test_masks_have_no_quantizer(least):
    m = torch.where(torch.rand(64, 8) > 0.7, least, 0.0)
    m[:, 0] = 0
    model, *_, db = quantized(Masked(), {"x": torch.randn(64, 8), "m": m})
    assert "m" not in model.activations and "add" not in model.activations and db > 30


class Clipped(nn.Module):
    """A mask that convolutions read behind a clamp."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x, m):
        return self.b(F.relu(self.a(x) + m))


def test_an_infinite_mask_before_a_layer_is_left_in_float_and_said():
    m = torch.where(torch.rand(32, 4, 6, 6) > 0.7, -float("inf"), 0.0)
    model, *_, db = quantized(Clipped(), {"x": torch.randn(32, 1, 8, 8), "m": m})
    assert "m" not in model.activations and db > 25
    assert any(note.name == "m" and "a mask" in note.reason for note in model.notes)


def test_nan_names_the_input_of_the_split():
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    x[21, 3] = float("nan")
    with pytest.raises(TaskError, match=r"inputs 16 to 31 .*NaN\nhint: input 21 holds NaN"):
        quantized(Masked(), {"x": x, "m": torch.zeros(40, 8)})
    network = Masked()
    network.l.bias.data[0] = float("nan")
    with pytest.raises(TaskError, match=r"inputs 0 to 15 .*softmax is NaN\nhint: the inputs are finite"):
        quantized(network, {"x": torch.ones(40, 8), "m": torch.zeros(40, 8)})


class Encoder(nn.Module):
    """Attention with a mask and a residual stream, a few channels of which are hundreds of times the others."""

    def __init__(self, first):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)
        self.one, self.two, self.first = nn.LayerNorm(32), nn.LayerNorm(32), first
        self.register_buffer("gain", torch.ones(32).index_fill(0, torch.tensor([3, 17]), 300.0))

    def attention(self, x, mask):
        q, k, v = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5 + mask[:, None, None], -1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))

    def forward(self, x, mask):
        if self.first:  # norms before the blocks: the stream grows
            x = x * self.gain
            x = x + self.attention(self.one(x), mask)
            x = x + self.down(F.gelu(self.up(self.two(x))))
            return self.head(x[:, 0])
        x = self.one(x * self.gain + self.attention(x, mask))
        x = self.two(x + self.down(F.gelu(self.up(x))))
        return self.head(x.mean(1))


@pytest.mark.parametrize("first", [False, True])
def test_a_transformer_with_outliers(first):
    mask = torch.zeros(24, 12)
    mask[:, 9:] = float(np.finfo(np.float32).min)
    model, *_, db = quantized(Encoder(first), {"x": torch.randn(24, 12, 32), "mask": mask})
    assert db > 25
    assert "mask" not in model.activations and not any(edge.startswith("add") for edge in model.activations)
    assert any("outliers" in note.reason for note in model.notes) == first


def test_one_wrong_number_is_said_and_costs_nothing():
    x = torch.randn(100, 8)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    wrong = x.clone()
    wrong[3, 2] = 1e7
    model = Calibrate().apply(
        Encode(format=Int(bits=7)).apply(Model.of(network), Given({"input": x}), Context()),
        Given({"input": wrong}), Context(),
    )  # fmt: skip
    expected = network(x).detach().numpy()
    got = simulate(model, x[:2])(x).numpy()
    assert np.abs(got - expected).max() < np.ptp(expected) / 30
    assert any(note.name == "input" and "one is 1e+07" in note.reason for note in model.notes)


def test_operators_are_left_out_by_their_edges():
    model, *_ = quantized(Sum(1.0), {"x": torch.randn(8, 3, 8, 8)}, keep_float=("add",))
    assert any(note.name == "add" and "asked for" in note.reason for note in model.notes)


class Greatest(nn.Module):
    """A convolution whose greatest numbers alone, or whose mean, are gone on with."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.head, self.way = nn.Conv2d(1, 1, 1), nn.Linear(1, 2), way
        self.last = nn.Conv2d(1, 3, 1)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        seen = F.gelu(self.conv(x))
        if self.way == "scores":
            return self.last(seen).sigmoid().flatten(2)
        if self.way == "values":
            return self.last(seen).flatten(2)
        return self.head(seen.mean((2, 3)) if self.way == "mean" else seen.amax((2, 3)))


@pytest.mark.parametrize(
    ("way", "whole"), [("maximum", True), ("mean", False), ("scores", True), ("values", False)]
)
def test_what_is_read_at_its_peaks_is_not_clipped_above(way, whole):
    generator = torch.Generator().manual_seed(0)
    network = Greatest(way).eval()
    x = (
        torch.rand(64, 1, 64, 64, generator=generator).clamp_min(1e-6).log().neg()
    )  # few are far greater than others
    model = Model.of(network)
    chosen = Calibrate(samples=64).apply(model, Given({"x": x}), Context()).activations["conv2d"]
    with torch.no_grad():
        greatest = float(network.conv(x).max())
    reaches = chosen.range[1] >= 0.99 * greatest
    assert reaches is whole
