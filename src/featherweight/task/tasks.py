"""Tasks: classification and regression with labels, and agreement with a trained network without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.errors import ConfigError, TaskError
from featherweight.structure import to_call
from featherweight.task.identity import hashed
from featherweight.task.outputs import (
    Outputs,
    Spread,
    by_channel,
    described,
    distance,
    logits,
    main_output,
    outputs_of,
    paired,
    scores_of,
)
from featherweight.task.protocol import Batch, Guarded, Inputs, Output, Predict, Split, call
from featherweight.task.samples import nbytes
from featherweight.task.supervised import Supervised, check_labels

IGNORED = -100
ANSWERS = 1 << 28  # bytes of a network's answers that are kept; others are computed again


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
        hits, counts, loss = self._compared(predict, split)
        return {"accuracy": float(hits.sum() / counts.sum()), "loss": loss}

    def scores(self, predict: Predict, split: Split) -> Tensor:
        """Return for each sample of a split 1 where its label has the highest score, else 0: `[n]`, float64.

        Of several labels a sample, or none (-100), the share of all labels times the number of samples.
        """
        hits, counts, _ = self._compared(predict, split)
        return hits / counts.mean()

    def _compared(self, predict: Predict, split: Split) -> tuple[Tensor, Tensor, float]:
        """Return how many labels of each sample are met, `[n]`, and how many there are, and the mean loss."""
        hits, counts, loss = [], [], 0.0
        with torch.no_grad():
            for inputs, labels in self.batches(split, seed=0, epoch=0):
                scores = logits(predict(inputs))
                mean = float(cross_entropy(scores, labels))
                counts.append((labels != IGNORED).reshape(len(labels), -1).double().sum(1))
                hits.append((scores.argmax(1) == labels).reshape(len(labels), -1).double().sum(1))
                loss += mean * int(counts[-1].sum())
        total = sum(float(count.sum()) for count in counts)
        if not total:
            raise TaskError("no labels to compare with", where=f"{self.name}, {split} split")
        return torch.cat(hits), torch.cat(counts), loss / total


def cross_entropy(scores: Tensor, labels: Any, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of `scores: [n, classes, ...]` against `labels: [n, ...]`.

    Labels of -100 are left out of the mean; if there are no others, it is 0.
    """
    check_labels(labels)
    if labels.is_floating_point():
        hint = "pass labels.long() if they are whole; for other numbers there is Regression"
        raise TaskError("labels are not class indices", got=labels.dtype, expected="whole numbers", hint=hint)
    scores = scores.float()
    try:
        found = F.cross_entropy(scores, labels.long(), label_smoothing=smoothing, ignore_index=IGNORED)
    except (IndexError, RuntimeError, ValueError) as error:
        got = f"scores {tuple(scores.shape)}, labels {tuple(labels.shape)}"
        expected = "class indices, 0 to the number of classes - 1 (or -100: ignored)"
        raise TaskError(f"labels do not fit the scores: {error}", got=got, expected=expected) from error
    return found if bool((labels != IGNORED).any()) else 0.0 * scores.sum()


