"""Classification: one label a sample, accuracy and cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.errors import TaskError
from featherweight.task.protocol import Batch, Output, Predict, Split
from featherweight.task.supervised import Supervised


class Classification(Supervised):
    """A network that returns one score per class, `[n, classes]` (or `[n, classes, ...]`, labels `[n, ...]`).

    The network may also return a dict, of which `logits` is taken (or its only entry), or a tuple, of which
    the first is. `accuracy` is the share of samples whose label has the highest score; `loss` is the mean
    cross-entropy, in nats, without smoothing.

    >>> import torch
    >>> x, y = torch.randn(100, 4), torch.arange(100) % 3
    >>> task = Classification(torch.nn.Linear(4, 3), train=(x, y), test=(x, y))
    >>> [len(labels) for _, labels in task.batches("train", seed=0, epoch=0)]
    [90]
    >>> sorted(task.metrics(task.model(), "validation"))
    ['accuracy', 'loss']

    Args:
        model: see `Supervised`, as for everything that is not listed here.
        label_smoothing: share of each label that is spread over all classes, in training.
        options: further arguments of `Supervised`.
    """

    primary: str = "accuracy"

    def __init__(self, model: Any, *, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(model, **options)
        self.label_smoothing = label_smoothing

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of `output` against the labels, smoothed."""
        return cross_entropy(logits(output), batch[1], self.label_smoothing)

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return `accuracy` and `loss` on a split; `predict` may return tensors or arrays."""
        correct, total, loss = 0, 0, 0.0
        with torch.no_grad():
            for inputs, labels in self.batches(split, seed=0, epoch=0):
                scores = logits(predict(inputs))
                loss += float(cross_entropy(scores, labels, 0.0)) * labels.numel()
                correct += int((scores.argmax(1) == labels).sum())
                total += labels.numel()
        if not total:
            raise TaskError("no samples", where=f"{self.name}, {split} split")
        return {"accuracy": correct / total, "loss": loss / total}


def logits(output: Output) -> Tensor:
    """Return the scores `[n, classes, ...]` of what a network returned.

    Raises:
        TaskError: there are none.
    """
    if isinstance(output, Mapping):
        output = (
            output["logits"]
            if "logits" in output
            else next(iter(output.values()))
            if len(output) == 1
            else None
        )
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    scores = (
        output
        if isinstance(output, Tensor)
        else torch.as_tensor(output)
        if hasattr(output, "__array__")
        else None
    )
    if scores is None or scores.ndim < 2:
        raise TaskError(
            "not scores",
            got=type(output).__name__,
            expected="a tensor [n, classes], alone, first in a tuple, or `logits` of a dict",
        )
    return scores


def cross_entropy(scores: Tensor, labels: Any, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of `scores: [n, classes, ...]` against `labels: [n, ...]`.

    Raises:
        TaskError: labels that are no class indices of these scores, or not of a type of whole numbers.
    """
    if isinstance(labels, Tensor) and labels.is_floating_point():
        raise TaskError(
            "labels are not class indices",
            got=str(labels.dtype),
            expected="whole numbers",
            hint="pass labels.long() if they are whole; for other numbers there is Regression",
        )
    try:
        return F.cross_entropy(scores.float(), labels.long(), label_smoothing=smoothing)
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise TaskError(
            f"labels do not fit the scores: {error}",
            got=f"scores {tuple(scores.shape)}, labels {tuple(getattr(labels, 'shape', ()))}",
            expected="class indices, 0 to the number of classes - 1",
        ) from None
