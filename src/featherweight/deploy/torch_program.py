"""An ONNX graph as a torch module, its integers operators of `quantized_decomposed`: what torch's backends take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor, nn
from torch.nn import functional as F

from featherweight.capture.onnx.operators import OPERATORS
from featherweight.capture.onnx.values import Value, constant, is_small, tensor
from featherweight.errors import UnsupportedError
from featherweight.export.onnx_graph import CLAMPS, OnnxGraph, attributes

Array = NDArray[Any]
Given = Mapping[str, Any]

LEAST, MOST = -128, 127
_CONVOLUTIONS: dict[tuple[str, int], Callable[..., Tensor]] = {
    ("Conv", 3): F.conv1d, ("Conv", 4): F.conv2d, ("Conv", 5): F.conv3d,
    ("ConvTranspose", 3): F.conv_transpose1d, ("ConvTranspose", 4): F.conv_transpose2d,
}  # fmt: skip
_SHIFTS = {"uint8": 128, "int8": 0}  # by which integers move to be int8


@dataclass(frozen=True)
class Unread:
    """Integers whose numbers every reader makes for itself, as backends expect."""

    integers: Tensor
    dequantize: Callable[[Tensor], Tensor]


class OnnxProgram(nn.Module):
    """Computes an ONNX graph node by node; takes its inputs in order.

    Unsigned integers of 8 bits move by 128, which changes no number. A bias is float32: backends round it to the
    integers that it was, for it is a whole number of their steps. A layer that writes no integers has float weights.

    Attributes:
        floats: layers of integer weights that compute in float, with the reason.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.graph, self.floats = OnnxGraph(model), dict[str, str]()
        self._inputs = [value.name for value in model.graph.input if value.name not in self.graph.stored]
        self._outputs = [value.name for value in model.graph.output]
        self._known: dict[str, Any] = {}
        self._held: dict[str, str] = {}
        resizing = [node for node in model.graph.node if node.op_type in ("Resize", "Upsample")]
        self._sizes = {name for node in resizing for name in node.input[1:]}
        self._opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
        made = [self._step(node) for node in model.graph.node if node.op_type != "Constant"]
        self._steps = [step for step in made if step is not None]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in order."""
        values: dict[str, Any] = {name: getattr(self, path) for name, path in self._held.items()}
        values |= {**self._known, **dict(zip(self._inputs, inputs, strict=True))}
        for call, read, written in self._steps:
            made = call(*(_numbers(values[name]) if name else None for name in read))
            values |= zip(written, made if isinstance(made, tuple | list) else [made], strict=False)
        return tuple(tensor(_numbers(values[name])) for name in self._outputs)

    def _step(self, node: NodeProto) -> tuple[Callable[..., Any], Sequence[str], Sequence[str]] | None:
        """Return what computes a node, what it reads and what it writes; None: a constant."""
        given, read, op = attributes(node), list(node.input), node.op_type
        call: Callable[..., Any]
        if op == "DequantizeLinear" and read[0] in self.graph.stored:
            return None
        if op in ("QuantizeLinear", "DequantizeLinear"):
            call, read = self._rounding(node), read[:1]
        elif op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and self.graph.weight(node) is not None:
            call, read = self._layer(node, given), read[:1]
        elif op in OPERATORS:
            call = _with_options(OPERATORS[op], node, given, self._opset)
            for name in read:
                self._constant(name)
        else:
            raise UnsupportedError("not an operator that can be said in torch", where=_place(node), got=op)
        return call, read, list(node.output)

    def _constant(self, name: str) -> None:
        """Have a constant that a function reads: small ones as numbers, others as tensors."""
        array = self._real(name)
        if array is not None and is_small(array, name in self._sizes):
            self._known[name] = constant(array)
        elif array is not None and name not in self._held:
            self._held[name] = self._buffer(array)

    def _buffer(self, array: Array) -> str:
        name = f"tensor_{len(self._buffers)}"
        self.register_buffer(name, torch.from_numpy(np.array(array)))
        return name

    def _real(self, name: str) -> Array | None:
        """Return the numbers of a constant, dequantized; None: it is none."""
        maker = self.graph.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear" or name in self.graph.stored:
            return self.graph.numbers(name)
        parts = [self.graph.numbers(value) for value in maker.input]
        if parts[0] is None or parts[1] is None:
            return None
        axis = attributes(maker).get("axis", 1)
        shape = [-1 if k == axis and parts[1].size > 1 else 1 for k in range(parts[0].ndim)]
        zero = parts[2].astype(np.float32).reshape(shape) if parts[2:] and parts[2] is not None else 0
        return np.asarray((parts[0].astype(np.float32) - zero) * parts[1].reshape(shape), np.float32)

    def _rounding(self, node: NodeProto) -> Callable[..., Any]:
        """Return what quantizes or dequantizes an activation."""
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operators)

        scale, zero = self.graph.numbers(node.input[1]), np.asarray(np.uint8(0))
        if len(node.input) > 2:
            zero = np.asarray(self.graph.numbers(node.input[2]))
        if str(zero.dtype) not in _SHIFTS or scale is None or scale.size != 1:
            what = "not the integers of XNNPACK"
            raise UnsupportedError(
                what, where=_place(node), got=zero.dtype, expected="uint8 or int8, one scale"
            )
        library = torch.ops.quantized_decomposed
        grid = (
            float(scale.reshape(())),
            int(zero.reshape(())) - _SHIFTS[str(zero.dtype)],
            LEAST,
            MOST,
            torch.int8,
        )
        if node.op_type == "QuantizeLinear":
            return lambda x: library.quantize_per_tensor(x, *grid)
        return lambda q: Unread(q, lambda integers: library.dequantize_per_tensor(integers, *grid))

    def _layer(self, node: NodeProto, given: Given) -> Callable[..., Tensor]:
        """Return a layer with its weights: integers where it reads and writes integers."""
        name, bias = node.input[1], [*node.input[2:], ""][0]
        maker, flipped = self.graph.makers.get(name), node.op_type == "MatMul" or not given.get("transB", 0)
        flipped &= not node.op_type.startswith("Conv")
        stored = self.graph.numbers(maker.input[0]) if maker is not None else None
        real = self._real(name)
        numbers = self._real(bias) if bias else None
        scaled = given.get("transA") or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1
        if real is None or scaled or (bias and numbers is None) or (flipped and real.ndim != 2):
            raise UnsupportedError(
                "not a layer that can be said in torch", where=_place(node), got=dict(given)
            )
        function = (
            partial(_linear) if "Conv" not in node.op_type else _convolution(node, given, real.ndim - 2)
        )
        held = [self._buffer(numbers)] if numbers is not None else []
        integer = stored is not None and stored.dtype == np.int8
        if not integer or maker is None or not self._inside(node):
            if integer:
                self.floats[node.name or node.output[0]] = "nothing quantizes what it writes"
            weight = self._buffer(real.T if flipped else real)
            return lambda x: function(tensor(x), getattr(self, weight), *(getattr(self, b) for b in held))
        assert stored is not None
        axis = attributes(maker).get("axis", 1)
        scale = np.broadcast_to(
            np.asarray(self.graph.numbers(maker.input[1])).reshape(-1), (stored.shape[axis],)
        )
        kept = [self._buffer(stored.T if flipped else stored), self._buffer(scale)]
        kept.append(self._buffer(np.zeros(len(scale), np.int64)))
        axis = 1 - axis if flipped else axis

        def call(x: Tensor) -> Tensor:
            parts = [getattr(self, part) for part in kept]
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(
                *parts, axis, LEAST, MOST, torch.int8
            )
            return function(x, weight, *(getattr(self, b) for b in held))

        return call

    def _inside(self, node: NodeProto) -> bool:
        """Return whether a layer reads integers and writes integers, perhaps behind a clamp."""
        readers, maker = self.graph.readers.get(node.output[0], []), self.graph.makers.get(node.input[0])
        if len(readers) == 1 and readers[0].op_type in CLAMPS:
            readers = self.graph.readers.get(readers[0].output[0], [])
        quantized = bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)
        return quantized and maker is not None and maker.op_type == "DequantizeLinear"


def _numbers(value: Any) -> Any:
    return value.dequantize(value.integers) if isinstance(value, Unread) else value


def _place(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _with_options(
    function: Callable[..., Any], node: NodeProto, given: Given, opset: int
) -> Callable[..., Any]:
    """Return a function of torch with the attributes of a node, and what it wants to know besides."""
    options = {key: value.decode() if isinstance(value, bytes) else value for key, value in given.items()}
    wanted = inspect.signature(function).parameters
    options |= {"opset": opset} if "opset" in wanted else {}
    options |= {"outputs": len(node.output)} if "outputs" in wanted else {}
    return partial(function, **options) if options else function


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _convolution(node: NodeProto, given: Given, places: int) -> Callable[..., Tensor]:
    """Return a convolution; padding that is not the same on both sides is done before it."""
    function, transposed = _CONVOLUTIONS.get((node.op_type, places + 2)), node.op_type == "ConvTranspose"
    pads = list(given.get("pads", [0] * 2 * places))
    even = pads[:places] == pads[places:]
    auto = given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", b"")
    if function is None or auto or (transposed and not even) or "output_shape" in given:
        raise UnsupportedError(
            "not a convolution that can be said in torch", where=_place(node), got=dict(given)
        )
    options = {"stride": given.get("strides", [1] * places), "dilation": given.get("dilations", [1] * places)}
    options["groups"] = given.get("group", 1)
    if transposed:
        options["output_padding"] = given.get("output_padding", [0] * places)
    around = [n for k in reversed(range(places)) for n in (pads[k], pads[places + k])]

    def call(x: Value, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = tensor(x) if even else F.pad(tensor(x), around)
        return function(x, weight, bias, padding=pads[:places] if even else 0, **options)

    return call