class Regression(Supervised):
    """A network that returns numbers of the shape of its labels, alone, first in a tuple, or the only entry of a dict.

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
        batches = self.batches(split, seed=0, epoch=0)
        with torch.no_grad():
            pairs = [(values(predict(x), y).double(), y.double()) for x, y in batches]
        if not pairs:
            raise TaskError("no samples", where=f"{self.name}, {split} split")
        outputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        errors = (outputs - labels).square().reshape(len(labels), -1).mean(1)
        return errors, float(labels.var(correction=0))


def values(output: Output, labels: Any) -> Tensor:
    """Return what a network returned as a tensor of the shape of the labels."""
    check_labels(labels)
    found = main_output(output)
    if found is None:
        expected = "a tensor, alone, first in a tuple, or the only entry of a dict"
        raise TaskError("not numbers to compare with labels", got=described(output), expected=expected)
    if found.shape != labels.shape:
        what = "outputs are not of the shape of the labels"
        raise TaskError(what, got=tuple(found.shape), expected=tuple(labels.shape))
    return found


class Agreement(Supervised):
    """A trained network and inputs without labels; the metric is agreement with this network.

    `agreement` is 1 for the network itself. Of scores of classes it is the share of samples with the same top-1
    class. Of values it is the explained variance: 1 - squared error / variance, for each channel (axis 1) of each
    output on its own, and the mean of these, so that outputs of small numbers count as much as those of large; of
    integers the share that are equal. `loss` is the cross-entropy to the network's own top-1 class in nats; of
    values 1 - agreement.

    >>> import torch
    >>> task = Agreement(torch.nn.Linear(4, 3), train=torch.randn(100, 4), test=torch.randn(50, 4))
    >>> task.metrics(task.model(), "test")["agreement"]
    1.0

    Args:
        model: see `Supervised`, as for everything that is not listed here. The network comes trained.
        outputs: `classes` if the network returns scores `[n, classes, ...]` (as `Classification` takes them), or
            `values`. By default a single tensor `[n, 2 or more]` has scores, and everything else has values.
        axis: along which the classes stand: -1 for a network that returns scores `[n, time, classes]`.
        options: further arguments of `Supervised`. Data are inputs alone, or as there: labels are not read.
            `(inputs, None)` stands for several inputs of a network.

    Raises:
        ConfigError: it is to be trained from the start: there is nothing to agree with.
    """

    primary: str = "agreement"
    labelled: bool = False

    def __init__(self, model: Any, *, outputs: Outputs | None = None, axis: int = 1, **options: Any) -> None:
        if options.get("training") is not None:
            raise ConfigError(
                "an untrained network has no answers to agree with", where="training",
                hint="train it first, by a task with labels, and hand over the result",
            )  # fmt: skip
        super().__init__(model, **options)
        self._given, self.axis = outputs, axis
        self._answers: dict[str, Output] = {}
        self._room = ANSWERS

    @classmethod
    def of(cls, task: Supervised, **options: Any) -> Agreement:
        """Return the task with the trained network and the data of another one, whose labels are not read.

        `options` stand in place of its own splits, name, dataset or batch size.
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
            return cross_entropy(scores_of(self, output), scores_of(self, answer).argmax(1))
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
            classes = self.outputs == "classes"
            pairs = ((predict(inputs), answer) for inputs, answer in self._answered(split, classes))
            first = next(pairs, None)
            if first is None:
                raise TaskError("no samples", where=f"{self.name}, {split} split")
            every = chain([first], pairs)
            if classes:
                return _same((scores_of(self, output), top) for output, top in every)
            return _explained(every)

    def _answered(self, split: Split, classes: bool) -> Iterator[tuple[Inputs, Output]]:
        """Yield the inputs of a split with the network's answers, of `classes` the top ones alone.

        Each is computed once, but those that `ANSWERS` has no room for.
        """
        for inputs in self.batches(split, seed=0, epoch=0):
            key = hashed(inputs)
            answer = self._answers.get(key)
            if answer is None:
                answer = self.answer(inputs)
                answer = scores_of(self, answer).argmax(1) if classes else answer
                self._room -= nbytes(answer)
                if self._room >= 0:
                    self._answers[key] = answer
                else:
                    self._room += nbytes(answer)
            yield inputs, answer


def _same(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, float]:
    same, loss = [], 0.0
    for scores, top in pairs:
        same.append((scores.argmax(1) == top).reshape(len(top), -1).double().mean(1))
        loss += float(cross_entropy(scores, top)) * len(top)
    every = torch.cat(same)
    return every, loss / len(every)


def _by_sample(tensors: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return outputs with samples along axis 0: those of one call whose first axes differ are of one sample."""
    if all(ours.ndim for ours, _ in tensors) and len({len(ours) for ours, _ in tensors}) == 1:
        return tensors
    return [(ours.reshape(1, 1, -1), theirs.reshape(1, 1, -1)) for ours, theirs in tensors]


def _explained(pairs: Iterable[tuple[Output, Output]]) -> tuple[Tensor, float]:
    """Return 1 - squared error over variance of each sample, the mean over outputs and channels; and 1 - its mean.

    A batch at a time: of each no more is kept than the error of each sample and channel and the spread of each channel.
    """
    parts: list[list[tuple[Tensor, Spread | None]]] = []
    for output, answer in pairs:
        tensors = _by_sample(paired(output, answer, integers=True))
        parts.append([_compared_with(ours, theirs) for ours, theirs in tensors])
    found = []
    for seen in zip(*parts, strict=True):  # one output of the network, in every batch
        errors, spreads = [error for error, _ in seen], [spread for _, spread in seen if spread]
        if not spreads:
            found.append(1 - torch.cat(errors).mean(1))
            continue
        if len({error.shape[1] for error in errors}) > 1:  # a free axis
            errors, spreads = (
                [e.mean(1, keepdim=True) for e in errors],
                [one.over_channels() for one in spreads],
            )
        found.append(1 - (torch.cat(errors) / Spread.joined(spreads).scale()).mean(1))
    agreement = torch.stack(found).mean(0)
    return agreement, 1 - float(agreement.mean())


def _compared_with(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Spread | None]:
    """Return the mean error of each sample and channel, `[n, c]`, and how far the answers spread; of integers which."""
    if not theirs.is_floating_point():
        return (ours != theirs).reshape(len(ours), -1).double().mean(1, keepdim=True), None
    ours, theirs = by_channel(ours).double(), by_channel(theirs).double()
    spread = Spread.of(theirs)
    return ours.sub(theirs).square_().mean(2), spread
