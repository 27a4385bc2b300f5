"""Derivatives and saliencies against matrices that are written out in full, float64."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from attention_networks import TinyVit
from structured_networks import Images, Joined, Mlp, Plain, Residual, SmallViT, coupled, explicit, random
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from featherweight.capture import trace
from featherweight.curvature.gauss_newton import fisher_diagonal, gauss_newton_diagonal, pair_matrix
from featherweight.curvature.hvp import central_difference, hessian_product, loss_of, parameters
from featherweight.errors import TaskError
from featherweight.graph.channels import couple
from featherweight.model import Model
from featherweight.task.sampling import drawn
from featherweight.techniques.prune import greedy
from featherweight.techniques.saliencies import Fisher, Obd, SospH, SospI, Taylor
from featherweight.techniques.saliencies.base import only_makers, per_channel

NETWORKS = [Mlp, Plain, Residual, Joined, TinyVit]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@cache
def case(make):
    task = Images(make)
    model = Model.of(task.model())
    with sdpa_kernel(SDPBackend.MATH):  # which can be differentiated twice
        whole = explicit(model, task)
    return model, task, coupled(make), whole, whole.structures(coupled(make))


def once(setting):
    """The parameters of each channel along which it is scaled once."""
    _, _, channels, whole, _ = setting
    return whole.structures(channels.scaled_once())


def flat(whole, values):
    return torch.cat([values[name].reshape(-1) for name in whole.offsets])


@pytest.fixture(params=NETWORKS, ids=lambda make: make.__name__)
def setting(request):
    return case(request.param)


def test_sosp_h_is_its_formula(setting):
    model, task, channels, whole, _ = setting
    theta = once(setting)
    first, second = theta @ whole.gradient, theta @ (whole.hessian @ theta.sum(0))
    found = SospH().scores(model, channels, task, 0)
    np.testing.assert_allclose(found.linear, (first.abs() + second.abs() / 2).numpy(), **EXACT)
    assert found.pair is None


def test_sosp_i_is_its_pair_matrix(setting):
    model, task, channels, whole, _ = setting
    theta = once(setting)
    found = SospI().scores(model, channels, task, 0)
    np.testing.assert_allclose(found.linear, (theta @ whole.gradient).abs().numpy(), **EXACT)
    np.testing.assert_allclose(found.pair, (theta @ whole.gauss_newton @ theta.T).numpy(), **EXACT)
    assert np.linalg.eigvalsh(found.pair).min() > -1e-12


def test_draws_give_the_pair_matrix_in_expectation():
    model, task, channels, *_ = case(Mlp)
    batches = list(drawn(task, "train", samples=1000))
    exact = pair_matrix(model, task, batches, channels)
    far, near = (np.linalg.norm(pair_matrix(model, task, batches, channels, k, 0) - exact) for k in (1, 100))
    assert near < 0.2 * far < 0.2 * np.linalg.norm(exact)


def test_greedy_increments_sum_to_the_gauss_newton_form(setting):
    model, task, channels, whole, theta = setting
    pair = pair_matrix(model, task, list(drawn(task, "train", samples=1000)), channels)
    gone = greedy(np.zeros(len(pair)), pair)[: len(pair) // 2]
    moved = theta[gone.tolist()].sum(0)
    increments = [pair[s, s] / 2 + pair[s, gone[:n]].sum() for n, s in enumerate(gone)]
    np.testing.assert_allclose(sum(increments), float(moved @ whole.gauss_newton @ moved) / 2, **EXACT)


def test_diagonals(setting):
    model, task, channels, whole, theta = setting
    batches = list(drawn(task, "train", samples=1000))
    fisher = flat(whole, fisher_diagonal(model, task, batches))
    torch.testing.assert_close(fisher, whole.per_sample.square().mean(0), **EXACT)
    newton = flat(whole, gauss_newton_diagonal(model, task, batches))
    torch.testing.assert_close(newton, whole.gauss_newton.diagonal(), **EXACT)
    for name, h in (("fisher", fisher), ("gauss_newton", newton)):
        expected = (theta != 0).double() @ (h * whole.theta**2) / 2
        found = Obd(diagonal=name).scores(model, channels, task, 0).linear
        np.testing.assert_allclose(found, expected.numpy(), **EXACT)


def test_taylor_of_one_batch(setting):
    model, _, channels, whole, _ = setting
    task = Images(setting[1].make, batch=24)
    products = once(setting) * whole.gradient
    structure = Taylor().scores(model, channels, task, 0).linear
    single = Taylor(reduction="parameters").scores(model, channels, task, 0).linear
    np.testing.assert_allclose(structure, products.sum(1).square().numpy(), **EXACT)
    np.testing.assert_allclose(single, products.square().sum(1).numpy(), **EXACT)


def test_fisher_is_the_mean_square_of_each_samples_derivative(setting):
    model, task, channels, whole, _ = setting
    gates = whole.per_sample @ once(setting).T
    found = Fisher().scores(model, channels, task, 0).linear
    np.testing.assert_allclose(found, gates.square().mean(0).numpy() / 2, **EXACT)
    single = Taylor().scores(model, channels, Images(task.make, batch=1), 0).linear
    np.testing.assert_allclose(found, single / 2, **EXACT)


def test_taylor_of_batches_is_the_mean_of_squares():
    model, task, channels, *_ = case(Plain)
    whole = Taylor().scores(model, channels, task, 0).linear
    parts = [
        Taylor(samples=1).scores(model, channels, OneBatch(batch), 0).linear
        for batch in task.batches("train", seed=0, epoch=0)
    ]
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), **EXACT)


class OneBatch(Images):
    def __init__(self, batch):
        super().__init__()
        object.__setattr__(self, "only", batch)

    def batches(self, split, *, seed, epoch):
        return [self.only]


def test_central_difference_is_near_the_product():
    model, task, channels, *_ = case(Residual)
    theta = only_makers(channels, parameters(model))
    batch = task.batches("train", seed=0, epoch=0)[0]
    exact = hessian_product(model, task, [batch], theta)[1]
    near = central_difference(partial(loss_of, model.module, task, batch), parameters(model), theta)
    for name, value in exact.items():
        torch.testing.assert_close(near[name], value, rtol=1e-6, atol=1e-8)


class Once(torch.autograd.Function):
    """A square that cannot be differentiated twice."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


