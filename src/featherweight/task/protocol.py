"""The task, the only thing a user writes in Python: its protocol, what steps may see of it, its errors. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from featherweight.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "calibration", "validation", "test"]
Needs = Literal["none", "unlabelled", "labelled"]
ENDLESS = 50_000  # batches of one epoch, beyond which a loader without a length is taken for endless

# What a network is called with: one tensor, positional arguments, or keyword arguments.
Inputs = Any
# What a network returns: any nesting of tensors.
Output = Any
Batch = Any
Predict = Callable[[Inputs], Output]


@runtime_checkable
class Task(Protocol):
    """A network with its data and its measure.

    Choices are made on `validation`, which is held out of the training set; `test` is read once, at the end.
    Everything is a function of its arguments: the same seed and epoch give the same batches in any process.

    A task may have more: `training` (a `featherweight.task.training.Training`: how its network is trained from the
    start; without it, or None, the network comes trained), `dynamic_shapes()` (input name to the axes whose size
    is free; without it the first axis of every input is, where the network allows), `scores(predict, split)`
    (the primary metric of each sample `[n]`, in one order, whose mean is that of `metrics`: by it two networks are
    compared sample by sample; without it their means alone are), `outputs` (`classes` or `values`: what the
    network returns; without it see `featherweight.task.outputs`), `axis` (of the classes; without it 1), `whole` (True:
    a batch is neither cut nor put together with others), `notes` (what reports are to say of it), `steady` (False:
    its data differ from run to run, which reports say) and `again()` (makes an equal one in another process, to which
    the task is sent whole without it).
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def primary(self) -> str:
        """The metric that counts, higher is better, as a fraction (0.99, not 99)."""

    def model(self) -> nn.Module:
        """Return the network as training or compression starts from it; a new, equal one at each call."""

    def example(self) -> Inputs:
        """Return inputs of the right shapes and types, two samples in the batch."""

    def batches(self, split: Split, *, seed: int, epoch: int) -> Iterable[Batch]:
        """Return the batches of a split; `train` is shuffled (and augmented) by seed and epoch."""

    def inputs(self, batch: Batch) -> Inputs:
        """Return what the network is called with."""

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the scalar that training minimises."""

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return every metric of `predict` on a split; `primary` is one of them."""

    def fingerprint(self) -> str:
        """Return a hash of all that the results depend on: network, data, loss, augmentation."""


def network_of(task: Task) -> nn.Module:
    """Return the network of a task, to be read only: with the task's own tensors where it hands them out."""
    shared: Callable[[], nn.Module] = getattr(task, "shared", task.model)
    return shared()


def call(module: Callable[..., Output], inputs: Inputs) -> Output:
    """Call a network with one tensor, a tuple of positional arguments, or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple):
        return module(*inputs)
    return module(inputs)


@contextmanager
def failures(where: str) -> Iterator[None]:
    """Raise any error of a user's code as a `TaskError` that names the place and keeps the cause."""
    try:
        yield
    except TaskError as error:
        if error.where:
            raise
        said = {"got": error.got, "expected": error.expected, "hint": error.hint}
        raise TaskError(error.what, where=where, **said) from error.__cause__
    except Exception as error:
        raise TaskError(f"failed: {type(error).__name__}: {error}", where=where) from error


@dataclass(frozen=True, eq=False)
class Guarded:
    """Items made by a user's code: errors raised while one is made name the place, errors of the consumer do not.

    `len` is known if that of `items` is. Each iteration starts at the beginning if `items` allows it. Endless
    items are an error: more than `ENDLESS`, and more than twice their length if they have one.
    """

    where: str
    items: Iterable[Any]
    change: Callable[[Any], Any] = lambda item: item

    def __iter__(self) -> Iterator[Any]:
        most = max(ENDLESS, 2 * (known_length(self.items) or 0))
        with failures(self.where):
            for taken, item in enumerate(self.items):
                if taken == most:
                    raise TaskError(
                        f"no end after {most} batches", where=self.where, expected="batches that end",
                        hint="stop an endless loader (itertools.islice); a very long one needs a __len__",
                    )  # fmt: skip
                yield self.change(item)

    def __len__(self) -> int:
        """Return the number of items; TypeError where it is not known."""
        return len(self.items)  # type: ignore[arg-type]


def known_length(items: Iterable[Any]) -> int | None:
    """Return how many items there are, None where only iteration would tell."""
    try:
        return len(items)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a DataLoader of an IterableDataset has `__len__` and raises
        return None


@dataclass(frozen=True)
class Unlabelled:
    """A batch of which only the inputs are left."""

    inputs: Any


@dataclass(frozen=True)
class Restricted:
    """`task` as a step sees it that declared `needs`.

    `none` may build the network and nothing more; `unlabelled` may read inputs of the training and calibration
    splits, never a label, a loss or a metric; `labelled` may read everything but `test`.
    """

    task: Task
    needs: Needs

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def primary(self) -> str:
        """Name of the metric that counts."""
        return self.task.primary

    @property
    def training(self) -> Any:
        """Options of training that the task offers as its own; None if it offers none."""
        return getattr(self.task, "training", None)

    @property
    def outputs(self) -> Any:
        """What the network returns, where the task says so: `classes` or `values`."""
        return getattr(self.task, "outputs", None)

    @property
    def axis(self) -> int:
        """The axis of the outputs along which the classes stand."""
        return getattr(self.task, "axis", 1)

    @property
    def whole(self) -> bool:
        """Whether batches are neither cut nor put together."""
        return getattr(self.task, "whole", False)

    @property
    def again(self) -> Callable[[], Restricted] | None:
        """What makes an equal one in another process, where the task has such a thing."""
        make = getattr(self.task, "again", None)
        return make and partial(_restricted, make, self.needs)

    def model(self) -> nn.Module:
        """Return the network of the task."""
        return self.task.model()

    def example(self) -> Inputs:
        """Return inputs of the right shapes and types."""
        return self.task.example()

    def batches(self, split: Split, *, seed: int, epoch: int) -> Iterable[Batch]:
        """Return the batches of a split, stripped of labels where only inputs were asked for."""
        if self.needs == "none":
            raise self._refusal("data")
        if split == "test" or (self.needs == "unlabelled" and split == "validation"):
            raise self._refusal(f"the {split} split")
        batches = self.task.batches(split, seed=seed, epoch=epoch)
        if self.needs == "labelled":
            return batches
        where = f"{self.name}, {split} split"
        return Guarded(where, batches, lambda batch: Unlabelled(self.task.inputs(batch)))

    def inputs(self, batch: Batch) -> Inputs:
        """Return what the network is called with."""
        return batch.inputs if isinstance(batch, Unlabelled) else self.task.inputs(batch)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the scalar that training minimises."""
        if self.needs != "labelled":
            raise self._refusal("labels")
        with failures(f"{self.name}, loss"):
            return self.task.loss(output, batch)

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return every metric on a split other than test."""
        if self.needs != "labelled":
            raise self._refusal("metrics")
        if split == "test":
            raise self._refusal("the test split")
        with failures(f"{self.name}, metrics on {split}"):
            return self.task.metrics(predict, split)

    def fingerprint(self) -> str:
        """Return the hash of all that the results depend on."""
        return self.task.fingerprint()

    def _refusal(self, asked: str) -> TaskError:
        return TaskError(f"a step that declared needs = {self.needs!r} asked for {asked}", where=self.name)


def _restricted(make: Callable[[], Task], needs: Needs) -> Restricted:
    return Restricted(make(), needs)
