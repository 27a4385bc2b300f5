"""Second derivatives of a loss by the weights: the diagonal of the Fisher matrix, traces of Hessians."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Inputs, Output

Run = Callable[[Inputs], Output]
# The mean loss of a batch, given the network; and the samples of the batch.
BatchLoss = tuple[Callable[[Run], Tensor], int]


def fisher_by_batch(model: Model, names: Sequence[str], losses: Iterable[BatchLoss]) -> dict[str, Tensor]:
    """Return the mean square of each weight's gradient, as of single samples, float64 of the tensor's shape.

    `n g^2` with the gradient g of the mean loss of n samples. Where the samples' gradients have no mean (labels
    drawn from the network's own outputs, see `own_loss`) its expectation is that of single samples: the diagonal
    of the Fisher matrix, which is the Hessian of the divergence (KL) from the outputs as they are. With true
    labels it is the empirical Fisher matrix, plus n times the squared mean gradient, small after training.

    References: Amari, Natural gradient works efficiently in learning, 1998, eq. 3.3; Martens, New insights and
    perspectives on the natural gradient method, 2020, arXiv 1412.1193, sections 5 and 11.
    """
    total = {name: torch.zeros(model.tensors[name].shape, dtype=torch.float64) for name in names}
    count = 0
    for loss, samples in losses:
        weights, run = leaves(model, names)
        gradients = torch.autograd.grad(loss(run), list(weights.values()), materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            total[name] += samples * gradient.double().square()
        count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


def hessian_traces(
    model: Model, names: Sequence[str], losses: Iterable[BatchLoss], *, seed: int = 0, draws: int = 1
) -> dict[str, float]:
    """Return the trace of the Hessian of the mean loss by each tensor alone.

    Hutchinson's estimator: the mean of `v' H v` over vectors v of random signs, some for each batch. One
    product with the Hessian by all tensors serves each of them: what couples two has no mean.

    References: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; Dong et al.,
    HAWQ-V2, 2020, arXiv 1911.03852, section 3.1.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count = dict.fromkeys(names, 0.0), 0
    for loss, _ in losses:
        weights, run = leaves(model, names)
        tensors = list(weights.values())
        gradients = torch.autograd.grad(loss(run), tensors, create_graph=True, materialize_grads=True)
        for _ in range(draws):
            signs = [torch.randint(0, 2, t.shape, generator=generator).to(t.dtype) * 2 - 1 for t in tensors]
            inner = sum((g * v).sum() for g, v in zip(gradients, signs, strict=True))
            assert isinstance(inner, Tensor), "there are tensors"
            products = (
                torch.autograd.grad(inner, tensors, retain_graph=True, materialize_grads=True)
                if inner.requires_grad
                else [torch.zeros_like(t) for t in tensors]
            )
            for name, product, v in zip(names, products, signs, strict=True):
                total[name] += float((product * v).sum(dtype=torch.float64))
            count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


def leaves(model: Model, names: Sequence[str]) -> tuple[dict[str, Tensor], Run]:
    """Return copies of some tensors that gradients can be taken by, and the network that reads them."""
    weights = {name: model.tensors[name].detach().clone().requires_grad_() for name in names}
    module = to_call(model.module)

    def run(inputs: Inputs) -> Output:
        named = inputs if isinstance(inputs, dict) else {}
        placed = inputs if isinstance(inputs, tuple) else () if named else (inputs,)
        return functional_call(module, weights, placed, named)

    return weights, run


def own_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy of `logits: [n, classes, ...]` against labels drawn from them."""
    scores = logits.movedim(1, -1).flatten(0, -2)
    with torch.no_grad():
        drawn = torch.multinomial(scores.double().softmax(-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(scores, drawn)
