"""Regression: numbers as labels, R2 and mean squared error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import TaskError
from featherweight.task.outputs import Outputs
from featherweight.task.protocol import Batch, Output, Predict, Split
from featherweight.task.supervised import Supervised, check_labels


class Regression(Supervised):
    """A network that returns numbers of the shape of its labels.

    `r2` is the share of the labels' variance that is explained (1: all of it), `loss` the mean squared error.
    """

    primary: str = "r2"
    outputs: Outputs = "values"

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the mean squared error of `output` against the labels."""
        labels: Tensor = batch[1]
        return (values(output, labels) - labels).square().mean()

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return `r2` and `loss` on a split; `predict` may return tensors or arrays."""
        errors, variance = self._errors(predict, split)
        loss = float(errors.mean())
        return {"r2": 1 - loss / variance if variance else 0.0, "loss": loss}

    def scores(self, predict: Predict, split: Split) -> Tensor:
        """Return 1 - squared error / variance of the labels of each sample of a split, `[n]`, float64."""
        errors, variance = self._errors(predict, split)
        return 1 - errors / variance if variance else torch.zeros_like(errors)

    def _errors(self, predict: Predict, split: Split) -> tuple[Tensor, float]:
        """Return the mean squared error of each sample `[n]`, and the variance of all labels."""
        with torch.no_grad():
            pairs = [
                (values(predict(x), y).double(), y.double()) for x, y in self.batches(split, seed=0, epoch=0)
            ]
        if not pairs:
            raise TaskError("no samples", where=f"{self.name}, {split} split")
        outputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        errors = (outputs - labels).square().reshape(len(labels), -1).mean(1)
        return errors, float(labels.var(correction=0))


def values(output: Output, labels: Any) -> Tensor:
    """Return what a network returned as a tensor of the shape of the labels.

    Raises:
        TaskError: no labels, or outputs of another shape, which broadcasting would turn into a wrong error.
    """
    check_labels(labels)
    found: Tensor = output if isinstance(output, Tensor) else torch.as_tensor(output)
    if found.shape != labels.shape:
        raise TaskError(
            "outputs are not of the shape of the labels", got=tuple(found.shape), expected=tuple(labels.shape)
        )
    return found
