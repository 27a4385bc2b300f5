"""Losses: what training minimises, and the teachers of distillation. No torch yet. `AnyLoss`: their union."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.checked import with_plugins
from featherweight.training.losses.base import Goal, Loss, TaskLoss, total
from featherweight.training.losses.distillation import Distillation, divergence, soft_loss
from featherweight.training.losses.features import Attention, Features, Guidance, Hints
from featherweight.training.losses.teachers import TEACHERS, AfterStep, InFile, Original, Teacher

LOSSES: tuple[type[Loss], ...] = with_plugins(
    "featherweight.losses", (TaskLoss, Distillation, Hints, Attention, Features, Guidance)
)

if TYPE_CHECKING:
    AnyLoss = Loss
else:
    AnyLoss: Any = Union[LOSSES]  # noqa: UP007

__all__ = [
    "LOSSES",
    "TEACHERS",
    "AfterStep",
    "AnyLoss",
    "Attention",
    "Distillation",
    "Features",
    "Goal",
    "Guidance",
    "Hints",
    "InFile",
    "Loss",
    "Original",
    "TaskLoss",
    "Teacher",
    "divergence",
    "soft_loss",
    "total",
]
