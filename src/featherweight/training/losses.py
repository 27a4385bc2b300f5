"""Losses: what training minimises. `AnyLoss`: the union of built-ins and plug-ins. No torch until one is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

from msgspec import Meta, Struct

from featherweight.checked import check_fields, with_plugins
from featherweight.task import Needs
from featherweight.training.teachers import AnyTeacher, Original

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.model import Model
    from featherweight.task import Batch, Output, Task


class Loss(
    Struct, frozen=True, kw_only=True, tag_field="loss", forbid_unknown_fields=True, omit_defaults=True
):
    """A scalar of (output, batch) that training minimises; its fields are its options.

    A subclass says in `needs` what of the data it reads, and writes `of`.
    """

    needs: ClassVar[Needs] = "labelled"

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, str(self.__struct_config__.tag))

    def of(self, task: Task, original: Model, steps: Sequence[Model]) -> Callable[[Output, Batch], Tensor]:
        """Return the loss as a function of (output, batch).

        Args:
            task: gives inputs, and labels if `needs` says so.
            original: the float network that the result is compared with.
            steps: the model after each step so far.
        """
        raise NotImplementedError


class TaskLoss(Loss, frozen=True, tag="task"):
    """The task's own loss, which reads its labels."""

    def of(self, task: Task, original: Model, steps: Sequence[Model]) -> Callable[[Output, Batch], Tensor]:
        """Return the task's loss."""
        return task.loss


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

    teacher: AnyTeacher | None = None
    weight: Annotated[float, Meta(gt=0, le=1)] = 1.0
    temperature: Annotated[float, Meta(gt=0)] = 4.0

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """Unlabelled; labelled with a weight below 1."""
        return "unlabelled" if self.weight == 1 else "labelled"

    def of(self, task: Task, original: Model, steps: Sequence[Model]) -> Callable[[Output, Batch], Tensor]:
        """Return the loss as a function of (output, batch)."""
        import torch

        from featherweight.task import call

        teacher = (self.teacher or Original()).network(task, original, steps)

        def loss(output: Output, batch: Batch) -> Tensor:
            with torch.no_grad():
                taught = call(teacher, task.inputs(batch))
            difference = divergence(task, output, taught, self.temperature)
            if self.weight == 1:
                return difference
            return (1 - self.weight) * task.loss(output, batch) + self.weight * difference

        return loss


LOSSES: tuple[type[Loss], ...] = with_plugins("featherweight.losses", (TaskLoss, Distillation))

if TYPE_CHECKING:
    AnyLoss = Loss
else:
    AnyLoss: Any = Union[LOSSES]  # noqa: UP007


def divergence(task: Task, student: Output, teacher: Output, temperature: float) -> Tensor:
    """Return how far the outputs of a student are from a teacher's, by what they are; see `Distillation`.

    Raises:
        TaskError: the outputs do not match, or there is a single class.
    """
    from featherweight.errors import TaskError
    from featherweight.task.outputs import distance, logits, outputs_of

    if outputs_of(task, teacher) == "classes":
        scores = logits(student)
        if scores.shape[1] < 2:
            raise TaskError(
                "scores of one class cannot be distilled", where=task.name, got=tuple(scores.shape),
                hint='a task says by an attribute outputs = "values" that its outputs are no scores of classes',
            )  # fmt: skip
        return soft_loss(scores, logits(teacher), temperature)
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
