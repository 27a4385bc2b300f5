"""The one float graph, and what is derived from it."""

from featherweight.export.onnx import export

__all__ = ["export"]