class Odd(nn.Module):
    def __init__(self, square):
        super().__init__()
        self.a, self.b, self.square = nn.Linear(4, 5), nn.Linear(5, 3), square

    def forward(self, x):
        return self.b(self.square(self.a(x.flatten(1)[:, :4])))


def test_what_cannot_be_differentiated_twice_is_by_central_differences():
    task = Images(lambda: Odd(torch.square))
    plain = Model.of(task.model())
    odd = Model.of(random(lambda: Odd(Once.apply), dtype=torch.float64))
    batches = list(drawn(task, "train", samples=8))
    direction = {name: value.detach() for name, value in parameters(plain).items()}
    exact = hessian_product(plain, task, batches, direction)[1]
    near = hessian_product(odd, task, batches, direction)[1]
    for name, value in exact.items():
        torch.testing.assert_close(near[name], value, rtol=1e-5, atol=1e-7)


def test_passes_are_few_and_as_many_for_any_number_of_channels(monkeypatch):
    """A batch takes one forward pass, one backward, and one backward of both: four gradients' worth at most.

    Nothing is traced on the way: that would cost more than all passes over a small network.
    """
    passes = {"forward": 0, "backward": 0}
    wide = {n: Images(lambda n=n: Wide(n), dtype=torch.float32) for n in (2, 400)}
    coupled = {width: couple(trace(task.model(), task.example())) for width, task in wide.items()}
    monkeypatch.delattr(torch.export, "export")

    def counted(function):
        def wrapped(*args, **named):
            passes["backward"] += 1
            return function(*args, **named)

        return wrapped

    for name in ("grad", "backward"):
        monkeypatch.setattr(torch.autograd, name, counted(getattr(torch.autograd, name)))
    for width, task in wide.items():
        passes.update(forward=0, backward=0)
        model = Model.of(task.model())
        model.module.a.register_forward_hook(lambda *_: passes.update(forward=passes["forward"] + 1))
        assert len(SospH(samples=24).scores(model, coupled[width], task, 0).linear) == width
        assert passes == {"forward": 3, "backward": 6}  # of three batches


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, width, 3), nn.Linear(width, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).mean((2, 3)))


def test_train_mode_batch_norm_would_hide_every_filter():
    """With batch statistics the loss does not depend on a filter's scale: both orders vanish. Hence eval mode."""
    model, task, channels, *_ = case(Residual)
    batches = list(drawn(task, "train", samples=24))
    filters = {"back.weight": only_makers(channels, parameters(model))["back.weight"]}
    evaluated = hessian_product(model, task, batches, filters)
    trained = Model.of(random(Residual, dtype=torch.float64))
    for part in trained.module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.running_mean, part.running_var = 1e-14, None, None
    by_batch = hessian_product(trained, task, batches, filters)
    for found, hidden in ((evaluated, False), (by_batch, True)):
        first = per_channel(channels, {"back.weight": filters["back.weight"] * found[0]["back.weight"]})
        second = float((filters["back.weight"] * found[1]["back.weight"]).sum())
        assert (np.abs(first).max() < 1e-8) == hidden
        assert (abs(second) < 1e-8) == hidden


