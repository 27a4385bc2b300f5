"""Running a stored graph; needs no torch."""

from featherweight.runtime.build import build_onnx, onnx_of, values_of
from featherweight.runtime.compiled import Runtime
from featherweight.runtime.qdq import Qdq, build_qdq, qdq_of
from featherweight.runtime.session import Input, Session, session

__all__ = [
    "Input",
    "Qdq",
    "Runtime",
    "Session",
    "build_onnx",
    "build_qdq",
    "onnx_of",
    "qdq_of",
    "session",
    "values_of",
]
