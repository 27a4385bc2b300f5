"""The step `train`: float training of every parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherweight.task import Task
from featherweight.techniques.base import Context
from featherweight.techniques.training import TrainingStep

if TYPE_CHECKING:
    from featherweight.model import Model


class Train(TrainingStep, frozen=True, kw_only=True, tag="train"):
    """Train all parameters as floats, from where they are; encoded tensors are thawed.

    Parameters that do not require gradients stay as they are.
    """

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the trained model."""
        from featherweight.techniques.tensors import trainable

        names, notes = trainable(model)
        return model.with_tensors(self.trained(model, names, {}, task, context), notes)
