"""The diagonal of the curvature, parameter by parameter: one sample at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from featherweight.curvature.gauss_newton import flat_output, output_hessian
from featherweight.curvature.hvp import Values, check, differentiating, gradients, outputs, parameters
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Batch, Task
from featherweight.task.sampling import singly


def fisher_diagonal(model: Model, task: Task, batches: Iterable[Batch]) -> Values:
    """Return the mean over samples of the squared gradient of each one's loss (the empirical Fisher)."""
    total: Values = {}
    count = 0
    for gradient, _ in gradients(model, task, batches, each=True):
        _add_squares(total, gradient)
        count += 1
    return {name: value / count for name, value in total.items()}


def gauss_newton_diagonal(model: Model, task: Task, batches: Iterable[Batch]) -> Values:
    """Return the diagonal of the mean over samples of `Phi' R Phi`, never negative.

    `Phi` is the Jacobian of a sample's outputs, `R` the Hessian of its loss in them. One backward pass a sample and
    output. Without the terms of second derivatives of the network, this is the recursion of Optimal Brain Damage.

    References: LeCun, Denker, Solla, Optimal brain damage, 1989, eq. 10 without its second term.
    """
    total: Values = {}
    count, module = 0, to_call(model.module)
    for number, batch in enumerate(batches):
        for sample in singly(task, batch):
            with differentiating():
                values = parameters(model)
                output = outputs(module, values, task.inputs(sample))
                hessian = output_hessian(task, output, sample)
                check([hessian], task, number, batch)
                for weights in _roots(hessian[0]):
                    along = (flat_output(output)[0] * weights).sum()
                    found = torch.autograd.grad(
                        along, list(values.values()), retain_graph=True, allow_unused=True
                    )
                    _add_squares(total, {n: g for n, g in zip(values, found, strict=True) if g is not None})
            count += 1
    return {name: value / count for name, value in total.items()}


def _roots(hessian: Tensor) -> Tensor:
    """Return rows `a` with `sum of a a' = hessian`, zero ones left out; negative eigenvalues count as zero."""
    values, vectors = torch.linalg.eigh(hessian)
    kept = values > values.abs().max() * 1e-12
    rows: Tensor = (vectors * values.clamp(min=0).sqrt()).T
    return rows[kept]


def _add_squares(total: Values, gradient: Values) -> None:
    for name, value in gradient.items():
        total[name] = total.get(name, 0) + value.detach().square()
