"""Distillation by outputs: a network learns to answer as another one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from featherweight.errors import TaskError
from featherweight.task import Needs
from featherweight.training.losses.base import Goal, Loss
from featherweight.training.losses.teachers import AfterStep, InFile, Original

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.model import Model
    from featherweight.task import Batch, Output, Task


class Distillation(Loss, frozen=True, kw_only=True, tag="distillation"):
    """Answer as a teacher does: Hinton's `T^2 KL(softmax(teacher / T) || softmax(student / T))`. Reads no labels.

    With a `weight` below 1 it is `weight` times that and `1 - weight` times the task's own loss, which reads
    labels. The teacher sees the same augmented inputs. Outputs that are not scores of classes (see
    `featherweight.task.outputs`) have the mean squared difference, over the variance of the teacher's outputs
    in each channel.

    References: Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015, arXiv 1503.02531,
    section 2.

    Attributes:
        teacher: the network to answer like: `original`, `step` or `file`. By default `original`.
        weight: share of the teacher in the loss.
        temperature: T; above 1 the classes that the teacher did not choose count more.
    """

    teacher: Original | AfterStep | InFile | None = None
    weight: Annotated[float, Meta(gt=0, le=1)] = 1.0
    temperature: Annotated[float, Meta(gt=0)] = 4.0

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """Unlabelled; labelled with a weight below 1."""
        return "unlabelled" if self.weight == 1 else "labelled"

    def of(self, model: Model, task: Task, original: Model, steps: Sequence[Model], seed: int = 0) -> Goal:
        """Return the loss for one training."""
        import torch

        from featherweight.structure import to_call
        from featherweight.task import call

        teacher = to_call((self.teacher or Original()).model(task, original, steps).module)

        def value(output: Output, batch: Batch, features: Mapping[str, Any]) -> Tensor:
            with torch.no_grad():
                taught = call(teacher, task.inputs(batch))
            difference = divergence(task, output, taught, self.temperature)
            if self.weight == 1:
                return difference
            return (1 - self.weight) * task.loss(output, batch) + self.weight * difference

        return Goal(value)


def divergence(task: Task, student: Output, teacher: Output, temperature: float) -> Tensor:
    """Return how far the outputs of a student are from a teacher's, by what they are; see `Distillation`.

    Raises:
        TaskError: the outputs do not match, or there is a single class.
    """
    from featherweight.task.outputs import distance, outputs_of, scores_of

    if outputs_of(task, teacher) == "classes":
        scores = scores_of(task, student)
        if scores.shape[1] < 2:
            raise TaskError(
                "scores of one class cannot be distilled", where=task.name, got=tuple(scores.shape),
                hint='a task says by an attribute outputs = "values" that its outputs are no scores of classes',
            )  # fmt: skip
        return soft_loss(scores, scores_of(task, teacher), temperature)
    return distance(student, teacher)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T^2 KL(teacher || student)`, the mean over samples, in nats; scores are `[n, classes, ...]`.

    >>> import torch
    >>> scores = torch.tensor([[1.0, 2.0, 3.0]])
    >>> float(soft_loss(scores + 5, scores, 2.0))
    0.0
    """
    from torch.nn import functional as F

    student, teacher = (F.log_softmax(scores.float() / temperature, 1) for scores in (student, teacher))
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return divergence.mean() * temperature**2
