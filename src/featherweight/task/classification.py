"""Classification: one label a sample, accuracy and cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.errors import TaskError
from featherweight.task.outputs import Outputs, logits
from featherweight.task.protocol import Batch, Output, Predict, Split
from featherweight.task.supervised import Supervised, check_labels

IGNORED = -100


class Classification(Supervised):
    """A network that returns one score per class, `[n, classes]` (or `[n, classes, ...]`, labels `[n, ...]`).

    The network may also return a dict, of which `logits` is taken (or its only entry), or a tuple, of which
    the first is. `accuracy` is the share of samples whose label has the highest score; `loss` is the mean
    cross-entropy, in nats, without smoothing. Labels of -100 are ignored, in training and in every metric.

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
    outputs: Outputs = "classes"

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
                count = int((labels != IGNORED).sum()) if isinstance(labels, Tensor) else 0
                loss += float(cross_entropy(scores, labels)) * count
                correct += int((scores.argmax(1) == labels).sum())
                total += count
        if not total:
            raise TaskError("no labels to compare with", where=f"{self.name}, {split} split")
        return {"accuracy": correct / total, "loss": loss / total}

    def scores(self, predict: Predict, split: Split) -> Tensor:
        """Return for each sample of a split 1 where its label has the highest score, else 0: `[n]`, float64.

        Of several labels a sample, or none (-100), the share of all labels times the number of samples.
        """
        hits, counts = [], []
        with torch.no_grad():
            for inputs, labels in self.batches(split, seed=0, epoch=0):
                same = (logits(predict(inputs)).argmax(1) == labels).reshape(len(labels), -1)
                hits.append(same.double().sum(1))
                counts.append((labels != IGNORED).reshape(len(labels), -1).double().sum(1))
        found, total = torch.cat(hits), torch.cat(counts)
        return found / total.mean()


def cross_entropy(scores: Tensor, labels: Any, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of `scores: [n, classes, ...]` against `labels: [n, ...]`.

    Labels of -100 are left out of the mean; if there are no others, it is 0.

    Raises:
        TaskError: no labels, none that are class indices of these scores, or not of a type of whole numbers.
    """
    check_labels(labels)
    if isinstance(labels, Tensor) and labels.is_floating_point():
        raise TaskError(
            "labels are not class indices",
            got=str(labels.dtype),
            expected="whole numbers",
            hint="pass labels.long() if they are whole; for other numbers there is Regression",
        )
    try:
        found = F.cross_entropy(
            scores.float(), labels.long(), label_smoothing=smoothing, ignore_index=IGNORED
        )
        return found if bool((labels != IGNORED).any()) else 0.0 * scores.float().sum()
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise TaskError(
            f"labels do not fit the scores: {error}",
            got=f"scores {tuple(scores.shape)}, labels {tuple(getattr(labels, 'shape', ()))}",
            expected="class indices, 0 to the number of classes - 1 (or -100: ignored)",
        ) from error
