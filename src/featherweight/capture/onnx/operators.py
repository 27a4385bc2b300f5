"""ONNX operators by name, as functions of torch, and those that are refused, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from featherweight.capture.onnx.elementwise import ELEMENTWISE, gelu, swish
from featherweight.capture.onnx.moves import MOVES
from featherweight.capture.onnx.resize import resize
from featherweight.capture.onnx.spatial import SPATIAL, layer_norm, rms_norm
from featherweight.capture.onnx.values import Known, Value, constant, tensor
from featherweight.errors import UnsupportedError

_INTEGERS = "the file is quantized: give the float model that it was made of"
_DATA = "the size of its result depends on the data"
CUT = "onnx.utils.extract_model"  # in what is said of an operator that a file can be cut before
_REFUSED = {
    **dict.fromkeys((
        "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
        "MatMulNBits", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearConcat", "QLinearGlobalAveragePool",
        "QLinearAveragePool", "QLinearLeakyRelu", "QGemm", "QAttention", "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM", "MatMulBnb4", "QMoE", "DequantizeLinear",
    ), _INTEGERS),
    "NonMaxSuppression": f"cut the file before it ({CUT}), and choose boxes behind the network",
    **dict.fromkeys(("Unique", "NonZero"), _DATA),
    **dict.fromkeys(("Loop", "Scan"), f"unroll the loop, or cut the file around it ({CUT})"),
}  # fmt: skip


def refused(op: str) -> str:
    """Return what to do about an operator that cannot be read; an empty string where nothing is known."""
    return _REFUSED.get(op, "")


def matmul(a: Value, b: Value, bias: Value = None) -> Tensor:
    """MatMul."""
    made = tensor(a) @ tensor(b)
    return made if bias is None else made + tensor(bias)


def gemm(
    a: Value,
    b: Value,
    c: Value = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Gemm: `alpha * a @ b + beta * c`."""
    left, right = tensor(a), tensor(b)
    made = (left.T if transA else left) @ (right.T if transB else right)
    made = made if alpha == 1 else alpha * made
    if c is None:
        return made
    return made + (tensor(c) if beta == 1 else beta * tensor(c))


def computed_weights(*_: Value, **__: Any) -> Value:
    """LSTM, GRU or RNN whose weights are no constants."""
    raise UnsupportedError("a recurrent layer whose weights are computed")


def stored(**values: Any) -> Value:
    """Constant: of one attribute, which is its value."""
    value = next(iter(values.values()), None)
    if value is None:
        raise UnsupportedError("a constant without a value")
    return value if isinstance(value, Known) else constant(np.asarray(value))


OPERATORS: dict[str, Callable[..., Any]] = {
    "SimplifiedLayerNormalization": rms_norm,  # which ONNX Runtime's tools write, under this domain
    **ELEMENTWISE, **MOVES, **SPATIAL, "MatMul": matmul, "Gemm": gemm, "Resize": resize,
    "Upsample": resize, "Constant": stored, **dict.fromkeys(("LSTM", "GRU", "RNN"), computed_weights),
}  # fmt: skip


def bias_gelu(x: Tensor, bias: Value) -> Tensor:
    """BiasGelu of ONNX Runtime."""
    return F.gelu(x + tensor(bias))


def fast_gelu(x: Tensor, bias: Value = None) -> Tensor:
    """FastGelu of ONNX Runtime."""
    return F.gelu(x if bias is None else x + tensor(bias), approximate="tanh")


def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Value:
    """QuickGelu of ONNX Runtime."""
    return swish(x, alpha=alpha)


def fused_matmul(
    a: Value,
    b: Value,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """FusedMatMul of ONNX Runtime."""
    left, right = tensor(a), tensor(b)
    left = left.transpose(-1, -2) if transA else left
    right = right.transpose(-1, -2) if transB else right
    made: Tensor = left @ right
    return made if alpha == 1 else made.mul(alpha)


def skip_layer_norm(
    x: Tensor, skip: Value, scale: Value, shift: Value = None, bias: Value = None, *, epsilon: float = 1e-12
) -> tuple[Value, ...]:
    """SkipLayerNormalization of ONNX Runtime: the norm of a sum, and the sum."""
    total = x + tensor(skip) if bias is None else x + tensor(skip) + tensor(bias)
    return layer_norm(total, scale, shift, epsilon=epsilon), None, None, total


def skip_rms_norm(
    x: Tensor, skip: Value, scale: Value, bias: Value = None, *, epsilon: float = 1e-12
) -> tuple[Value, ...]:
    """SkipSimplifiedLayerNormalization of ONNX Runtime."""
    total = x + tensor(skip) if bias is None else x + tensor(skip) + tensor(bias)
    return rms_norm(total, scale, epsilon=epsilon), None, None, total


CONTRIBUTED: dict[str, Callable[..., Any]] = {
    "Gelu": gelu, "BiasGelu": bias_gelu, "FastGelu": fast_gelu, "QuickGelu": quick_gelu, "FusedMatMul": fused_matmul,
    "TransposeMatMul": fused_matmul, "SkipLayerNormalization": skip_layer_norm,
    "SkipSimplifiedLayerNormalization": skip_rms_norm,
}  # fmt: skip
