"""Losses: what training minimises, and what it takes to compute it. No torch yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from featherweight.activations import Edge
from featherweight.checked import Options
from featherweight.task import Needs
from featherweight.training.methods.base import Trained

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.model import Model
    from featherweight.task import Batch, Output, Task


@dataclass(frozen=True, eq=False)
class Goal:
    """A loss in one training.

    Attributes:
        value: scalar of (output, batch, features): what the network answers, and its activations on `edges`.
        edges: of the network that trains, whose activations the loss reads.
        parts: what trains for the loss alone, by name; dropped when training ends.
    """

    value: Callable[[Output, Batch, Mapping[Edge, Tensor]], Tensor]
    edges: frozenset[Edge] = frozenset()
    parts: Mapping[str, Trained] = field(default_factory=dict)


def total(goals: Sequence[Goal]) -> Goal:
    """Return the sum of several losses."""
    parts = {f"{n}/{name}": part for n, goal in enumerate(goals) for name, part in goal.parts.items()}
    edges = frozenset[Edge]().union(*(goal.edges for goal in goals))

    def value(output: Output, batch: Batch, features: Mapping[Edge, Tensor]) -> Tensor:
        first, *others = (goal.value(output, batch, features) for goal in goals)
        return sum(others, first)

    return Goal(value, edges, parts)


class Loss(Options, frozen=True, kw_only=True, tag_field="loss", omit_defaults=True):
    """What training minimises; its fields are its options.

    A subclass says in `needs` what of the data it reads, and writes `of`.
    """

    needs: ClassVar[Needs] = "labelled"

    def of(self, model: Model, task: Task, original: Model, steps: Sequence[Model], seed: int = 0) -> Goal:
        """Return the loss for one training.

        Args:
            model: the network as training finds it.
            task: gives inputs, and labels if `needs` says so.
            original: the float network that the result is compared with.
            steps: the model after each step so far.
            seed: of what trains for the loss alone.
        """
        raise NotImplementedError


class TaskLoss(Loss, frozen=True, tag="task"):
    """The task's own loss, which reads its labels."""

    def of(self, model: Model, task: Task, original: Model, steps: Sequence[Model], seed: int = 0) -> Goal:
        """Return the task's loss."""
        return Goal(lambda output, batch, features: task.loss(output, batch))
