"""Running a stored graph, without torch."""

from featherweight.runtime.build import build_onnx
from featherweight.runtime.session import Input, Session, session

__all__ = ["Input", "Session", "build_onnx", "session"]
