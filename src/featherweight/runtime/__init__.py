"""Running a stored graph; needs no torch."""

from featherweight.runtime.build import build_onnx, check_size, onnx_of, serialized
from featherweight.runtime.compiled import Runtime
from featherweight.runtime.linear import Linear, build_linear, linear_of
from featherweight.runtime.qdq import Qdq, build_qdq, qdq_of
from featherweight.runtime.session import Input, Session, session
from featherweight.runtime.validate import values_of

__all__ = [
    "Input",
    "Linear",
    "Qdq",
    "Runtime",
    "Session",
    "build_linear",
    "build_onnx",
    "build_qdq",
    "check_size",
    "linear_of",
    "onnx_of",
    "qdq_of",
    "serialized",
    "session",
    "values_of",
]
