"""PyTorch in: a module as a flat function of tensors, run operator by operator, and its graph."""

from featherweight.capture.execution import Execution
from featherweight.capture.program import Program, capture, trace
from featherweight.capture.trace import canonical_names, views

__all__ = ["Execution", "Program", "canonical_names", "capture", "trace", "views"]
