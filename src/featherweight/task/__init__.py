"""Tasks: the protocol, and what steps may see of one."""

from featherweight.task.protocol import Batch, Inputs, Needs, Output, Predict, Split, Task, call
from featherweight.task.restricted import Restricted, Unlabelled

__all__ = ["Batch", "Inputs", "Needs", "Output", "Predict", "Restricted", "Split", "Task", "Unlabelled", "call"]
