"""Tasks with labels: splits, seeded batches and the fingerprint. A subclass adds loss and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from featherweight.data.indexed import Indexed, Subset, held_out, permutation
from featherweight.errors import TaskError
from featherweight.structure import copied, to_call
from featherweight.task.identity import hashed
from featherweight.task.protocol import Batch, Guarded, Inputs, Output, Predict, Split, call, failures
from featherweight.task.samples import (
    Augment,
    Batches,
    Samples,
    Stream,
    in_plain_order,
    rows,
    samples,
    seeded,
    size_of,
)
from featherweight.task.training import Training

HELD_OUT = 0.1
CALIBRATION = 512
BATCH_SIZE = 128
# Attributes that the fingerprint takes in another way, or not: names decide no result.
NOT_COUNTED = {
    "_network", "_networks", "_splits", "_answers", "_room", "held_out", "name", "dataset", "again",
}  # fmt: skip


class Supervised(ABC):
    """A network with `(inputs, labels)` data.

    Args:
        model: a module, whose weights now are the start (it is copied); or a function without arguments that
            returns one (called under a fixed seed).
        train: a pair of tensors or arrays `(inputs, labels)`; or a map-style `Dataset`; or a `DataLoader` or
            any other re-iterable of `(inputs, labels)` batches. Inputs are a tensor, a tuple (positional
            arguments) or a dict (keyword arguments); a dict alone, as tokenizers give it, may hold `labels`. Of a
            loader that visits each item of a map-style data set once, the data set, the collate function, the
            batch size and the workers are taken, and the order is ours; any other is iterated as it is, and then
            its own shuffling decides whether two runs are equal.
        test: as `train`; read once, for the report.
        validation: as `train`; without it a tenth of the training set is held out, always the same. Pass it if
            the network was trained on all of `train`: on memorised samples every loss looks smaller than it is.
        calibration: inputs alone or as `train`; without it 512 samples of the training set.
        name: what reports call the task; without it the name of the network's class.
        dataset: what reports call the data.
        batch_size: without it that of the training loader, else 128. An epoch is cut into equal batches, none
            larger.
        augment: pure function `(inputs, generator) -> inputs` for training batches.
        training: how the network is trained from the start; None: it comes trained.

    Raises:
        TaskError: not a network, not data, no labels, or a training set that nothing can be held out of.
    """

    primary: str
    labelled: bool = True

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        *,
        train: Any,
        test: Any,
        validation: Any = None,
        calibration: Any = None,
        name: str = "",
        dataset: str = "",
        batch_size: int | None = None,
        augment: Augment | None = None,
        training: Training | None = None,
    ) -> None:
        self._network = build(model, name)
        self._splits = split_data(train, validation, calibration, test)
        self.name = name or type(self._network).__name__.lower()
        self.dataset = dataset
        taken = train.batch_size if isinstance(train, DataLoader) and in_plain_order(train) else None
        self.batch_size = batch_size or taken or BATCH_SIZE
        self.training = training
        self.held_out = validation is None
        self._augment = augment
        self._networks: dict[str, str] = {}
        for split in ("validation", "test") if self.labelled else ():  # before hours are spent
            with failures(f"{self.name}, {split} split"):
                labels = first(self._splits[split], 1)[1]
            if labels is None:
                hint = "pass (inputs, labels); featherweight.Agreement needs no labels"
                raise TaskError("no labels", where=split, got="inputs alone", hint=hint)

    @abstractmethod
    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the scalar that training minimises."""

    @abstractmethod
    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return every metric of `predict` on a split; `primary` is one of them."""

    @property
    def steady(self) -> bool:
        """Whether the data that steps read are the same in every run."""
        return self._splits["train"].steady and self._splits["calibration"].steady

    def model(self) -> nn.Module:
        """Return a copy of the network as it was given."""
        return copied(self._network, {})

    def shared(self) -> nn.Module:
        """Return a copy of the network that shares its tensors with it: to be read, and never written to."""
        if type(self).model is not Supervised.model:
            return self.model()
        return copied(
            self._network, {id(t): t for t in (*self._network.parameters(), *self._network.buffers())}
        )

    def example(self) -> Inputs:
        """Return the inputs of two samples."""
        return first(self._splits["calibration"], 2)[0]

    def batches(self, split: Split, *, seed: int, epoch: int) -> Iterable[tuple[Any, Any]]:
        """Return batches `(inputs, labels)`; `train` is shuffled by seed and epoch, the others never are.

        `len` of it is their number, but for a loader that does not tell its own.
        """
        batches = Batches(self._splits[split], self.batch_size)
        if split == "train":
            batches = Batches(self._splits[split], self.batch_size, (seed, epoch), self._augment)
        return Guarded(f"{self.name}, {split} split", batches)

    def inputs(self, batch: Batch) -> Inputs:
        """Return what the network is called with."""
        return batch[0]

    def fingerprint(self) -> str:
        """Return a hash of the network (weights, attributes, code, outputs), the data, and all else of the task.

        All else: the code of its class and of every class it is derived from, and its attributes (batch size,
        augmentation, training, those of a subclass), but not what reports call it. Of large data a part is
        read, see `featherweight.task.samples`. Attributes and tensors may be changed in place afterwards: the
        hash changes with them. Data sets and loaders are read once; make a new task of one that was changed.
        """
        with failures(f"{self.name}, data"):
            data = {split: self._splits[split].digest for split in sorted(self._splits)}
        own = {name: value for name, value in vars(self).items() if name not in NOT_COUNTED}
        return hashed(self._network_hash(), data, type(self), own)

    def _network_hash(self) -> str:
        """Return a hash of the network and of what it computes on the example; known examples are not run again."""
        try:
            example = self.example()
        except Exception:  # a failing data set is reported where its batches are used
            example = None
        key = hashed(example)
        if key not in self._networks:
            self._networks[key] = hashed(self.shared(), self._outputs(example))
        return self._networks[key]

    def _outputs(self, example: Inputs) -> str:
        """Return a hash of what the network computes on the example; empty if it fails or is never the same."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with seeded(0), torch.no_grad():
                first = hashed(call(to_call(self.shared()), example))
            with seeded(0), torch.no_grad():
                return first if first == hashed(call(to_call(self.shared()), example)) else ""
        except Exception:  # a failing network is reported where it is used
            return ""
        finally:
            torch.set_num_threads(threads)


