"""Tasks: the protocol, what steps may see of one, and tasks with labels and without. No torch yet."""

from featherweight.task.protocol import Batch, Inputs, Needs, Output, Predict, Restricted, Split, Task, call

__all__ = ["Batch", "Inputs", "Needs", "Output", "Predict", "Restricted", "Split", "Task", "call"]
