"""Training on a grid: what is rounded and when, where rounding to nearest stalls, killed and resumed, and refused."""

import numpy as np
import pytest
import torch
from killing import killed_at
from safetensors.torch import load_file
from tiny import Tiny
from torch import nn

from featherweight import Classification
from featherweight.activations import Affine, FloatingPoint
from featherweight.capture.memory_format import channels_last
from featherweight.data.indexed import Images, number
from featherweight.data.mnist import NORMALISATION
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.events import Progress
from featherweight.formats import Int
from featherweight.model import Model, equal_bits, to_bytes
from featherweight.recipe import parse_recipe
from featherweight.rounding import Rounding
from featherweight.task.training import Training, learning_rate
from featherweight.techniques import Finetune, Train
from featherweight.techniques.base import Context
from featherweight.training.loop import Objective, minimise, of_network
from featherweight.zoo.lenet import LeNet5

TASK = Tiny(size=96)
EIGHT, HALF = Affine(2.0**-6, 0, 8, True), FloatingPoint(1.0, "bfloat16")


def floats(model):
    return [name for name, tensor in model.tensors.items() if isinstance(tensor, nn.Parameter)]


def train(options, folder=None, events=lambda event: None):
    model = Model.of(TASK.model())
    objective = of_network(model, TASK, seed=5)
    return minimise(
        model, floats(model), {}, objective, options, scratch=folder, events=events, save_seconds=0.0
    )


def lies_on(grid, tensor):
    if isinstance(grid, Affine):
        return bool((tensor / grid.scale == (tensor / grid.scale).round()).all())
    return torch.equal(tensor, tensor.bfloat16().float())


@pytest.mark.parametrize("grid", [EIGHT, HALF], ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "shared"])
def test_weights_end_on_the_grid_and_the_rest_does_not(grid, rounding):
    for name, tensor in train(Training(epochs=2, lr=0.1, weights=Rounding(grid, rounding))).items():
        if tensor.dim() > 1:
            assert lies_on(grid, tensor), name
        elif tensor.is_floating_point() and tensor.any():
            assert not lies_on(grid, tensor), f"{name}: biases and batch norm are left alone"


def plain(options, seed):
    """The same training as anyone would write it."""

    def low(rounding, tensors, key):
        for index, tensor in enumerate(tensors):
            rounding.round(tensor.detach().numpy(), seed=number(key, index))

    module = TASK.model().train()
    weights = [p for p in module.parameters() if p.dim() > 1]
    rest = [p for p in module.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": weights}, {"params": rest}], lr=1.0, momentum=options.momentum, weight_decay=0.0
    )
    low(options.weights, weights, number(seed, 0, 0))
    step = 0
    for epoch in range(options.epochs):
        torch.manual_seed(number(seed, epoch))
        batches = TASK.batches("train", seed=seed, epoch=epoch)
        for i, batch in enumerate(batches):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, epoch + (i + 0.5) / len(batches))
            optimizer.zero_grad()
            TASK.loss(module(channels_last(TASK.inputs(batch))), batch).backward()
            low(options.gradients, [p.grad for p in weights], number(seed, step, 1))
            if options.clip:
                nn.utils.clip_grad_norm_([*weights, *rest], options.clip)
            optimizer.step()
            low(
                options.moments,
                [optimizer.state[p]["momentum_buffer"] for p in weights],
                number(seed, step, 2),
            )
            low(options.weights, weights, number(seed, step, 0))
    return module.state_dict()


ALL = Training(
    epochs=2, lr=0.1, clip=1.0, weights=Rounding(EIGHT), gradients=Rounding(FloatingPoint(1.0, "float16"), "shared"),
    moments=Rounding(HALF),
)  # fmt: skip


