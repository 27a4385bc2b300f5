"""Distillation: a network in training is also asked to answer as the float network does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from featherweight.checked import check_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from featherweight.model import Model
    from featherweight.task import Batch, Output, Task


class Distillation(Struct, frozen=True, forbid_unknown_fields=True):
    """Hinton's loss: `(1 - weight) task loss + weight T^2 KL(softmax(teacher / T) || softmax(student / T))`.

    The teacher is the float network that the result is compared with: the one after the first `load` and
    `train` steps of a recipe. It sees the same inputs, augmented alike.

    References: Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015, arXiv 1503.02531,
    section 2.

    Attributes:
        weight: share of the teacher in the loss.
        temperature: T; above 1 it tells more of the classes that the teacher did not choose.
    """

    weight: Annotated[float, Meta(gt=0, le=1)] = 0.7
    temperature: Annotated[float, Meta(gt=0)] = 4.0

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, "distill")

    def loss(self, task: Task, teacher: Model) -> Callable[[Output, Batch], Tensor]:
        """Return the loss of (output, batch) of a task with class scores `[n, classes, ...]`."""
        import torch

        from featherweight.model import share
        from featherweight.task import call
        from featherweight.task.classification import logits

        module = share(teacher.module).eval()

        def loss(output: Output, batch: Batch) -> Tensor:
            with torch.no_grad():
                taught = logits(call(module, task.inputs(batch)))
            soft = soft_loss(logits(output), taught, self.temperature)
            return (
                soft
                if self.weight == 1
                else (1 - self.weight) * task.loss(output, batch) + self.weight * soft
            )

        return loss


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
