"""What stays of pruned layers takes over: by the normal equations, nearer on unseen inputs, batch norms included."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.curvature.linear_ops import LinearOp
from featherweight.model import Model
from featherweight.recipe import Recipe, run
from featherweight.task.tasks import Agreement
from featherweight.techniques import Fold, Prune
from featherweight.techniques.refit import DAMPING, regression
from featherweight.techniques.saliencies import Magnitude


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.an = nn.Conv2d(2, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.d, self.dn = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.b, self.bn = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.dn(self.d(torch.relu(self.an(self.a(x))))))
        return self.fc(self.bn(self.b(x)).mean((2, 3)))


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))


def task():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, x = Net(), torch.randn(260, 2, 8, 8).cumsum(2)
        for norm in (network.an, network.dn, network.bn):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
    return Agreement(
        network, train=x[:160], calibration=x[:160], validation=x[160:200], test=x[200:], batch_size=20
    )


@pytest.mark.parametrize("folded", [False, True])
def test_answers_are_much_nearer_on_unseen_inputs(folded):
    given = task()
    before = [Fold()] if folded else []
    prune = Prune(keep=0.7, saliency=Magnitude(), refit=160)
    found = [
        run(Recipe([*before, step]), given, threads=1)[-1].model
        for step in (Prune(keep=0.7, saliency=Magnitude()), prune)
    ]
    assert {n: t.shape for n, t in found[0].tensors.items()} == {
        n: t.shape for n, t in found[1].tensors.items()
    }
    x = torch.cat([given.inputs(batch) for batch in given.batches("test", seed=0, epoch=0)])
    with torch.no_grad():
        truth, cut, refit = (model.module(x) for model in (Model.of(given.model()), *found))
    assert (refit - truth).square().mean() < 0.4 * (cut - truth).square().mean()


def check(layer, kernel, before, after, patches):
    """Compare with least squares on patches written out, `[count, cols]`, the damping as rows of its own."""
    x, z = patches(after).double().numpy(), patches(before).double().numpy()
    count, cols = x.shape
    weight = np.random.default_rng(1).normal(0, 1, (3, cols)).astype(np.float32)
    half = len(before) // 3
    pairs = [(before[:half], after[:half]), (before[half:], after[half:])]
    new, shift = regression(layer, pairs, kernel, weight, weight * 0)
    ridge = np.sqrt(count * DAMPING * np.diagonal(np.cov(x.T, bias=True)).mean())
    wide = np.block([[x, np.ones((count, 1))], [ridge * np.eye(cols), np.zeros((cols, 1))]])
    exact, *_ = np.linalg.lstsq(wide, np.concatenate([z @ weight.T, np.zeros((cols, 3))]), rcond=None)
    np.testing.assert_allclose(new, exact[:cols].T, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(shift, exact[cols], rtol=1e-2, atol=1e-3)
    return new


def test_the_regression_is_that_of_the_normal_equations_with_a_constant():
    torch.manual_seed(0)
    before = torch.randn(400, 5) + 1
    after = before @ torch.randn(5, 5)
    after[:, 2] = 0
    new = check(LinearOp("w", "b", "linear", "linear"), (), before, after, lambda x: x)
    assert (new[:, 2] == 0).all()


def test_the_regression_of_a_convolution_has_the_columns_of_its_weight():
    torch.manual_seed(0)
    before = torch.randn(30, 3, 6, 6) + torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    after = before + 0.5 * torch.randn(30, 3, 6, 6).roll(1, 1)
    layer = LinearOp("w", "b", "conv2d", "conv2d", padding=(1, 1))
    check(
        layer,
        (3, 3),
        before,
        after,
        lambda x: nn.functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1),
    )


def test_nothing_pruned_stays_as_it_is():
    given = task()
    model = run(Recipe([Prune(keep=1.0, saliency=Magnitude(), refit=40)]), given, threads=1)[-1].model
    for name, tensor in Model.of(given.model()).tensors.items():
        torch.testing.assert_close(model.tensors[name].detach(), tensor.detach(), rtol=1e-3, atol=1e-4)


def test_what_it_needs():
    assert Prune(keep=0.5, saliency=Magnitude()).needs == "none"
    assert Prune(keep=0.5, saliency=Magnitude(), refit=10).needs == "unlabelled"
