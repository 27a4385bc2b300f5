"""Second derivatives of a loss by the weights: the diagonal of the Fisher matrix, traces of Hessians."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.curvature.hvp import Values, differentiating, outputs, product_of
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Inputs, Output
from featherweight.task.sampling import check_finite

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
    count, module = 0, to_call(model.module)
    for loss, samples in losses:
        weights = leaves(model, names)
        found = torch.autograd.grad(
            loss(runner(module, weights)), list(weights.values()), materialize_grads=True
        )
        _check(found, count)
        for name, gradient in zip(names, found, strict=True):
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

    Args:
        model: the network.
        names: of the tensors.
        losses: one a batch.
        seed: of the signs.
        draws: of each batch.

    Raises:
        TaskError: a derivative holds NaN or infinity; names the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count, module = dict.fromkeys(names, 0.0), 0, to_call(model.module)
    for number, (loss, _) in enumerate(losses):
        for _ in range(draws):
            values = leaves(model, names)
            signs = {
                name: torch.randint(0, 2, t.shape, generator=generator).to(t.dtype) * 2 - 1
                for name, t in values.items()
            }
            with differentiating():
                _, product = product_of(partial(_at, module, loss), values, signs, "sensitivity")
            _check(product.values(), number)
            for name, v in signs.items():
                total[name] += float((product[name] * v).sum(dtype=torch.float64))
            count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


def leaves(model: Model, names: Sequence[str]) -> Values:
    """Return copies of some tensors that gradients can be taken by."""
    return {name: model.tensors[name].detach().clone().requires_grad_() for name in names}


def runner(module: nn.Module, values: Values) -> Run:
    """Return the network that reads these tensors instead of its own."""
    return lambda inputs: outputs(module, values, inputs)


def _at(module: nn.Module, loss: Callable[[Run], Tensor], values: Values) -> Tensor:
    return loss(runner(module, values))


def _check(values: Iterable[Tensor], batch: int) -> None:
    check_finite(values, "derivatives of the loss", where="sensitivity", batch=batch)


def own_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy of `logits: [n, classes, ...]` against labels drawn from them."""
    scores = logits.movedim(1, -1).flatten(0, -2)
    with torch.no_grad():
        drawn = torch.multinomial(scores.double().softmax(-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(scores, drawn)
