"""Losses: what training minimises, and the teachers of distillation. No torch yet. `AnyLoss`: their union."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

from msgspec import Meta

from featherweight.checked import Options, with_plugins
from featherweight.errors import ConfigError, TaskError
from featherweight.task import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.model import Model
    from featherweight.task import Batch, Output, Task


class Teacher(Options, frozen=True, kw_only=True, tag_field="teacher"):
    """A network that another one learns to answer like. A subclass writes `module`."""

    def module(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the network.

        Args:
            task: builds the network that a file's weights belong to.
            original: the float network that the result is compared with.
            steps: the model after each step so far.
        """
        raise NotImplementedError


class Original(Teacher, frozen=True, tag="original"):
    """The float network that the result is compared with: after the `load` and `train` steps that come first."""

    def module(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the float network."""
        return original.module


class AfterStep(Teacher, frozen=True, kw_only=True, tag="step"):
    """The model after an earlier step of the recipe.

    Attributes:
        number: which step, counted from 0 as errors count them.
    """

    number: Annotated[int, Meta(ge=0)]

    def module(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the network after that step; ConfigError if it does not come earlier in the recipe."""
        if self.number >= len(steps):
            raise ConfigError(
                "a teacher is a step that comes earlier", where="teacher.number", got=self.number,
                expected=f"0 to {len(steps) - 1}" if steps else "a later place in the recipe",
            )  # fmt: skip
        return steps[self.number].module


class InFile(Teacher, frozen=True, kw_only=True, tag="file"):
    """The task's own network with the weights of a file; of a `.fw` file with the structure too.

    Attributes:
        file: a `.safetensors` or `.fw` file.
        sha256: what the bytes of the file have to hash to, so that a recipe always means the same weights.
    """

    file: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def module(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the network with these weights; IntegrityError if the file cannot be read or has another hash."""
        from featherweight.weights import network_in

        return network_in(Path(self.file), self.sha256, task.model())


TEACHERS: tuple[type[Teacher], ...] = (Original, AfterStep, InFile)


class Loss(Options, frozen=True, kw_only=True, tag_field="loss", omit_defaults=True):
    """A scalar of (output, batch) that training minimises; its fields are its options.

    A subclass says in `needs` what of the data it reads, and writes `of`.
    """

    needs: ClassVar[Needs] = "labelled"

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

    teacher: Original | AfterStep | InFile | None = None
    weight: Annotated[float, Meta(gt=0, le=1)] = 1.0
    temperature: Annotated[float, Meta(gt=0)] = 4.0

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """Unlabelled; labelled with a weight below 1."""
        return "unlabelled" if self.weight == 1 else "labelled"

    def of(self, task: Task, original: Model, steps: Sequence[Model]) -> Callable[[Output, Batch], Tensor]:
        """Return the loss as a function of (output, batch)."""
        import torch

        from featherweight.structure import to_call
        from featherweight.task import call

        teacher = to_call((self.teacher or Original()).module(task, original, steps))

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