def test_equals_a_plain_loop_bit_for_bit():
    found = train(ALL)
    with torch.random.fork_rng():
        expected = plain(ALL, 5)
    assert all(equal_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumes_to_the_same_bytes(tmp_path, monkeypatch, optimizer):
    options = Training(
        epochs=2,
        lr=0.01,
        optimizer=optimizer,
        weights=ALL.weights,
        gradients=ALL.gradients,
        moments=ALL.moments,
    )
    undisturbed = {name: to_bytes(tensor) for name, tensor in train(options).items()}
    for kill_at in (1, 3, 6):
        folder = tmp_path / str(kill_at)
        with killed_at(kill_at):
            train(options, folder)
        assert {name: to_bytes(tensor) for name, tensor in train(options, folder).items()} == undisturbed
    kept = load_file(folder / "training.safetensors")
    moments = [t for name, t in kept.items() if name.startswith("optimizer/") and t.dim() > 1]
    assert moments and all(lies_on(HALF, moment) for moment in moments)


@pytest.mark.parametrize("kind", [Train, Finetune])
def test_lenet5_with_everything_rounded_resumes_to_the_same_bytes(tmp_path, monkeypatch, kind):
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (96, 1, 28, 28), np.uint8), generator.integers(0, 10, 96)
    images = Images(pixels, labels, NORMALISATION["mnist"])
    task = Classification(LeNet5, train=images, validation=images, test=images, batch_size=16)
    step = kind(
        epochs=1, lr=0.01, weights=Rounding(EIGHT), gradients=Rounding(FloatingPoint(1.0, "float8_e5m2")),
        moments=Rounding(HALF, "shared"),
    )  # fmt: skip
    model = Model.of(task.model())
    undisturbed = step.apply(model, task, Context(seed=3))
    for name, tensor in undisturbed.tensors.items():
        assert lies_on(EIGHT, tensor) == (tensor.dim() > 1), (
            f"{name}: weights are on the grid, biases are not"
        )
    monkeypatch.setattr(minimise, "__kwdefaults__", {**minimise.__kwdefaults__, "save_seconds": 0.0})
    with killed_at(5):
        step.apply(model, task, Context(seed=3, scratch=tmp_path))
    kept = load_file(tmp_path / "training.safetensors")
    moments = [t for name, t in kept.items() if name.startswith("optimizer/") and t.dim() > 1]
    assert len(moments) == 4 and all(lies_on(HALF, moment) for moment in moments)
    assert step.apply(model, task, Context(seed=3, scratch=tmp_path)).hash == undisturbed.hash


def descend(rounding, lr=0.05):
    """Return how far gradient descent on `|w - w*|^2 / 2` ends from each `w*`."""
    module = nn.Linear(512, 1, bias=False)
    target = torch.linspace(-0.9, 0.9, 512)[None]
    with torch.no_grad():
        module.weight.zero_()
    objective = Objective(
        "line", lambda epoch: [0] * 20, lambda values, batch: values["weight"],
        lambda output, batch: (output - target).square().sum() / 2,
    )  # fmt: skip
    options = Training(epochs=30, lr=lr, momentum=0.0, schedule="constant", weights=rounding)
    found = minimise(Model.of(module), ["weight"], {}, objective, options)
    return (found["weight"] - target).numpy()[0]


def test_nearest_stalls_where_a_step_is_under_half_a_step_of_the_grid():
    grid, lr = Affine(2.0**-5, 0, 8, True), 0.05
    stalled, noisy = descend(Rounding(grid, "nearest"), lr), descend(Rounding(grid), lr)
    reach = grid.scale / 2 / lr  # 0.31: there the gradient moves a weight by half a step
    assert reach - grid.scale < np.abs(stalled).max() <= reach
    # a walk about the target: each step adds a variance of d^2 f (1 - f), f = lr |w - w*| / d on average
    assert np.sqrt(np.square(noisy).mean()) < 1.5 * grid.scale
    assert abs(noisy.mean()) < 5 * grid.scale / np.sqrt(noisy.size)


def test_says_how_many_weights_saturate():
    heard = []
    train(Training(epochs=1, lr=0.01, weights=Rounding(Affine(2.0**-12, 0, 8, True))), events=heard.append)
    (figures,) = [event.figures for event in heard if isinstance(event, Progress)]
    weights = sum(p.numel() for p in TASK.model().parameters() if p.dim() > 1)
    assert 0 < figures["saturated"] < weights
    heard.clear()
    train(Training(epochs=1, lr=0.01, weights=Rounding(HALF)), events=heard.append)
    assert [e.figures["saturated"] for e in heard if isinstance(e, Progress)] == [0]


def test_a_recipe_says_it():
    recipe = parse_recipe("""
        [[steps]]
        step = "train"
        weights = { grid = { format = "affine", scale = 0.015625, zero_point = 0, signed = true } }
        moments = { grid = { format = "float", scale = 1.0, kind = "bfloat16" }, rounding = "shared" }
    """)
    assert recipe.steps == [Train(weights=Rounding(EIGHT), moments=Rounding(HALF, "shared"))]
    assert recipe.steps[0].options(TASK).weights == Rounding(EIGHT)


def test_refuses_what_cannot_be_meant():
    with pytest.raises(ConfigError, match=r"train\.weights\.grid: a grid without negative"):
        Train(weights=Rounding(Affine(1.0, 0)))
    with pytest.raises(ConfigError, match=r"train\.moments: .*without momentum"):
        Train(moments=Rounding(HALF), momentum=0.0, optimizer="sgd")
    with pytest.raises(ConfigError, match=r"finetune\.weights: means nothing with a format"):
        Finetune(weights=Rounding(EIGHT), format=Int(bits=4))
    module = nn.Linear(3, 2).double()
    objective = Objective(
        "double", lambda epoch: [0], lambda values, _: values["weight"], lambda o, _: o.sum()
    )
    with pytest.raises(UnsupportedError, match=r"weight: only float32.*float64"):
        minimise(Model.of(module), ["weight"], {}, objective, Training(weights=Rounding(EIGHT)))
