"""What ONNX Runtime makes of a graph before it runs it: the operators that are left."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime


def optimised_operators(content: bytes) -> Counter[str]:
    """Return how often each operator stands in the graph that ONNX Runtime runs.

    `QLinearConv` and `QGemm` compute in integers; `Conv`, `FusedConv` and `Gemm` in float.

    Args:
        content: a serialised ONNX model.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    return Counter(node.op_type for node in optimised.graph.node)
