"""Regression: numbers as labels, R2 and mean squared error."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featherweight.errors import TaskError
from featherweight.task.protocol import Batch, Output, Predict, Split
from featherweight.task.supervised import Supervised


class Regression(Supervised):
    """A network that returns numbers of the shape of its labels.

    `r2` is the share of the labels' variance that is explained (1: all of it), `loss` the mean squared error.
    """

    primary: str = "r2"

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the mean squared error of `output` against the labels."""
        labels: Tensor = batch[1]
        return (values(output, labels) - labels).square().mean()

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return `r2` and `loss` on a split; `predict` may return tensors or arrays."""
        with torch.no_grad():
            pairs = [
                (values(predict(x), y).double(), y.double()) for x, y in self.batches(split, seed=0, epoch=0)
            ]
        outputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        loss = float((outputs - labels).square().mean())
        variance = float(labels.var(correction=0))
        return {"r2": 1 - loss / variance if variance else 0.0, "loss": loss}


def values(output: Output, labels: Tensor) -> Tensor:
    """Return what a network returned as a tensor of the shape of the labels.

    Raises:
        TaskError: it is of another shape: broadcasting would give a wrong error silently.
    """
    found: Tensor = output if isinstance(output, Tensor) else torch.as_tensor(output)
    if found.shape != labels.shape:
        raise TaskError(
            "outputs are not of the shape of the labels", got=tuple(found.shape), expected=tuple(labels.shape)
        )
    return found
