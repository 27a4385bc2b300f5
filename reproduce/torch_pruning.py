"""Torch-Pruning, to be compared with: its importances on its own dependency graph, at a cost of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn

from featherweight.errors import UnsupportedError
from featherweight.task import Task

Importance = Literal["magnitude", "taylor"]
BATCHES = 2  # that Taylor sees
STEPS = 8  # of the bisection: 1/256 of the channels


def installed() -> str:
    """Return its version, or an empty string."""
    try:
        return version("torch-pruning")
    except PackageNotFoundError:
        return ""


def torch_pruned(
    task: Task, importance: Importance, seed: int, cost: Callable[[nn.Module], float], limit: float
) -> nn.Module:
    """Return the task's network with the fewest channels removed that cost no more than `limit`.

    All layers but the last compete; each keeps a tenth of its channels, which is the package's own advice.

    Args:
        task: the network comes trained.
        importance: L2 norm or first-order Taylor of coupled channels, with the package's defaults.
        seed: of the samples that Taylor sees.
        cost: of a network.
        limit: what it may cost.

    Raises:
        UnsupportedError: it cannot get there.
    """
    network = task.model().eval()
    parameters = list(network.parameters())
    batches = islice(task.batches("train", seed=seed, epoch=0), BATCHES)
    loss = torch.stack([task.loss(network(task.inputs(batch)), batch) for batch in batches]).sum()
    gradients = torch.autograd.grad(loss, parameters)
    found, low, high = None, 0.0, 1.0
    for _ in range(STEPS):
        ratio = (low + high) / 2
        smaller = copy.deepcopy(network)
        for parameter, gradient in zip(smaller.parameters(), gradients, strict=True):
            parameter.grad = gradient
        _prune(smaller, task.example(), importance, ratio)
        if cost(smaller) <= limit:
            found, high = smaller, ratio
        else:
            low = ratio
    if found is None:
        raise UnsupportedError("Torch-Pruning cannot reach the cost", where=task.name, got=f"{limit:g}")
    for parameter in found.parameters():
        parameter.grad = None
    return found


def _prune(network: nn.Module, example: Any, importance: Importance, ratio: float) -> None:
    """Remove a share of the channels, in place."""
    import torch_pruning as tp

    kind = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }[importance]
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    with torch.enable_grad():
        pruner = tp.pruner.BasePruner(
            network, example, importance=kind(), global_pruning=True, pruning_ratio=ratio,
            max_pruning_ratio=0.9, ignored_layers=last,
        )  # fmt: skip
        pruner.step()
