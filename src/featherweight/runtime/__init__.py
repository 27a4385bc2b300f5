"""Running a stored graph; needs no torch."""

from featherweight.runtime.build import build_onnx, onnx_of
from featherweight.runtime.session import Input, Session, session

__all__ = ["Input", "Session", "build_onnx", "onnx_of", "session"]
