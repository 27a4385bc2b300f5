"""Graphs and files for elsewhere: the float ONNX graph, integers, textures. What is imported here needs no torch."""

from featherweight.export.float_graph import build_onnx, onnx_of, opened, read_onnx, serialized, unknown_edges
from featherweight.export.large import opened_onnx, write_onnx
from featherweight.export.linear import build_linear, linear_of
from featherweight.export.qdq import Qdq, build_qdq, model_of, qdq_of
from featherweight.export.stored_weights import integers_of, weights_of

__all__ = [
    "Qdq",
    "build_linear",
    "build_onnx",
    "build_qdq",
    "integers_of",
    "linear_of",
    "model_of",
    "onnx_of",
    "opened", "opened_onnx",
    "qdq_of",
    "read_onnx",
    "serialized",
    "unknown_edges",
    "weights_of", "write_onnx",
]  # fmt: skip
