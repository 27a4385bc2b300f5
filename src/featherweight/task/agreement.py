"""Agreement: a task without labels; the metric is how often a network answers as the original one does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import ConfigError, TaskError
from featherweight.structure import to_call
from featherweight.task.classification import cross_entropy
from featherweight.task.failures import Guarded
from featherweight.task.identity import hashed
from featherweight.task.outputs import Outputs, by_channel, distance, logits, outputs_of, paired, spread
from featherweight.task.protocol import Batch, Inputs, Output, Predict, Split, call
from featherweight.task.supervised import Supervised


class Agreement(Supervised):
    """A trained network and inputs without labels; the metric is agreement with this network.

    `agreement` is 1 for the network itself. Of scores of classes it is the share of samples with the same top-1
    class. Of values it is the explained variance: 1 - squared error / variance, for each channel (axis 1) of each
    output on its own, and the mean of these, so that outputs of small numbers count as much as those of large.
    `loss` is the cross-entropy to the network's own top-1 class in nats; of values 1 - agreement.

    >>> import torch
    >>> task = Agreement(torch.nn.Linear(4, 3), train=torch.randn(100, 4), test=torch.randn(50, 4))
    >>> task.metrics(task.model(), "test")["agreement"]
    1.0

    Args:
        model: see `Supervised`, as for everything that is not listed here. The network comes trained.
        outputs: `classes` if the network returns scores `[n, classes, ...]` (as `Classification` takes them), or
            `values`. By default a single tensor `[n, 2 or more]` has scores, and everything else has values.
        options: further arguments of `Supervised`. Data are inputs alone, or as there: labels are not read.
            `(inputs, None)` stands for several inputs of a network.

    Raises:
        ConfigError: it is to be trained from the start: there is nothing to agree with.
    """

    primary: str = "agreement"
    labelled: bool = False

    def __init__(self, model: Any, *, outputs: Outputs | None = None, **options: Any) -> None:
        if options.get("training") is not None:
            raise ConfigError(
                "an untrained network has no answers to agree with", where="training",
                hint="train it first, by a task with labels, and hand over the result",
            )  # fmt: skip
        super().__init__(model, **options)
        self._given = outputs
        self._answers: dict[str, Output] = {}

    @classmethod
    def of(cls, task: Supervised, **options: Any) -> Agreement:
        """Return the task with the network and the data of another one, whose labels are not read.

        Args:
            task: the other one; its network comes trained.
            options: in place of its own splits, name, dataset or batch size.
        """
        own: dict[str, Any] = {"name": task.name, "dataset": task.dataset, "batch_size": task.batch_size}
        splits: dict[str, Any] = {str(split): data for split, data in task._splits.items()}
        return cls(task.model(), **{**own, **splits, **options})

    @property
    def outputs(self) -> Outputs:
        """Whether the network returns scores of classes, or values."""
        return self._given or outputs_of(None, self.answer(self.example()))

    def answer(self, inputs: Inputs) -> Output:
        """Return the outputs of the original network."""
        with torch.no_grad():
            return call(to_call(self._network), inputs)

    def batches(self, split: Split, *, seed: int, epoch: int) -> Iterable[Any]:
        """Return batches of inputs; `train` is shuffled by seed and epoch, the others never are."""
        found = super().batches(split, seed=seed, epoch=epoch)
        return Guarded(f"{self.name}, {split} split", found, lambda batch: batch[0])

    def inputs(self, batch: Batch) -> Inputs:
        """Return what the network is called with."""
        return batch

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the cross-entropy to the network's own top-1 class; of values the squared error over the variance."""
        answer = self.answer(batch)
        if self.outputs == "classes":
            return cross_entropy(logits(output), logits(answer).argmax(1))
        return distance(output, answer)

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return `agreement` and `loss` on a split; `predict` may return tensors or arrays."""
        agreement, loss = self._compared(predict, split)
        return {"agreement": float(agreement.mean()), "loss": loss}

    def scores(self, predict: Predict, split: Split) -> Tensor:
        """Return the agreement of each sample of a split `[n]`, float64."""
        return self._compared(predict, split)[0]

    def _compared(self, predict: Predict, split: Split) -> tuple[Tensor, float]:
        """Return the agreement of each sample `[n]`, and the mean loss."""
        with torch.no_grad():
            pairs = [(predict(inputs), answer) for inputs, answer in self._answered(split)]
            if not pairs:
                raise TaskError("no samples", where=f"{self.name}, {split} split")
            return _same(pairs) if self.outputs == "classes" else _explained(pairs)

    def _answered(self, split: Split) -> Iterator[tuple[Inputs, Output]]:
        """Yield the inputs of a split with the network's answers, each computed once."""
        for inputs in self.batches(split, seed=0, epoch=0):
            key = hashed(inputs)
            if key not in self._answers:
                self._answers[key] = self.answer(inputs)
            yield inputs, self._answers[key]


def _same(pairs: list[tuple[Output, Output]]) -> tuple[Tensor, float]:
    same, loss, count = [], 0.0, 0
    for output, answer in pairs:
        scores, top = logits(output), logits(answer).argmax(1)
        hits = scores.argmax(1) == top
        same.append(hits.reshape(len(hits), -1).double().mean(1))
        loss += float(cross_entropy(scores, top)) * len(hits)
        count += len(hits)
    return torch.cat(same), loss / count


def _explained(pairs: list[tuple[Output, Output]]) -> tuple[Tensor, float]:
    parts = [paired(output, answer) for output, answer in pairs]
    found = []
    for tensors in zip(*parts, strict=True):  # one output of the network, in every batch
        ours, theirs = ([by_channel(side.double()) for side in sides] for sides in zip(*tensors, strict=True))
        if len({side.shape[1] for side in theirs}) > 1:  # a free axis
            ours, theirs = ([side.flatten(1)[:, None] for side in sides] for sides in (ours, theirs))
        errors = torch.cat([(a - b).square().mean(2) for a, b in zip(ours, theirs, strict=True)])
        places = torch.cat([side.transpose(0, 1).flatten(1) for side in theirs], 1)
        found.append(1 - (errors / spread(places)).mean(1))
    agreement = torch.stack(found).mean(0)
    return agreement, 1 - float(agreement.mean())
