"""A task that gives no more than a step declared to need: enforced, not documented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featherweight.errors import TaskError
from featherweight.task.failures import Guarded, failures
from featherweight.task.protocol import Batch, Inputs, Needs, Output, Predict, Split, Task

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        return Guarded(
            f"{self.name}, {split} split", batches, lambda batch: Unlabelled(self.task.inputs(batch))
        )

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
