"""Fisher diagonals and traces against closed forms and explicit Hessians."""

import math

import torch
from torch import nn

from featherweight.curvature.hvp import fisher_by_batch, hessian_traces, own_loss
from featherweight.model import Model


def softmax_regression():
    torch.manual_seed(0)
    return Model.of(nn.Sequential(nn.Linear(3, 4))), torch.randn(50, 3)


def test_fisher_of_softmax_regression_is_its_closed_form():
    """E over y of the squared gradient by w_kj is x_j^2 p_k (1 - p_k)."""
    model, x = softmax_regression()
    generator = torch.Generator().manual_seed(1)
    losses = ((lambda run: own_loss(run(x), generator), len(x)) for _ in range(1500))
    found = fisher_by_batch(model, ["0.weight", "0.bias"], losses)
    with torch.no_grad():
        p = model.module(x).softmax(1)
    variance = p * (1 - p)
    torch.testing.assert_close(found["0.weight"].float(), variance.T @ x.square() / 50, rtol=0.2, atol=1e-3)
    torch.testing.assert_close(found["0.bias"].float(), variance.mean(0), rtol=0.2, atol=1e-3)


def test_single_samples_are_the_empirical_fisher():
    model, x = softmax_regression()
    y = torch.arange(50) % 4
    losses = [
        (lambda run, i=i: nn.functional.cross_entropy(run(x[i : i + 1]), y[i : i + 1]), 1) for i in range(50)
    ]
    found = fisher_by_batch(model, ["0.weight"], losses)["0.weight"]
    with torch.no_grad():
        error = model.module(x).softmax(1) - nn.functional.one_hot(y, 4)
    expected = (error[:, :, None] * x[:, None, :]).square().mean(0)
    torch.testing.assert_close(found.float(), expected)


def test_traces_are_those_of_the_explicit_hessian():
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    model, x, y = Model.of(module), torch.randn(20, 3), torch.randint(0, 2, (20,))
    names = ["0.weight", "2.weight"]

    def loss(run):
        return nn.functional.cross_entropy(run(x), y)

    found = hessian_traces(model, names, [(loss, 20)], draws=400)
    for name in names:

        def of(weight, name=name):
            return loss(lambda inputs: torch.func.functional_call(module, {name: weight}, (inputs,)))

        weight = model.tensors[name].detach()
        hessian = torch.autograd.functional.hessian(of, weight).reshape(weight.numel(), -1)
        # v'Hv has variance 2 sum_{i != j} H_ij^2; the other tensor adds its coupling to it
        deviation = math.sqrt(4 * float(hessian.square().sum()) / 400) + 0.02
        assert abs(found[name] - float(hessian.trace())) < 4 * deviation


def test_a_diagonal_hessian_needs_one_draw():
    module = nn.Sequential(nn.Linear(3, 2, bias=False)).eval()

    def loss(run):
        return run(torch.eye(3)).square().sum() + 0 * run(torch.eye(3)).sum()

    assert hessian_traces(Model.of(module), ["0.weight"], [(loss, 3)]) == {"0.weight": 12.0}


def test_a_linear_loss_has_no_curvature_and_an_unread_tensor_no_gradient():
    model = Model.of(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).eval())

    def loss(run):
        return model.tensors["0.weight"].detach().sum() + run(torch.zeros(1, 3)).sum()

    losses = [(loss, 1)]
    assert hessian_traces(model, ["1.bias"], losses) == {"1.bias": 0.0}
    assert float(fisher_by_batch(model, ["0.weight"], losses)["0.weight"].abs().sum()) == 0.0