def build(model: Any, name: str) -> nn.Module:
    """Return a network of one's own: a copy of a module, or what a function returns under a fixed seed."""
    if isinstance(model, nn.Module):
        try:
            return copied(getattr(model, "_orig_mod", model), {})  # what `torch.compile` was given
        except (RuntimeError, TypeError) as error:
            what, hint = f"the network cannot be copied: {error}", "pass a function that builds it"
            raise TaskError(what, where="model", hint=hint) from error
    if not callable(model):
        expected = "a module, or a function that returns one"
        raise TaskError("not a network", where="model", got=type(model).__name__, expected=expected)
    source = name or getattr(model, "__qualname__", type(model).__qualname__)
    with failures(f"{source}, model"), seeded(0):
        network = model()
    if not isinstance(network, nn.Module):
        raise TaskError("the function returned no network", where="model", got=type(network).__name__)
    return network


def split_data(train: Any, validation: Any, calibration: Any, test: Any) -> dict[Split, Samples]:
    """Return the data of every split."""
    rest, tested = samples(train, "train"), samples(test, "test")
    if validation is not None:
        held: Samples = samples(validation, "validation")
    elif isinstance(rest, Indexed) and len(rest) > 1:
        rest, held = held_out(rest, max(1, round(HELD_OUT * len(rest))))
    else:
        hint = "pass validation=, or training data that can be indexed: (inputs, labels) or a Dataset"
        got = type(train).__name__
        raise TaskError("nothing can be held out of the training set", where="train", got=got, hint=hint)
    if calibration is not None:
        seen: Samples = samples(calibration, "calibration")
    elif isinstance(rest, Indexed):
        seen = Subset(rest, np.sort(permutation(len(rest), CALIBRATION)[:CALIBRATION]))
    else:
        seen = Stream(rest.loader, CALIBRATION)
    return {"train": rest, "calibration": seen, "validation": held, "test": tested}


def first(data: Samples, count: int) -> tuple[Any, Any]:
    """Return the first samples `(inputs, labels)`, `count` of them: if there are not so many, the last one again."""
    if isinstance(data, Indexed):
        with seeded(0):
            return data.take(np.minimum(np.arange(count), len(data) - 1))
    inputs, labels = data.first()
    which = np.minimum(np.arange(count), size_of(inputs) - 1)
    return rows(inputs, which), rows(labels, which)


def check_labels(labels: Any) -> None:
    """Refuse labels that are no tensor."""
    if labels is None:
        raise TaskError("no labels", hint="pass (inputs, labels); featherweight.Agreement needs no labels")
    if not isinstance(labels, Tensor):
        raise TaskError("labels are not a tensor", got=type(labels).__name__)
