"""Tasks: the protocol, what steps may see of one, and tasks with labels and without. No torch yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featherweight.task.protocol import Batch, Inputs, Needs, Output, Predict, Restricted, Split, Task, call

if TYPE_CHECKING:
    from featherweight.task.tasks import Agreement, Classification, Regression

__all__ = [
    "Agreement", "Batch", "Classification", "Inputs", "Needs", "Output", "Predict", "Regression", "Restricted", "Split",
    "Task", "call",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ("Agreement", "Classification", "Regression"):
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from featherweight.task import tasks

    return getattr(tasks, name)
