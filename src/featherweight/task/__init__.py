"""Tasks: the protocol, what steps may see of one, and tasks with labels and without. No torch yet."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featherweight.task.protocol import Batch, Inputs, Needs, Output, Predict, Split, Task, call
from featherweight.task.restricted import Restricted, Unlabelled

if TYPE_CHECKING:
    from featherweight.task.agreement import Agreement
    from featherweight.task.classification import Classification
    from featherweight.task.regression import Regression

__all__ = [
    "Agreement", "Batch", "Classification", "Inputs", "Needs", "Output", "Predict", "Regression", "Restricted", "Split",
    "Task", "Unlabelled", "call",
]  # fmt: skip

_TORCH = {"Agreement": "agreement", "Classification": "classification", "Regression": "regression"}


def __getattr__(name: str) -> Any:
    if name not in _TORCH:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_TORCH[name]}"), name)
