"""The task: the only thing a user writes in Python. A network, its data, and what counts as good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "calibration", "validation", "test"]
Needs = Literal["none", "unlabelled", "labelled"]

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
    network returns; without it see `featherweight.task.outputs`) and `steady` (False: its data differ from run to
    run, which reports say).
    """

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def primary(self) -> str:
        """The metric that counts, higher is better, as a fraction (0.99, not 99)."""
        ...

    def model(self) -> nn.Module:
        """Return the network as training or compression starts from it; a new, equal one at each call."""
        ...

    def example(self) -> Inputs:
        """Return inputs of the right shapes and types, two samples in the batch."""
        ...

    def batches(self, split: Split, *, seed: int, epoch: int) -> Iterable[Batch]:
        """Return the batches of a split; `train` is shuffled (and augmented) by seed and epoch."""
        ...

    def inputs(self, batch: Batch) -> Inputs:
        """Return what the network is called with."""
        ...

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the scalar that training minimises."""
        ...

    def metrics(self, predict: Predict, split: Split) -> Mapping[str, float]:
        """Return every metric of `predict` on a split; `primary` is one of them."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of all that the results depend on: network, data, loss, augmentation."""
        ...


def call(module: Callable[..., Output], inputs: Inputs) -> Output:
    """Call a network with one tensor, a tuple of positional arguments, or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple):
        return module(*inputs)
    return module(inputs)