def test_of_two_equal_neurons_sosp_i_keeps_one():
    model, task, channels, *_ = case(Mlp)
    values = {name: tensor.detach().clone() for name, tensor in model.tensors.items()}
    values["a.weight"][1], values["a.bias"][1] = values["a.weight"][0], values["a.bias"][0]
    values["b.weight"][:, 1] = values["b.weight"][:, 0]
    found = SospI().scores(model.with_tensors(values), channels, task, 0)
    np.testing.assert_allclose(found.pair[0, 1], found.pair[0, 0], rtol=1e-9)
    joint = found.pair[:2, :2].sum() / 2
    np.testing.assert_allclose(joint, 4 * found.pair[0, 0] / 2, rtol=1e-9)  # alone: 2 * Q / 2
    cheap = np.zeros(len(found.linear))
    pair = np.diag(np.full(len(cheap), 2 * found.pair[0, 0]))
    pair[:2, :2] = found.pair[:2, :2]
    assert set(greedy(cheap, pair)[:2].tolist()) != {0, 1}
    assert set(np.argsort(np.diagonal(pair), kind="stable")[:2].tolist()) == {0, 1}


def test_half_the_data_ranks_alike():
    model, channels = Model.of(Images(SmallViT).model()), coupled(SmallViT)
    scores = [SospH().scores(model, channels, Half(side), 0).linear for side in (0, 1)]
    assert np.corrcoef(*(np.argsort(np.argsort(score)) for score in scores))[0, 1] > 0.95  # Spearman


class Half(Images):
    def __init__(self, side):
        super().__init__(SmallViT, size=2000, batch=500)
        object.__setattr__(self, "side", side)

    def batches(self, split, *, seed, epoch):
        return super().batches(split, seed=seed, epoch=epoch)[self.side :: 2]


def test_no_data_is_an_error():
    with pytest.raises(TaskError, match="no batches"):
        list(drawn(OneBatchless(), "train", samples=10))


class OneBatchless(Images):
    def batches(self, split, *, seed, epoch):
        return []


class Gated(nn.Module):
    """One layer of channels, each of which can be multiplied by a factor where it is first read."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.fc = kind, nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)
        self.slopes, self.norm, self.late = nn.PReLU(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.depth = nn.Conv2d(4, 4, 3, groups=4)
        self.squeeze, self.excite = nn.Linear(4, 3), nn.Linear(3, 4)

    def body(self, x):
        x = self.a(x)
        return {
            "norm": lambda: torch.relu(self.norm(x)),
            "prelu": lambda: self.slopes(x),
            "norm, prelu": lambda: self.slopes(self.norm(x)),
            "prelu, norm": lambda: self.norm(self.slopes(x)),
            "relu, norm": lambda: self.norm(torch.relu(x)),
            "pool, norm": lambda: self.norm(nn.functional.max_pool2d(x, 2)),
            "depthwise": lambda: torch.relu(self.late(self.depth(torch.relu(self.norm(x))))),
            "gate": lambda: torch.relu(self.norm(x)),
        }[self.kind]()

    def forward(self, x, gates=None):
        x = self.body(x)
        x = x if gates is None else x * gates[:, :, None, None]
        if self.kind == "gate":
            x = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None] * x
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    "kind",
    ["norm", "prelu", "norm, prelu", "prelu, norm", "relu, norm", "pool, norm", "depthwise", "gate"],
)
def test_scores_are_derivatives_by_one_factor_on_each_channel(kind):
    """Whatever scales a channel again on the way, slopes, norms, depthwise layers, gates of products, counts once."""
    task = Images(lambda: Gated(kind), batch=24)
    model = Model.of(task.model())
    channels = couple(trace(random(task.make), task.example().float()))
    channels = channels.only([n for n, group in enumerate(channels.groups) if group.name == "a"])
    images, labels = task._data("train")
    gates = torch.ones(24, 4, dtype=torch.float64, requires_grad=True)
    loss = nn.functional.cross_entropy(model.module(images, gates), labels, reduction="sum")
    (g,) = torch.autograd.grad(loss, gates)
    g = g.numpy()
    np.testing.assert_allclose(Fisher().scores(model, channels, task, 0).linear, (g**2).mean(0) / 2, **EXACT)
    np.testing.assert_allclose(Taylor().scores(model, channels, task, 0).linear, g.mean(0) ** 2, **EXACT)
    np.testing.assert_allclose(SospI().scores(model, channels, task, 0).linear, np.abs(g.mean(0)), **EXACT)
