"""Second-order prediction of loss increase from the curvature at the float network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from featherweight.curvature.loss import BatchLoss, fisher_by_batch, hessian_traces, own_loss
from featherweight.model import Model
from featherweight.task import Task
from featherweight.task.failures import failures
from featherweight.task.outputs import logits
from featherweight.task.samples import size_of

PredictionMethod = Literal["fisher", "empirical", "hawq"]
# The loss that an error of a tensor, by name, is expected to add.
Damage = Callable[[str, Tensor], float]


def predict_damage(
    by: PredictionMethod, model: Model, task: Task, names: Sequence[str], *, batches: int = 16, seed: int = 0
) -> Damage:
    """Return the damage `e' H e / 2` of an error e in one of `names`, for a curvature H that is cheap.

    `fisher`: the diagonal of the Fisher matrix, labels drawn from the network's own outputs (logits); no label is
    read, and the loss is the divergence (KL) from what the network said. `empirical`: the same with the labels and
    the loss of the task. `hawq`: the mean of the trace of the Hessian of the task's loss, the same for each weight
    of a tensor.

    References: LeCun, Denker, Solla, Optimal brain damage, 1989, eq. 3 (diagonal); Dong et al., HAWQ-V2, 2020,
    arXiv 1911.03852, eq. 6 (mean trace).

    Args:
        by: which curvature.
        model: the float network.
        task: gives the validation split.
        names: tensors.
        batches: how many validation batches to see.
        seed: of drawn labels and signs.
    """
    with failures(f"{task.name}, loss on validation"), torch.enable_grad():
        if by == "hawq":
            traces = hessian_traces(model, names, _losses(task, batches), seed=seed)
            return lambda name, error: 0.5 * traces[name] * float(error.double().square().mean())
        generator = torch.Generator().manual_seed(seed) if by == "fisher" else None
        diagonal = fisher_by_batch(model, names, _losses(task, batches, generator))
    return lambda name, error: 0.5 * float((diagonal[name] * error.double().square()).sum())


def _losses(task: Task, batches: int, generator: torch.Generator | None = None) -> Iterator[BatchLoss]:
    """Yield the loss of each batch and its samples: the task's, or given a generator that of drawn labels."""

    def of(batch: Any, inputs: Any) -> BatchLoss:
        if generator is None:
            return lambda run: task.loss(run(inputs), batch), size_of(inputs)
        return lambda run: own_loss(logits(run(inputs)), generator), size_of(inputs)

    for batch in islice(task.batches("validation", seed=0, epoch=0), batches):
        yield of(batch, task.inputs(batch))
