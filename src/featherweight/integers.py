"""What of a network computes in integers, and how: its layers' weights, biases and steps, its averages and joins.

One rule for the simulation, which reads the traced graph, and for exports, which read the ONNX graph. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from featherweight.activations import Affine, BinaryCoded, Edge, Quantizer, read_by
from featherweight.formats import Basis, Encoded, Int
from featherweight.formats.basis import as_integers
from featherweight.formats.view import Array

MOST_BIAS = 2.0**30  # of an int32 sum, so that what is added to it has room
# Two weights that share an int16 sum: 255 * 128 and -255 * 128 fit, one step more does not.
MOST_PAIR = 128

# Which weights of a row share an int16 sum: none, input channels 2j and 2j + 1 of one place, or any two.
Pairing = Literal["none", "neighbours", "any"]


@dataclass(frozen=True)
class Operator:
    """What an operator does, in whichever graph it stands.

    Attributes:
        edge: the activation that it writes.
        family: `layer` (a linear layer or a convolution), `average`, or `join` (a sum or concatenation).
        inputs: the activations that it reads.
        weight: canonical name of a layer's weight.
        bias: canonical name of its bias; empty: it has none.
        obstacle: why a layer cannot compute in integers, whatever its weight.
        count: how many numbers each result of an average is of; 0: all of what it reads, in equal shares; None: the
            shares are not equal.
    """

    edge: Edge
    family: Literal["layer", "average", "join"]
    inputs: tuple[Edge, ...]
    weight: str = ""
    bias: str = ""
    obstacle: str = ""
    count: int | None = None


@dataclass(frozen=True)
class Average:
    """An average of integers rounded to integers, taken of the exact sum: of an edge, its step, `Operator.count`."""

    source: Edge
    scale: float
    count: int


@dataclass(frozen=True, eq=False)
class IntegerPlan:
    """What computes in integers.

    Attributes:
        layers: linear layers and convolutions in integers, by the edge they write.
        floats: those that read a quantized activation and compute in float, with the reason.
        averages: averages of 8-bit integers.
        joins: sums and concatenations of quantized activations, and whether all that they read and write have one
            quantizer; otherwise their operands are requantized.
    """

    layers: Mapping[Edge, IntegerLayer]
    floats: Mapping[Edge, str]
    averages: Mapping[Edge, Average]
    joins: Mapping[Edge, bool]


def integer_plan(
    operators: Iterable[Operator], weights: Mapping[str, Encoded], tensors: Mapping[str, Array],
    activations: Mapping[Edge, Quantizer],
) -> IntegerPlan:  # fmt: skip
    """Return what of a network computes in integers.

    A layer does whose input has an affine quantizer and whose weight is encoded as integers that can be multiplied as
    int8. An average is exact where it reads and writes integers of 8 bits: runtimes compute others in float.

    Args:
        operators: of the network.
        weights: the encoded ones, by canonical name.
        tensors: biases, among others, by canonical name.
        activations: quantizers by edge.
    """
    layers, floats, averages, joins = {}, {}, {}, {}
    for operator in operators:
        edge = operator.edge
        read = [activations.get(read_by(source, edge), activations.get(source)) for source in operator.inputs]
        first, written = read[0] if read else None, activations.get(edge)
        if operator.family == "layer" and first is not None:
            encoded = weights.get(operator.weight)
            encoded = as_integers(encoded) if encoded else None
            reason = not_integers(first) or operator.obstacle or obstacle(encoded)
            if reason or encoded is None or not isinstance(first, Affine):
                floats[edge] = reason
            else:
                bias = tensors[operator.bias] if operator.bias else None
                layers[edge] = integer_layer(encoded, bias, first)
        elif operator.family == "average" and operator.count is not None:
            if isinstance(first, Affine) and first.bits == 8 and written is not None:
                averages[edge] = Average(operator.inputs[0], first.scale, operator.count)
        elif operator.family == "join" and read and None not in read:
            joins[edge] = len({*read, *([written] if written else [])}) == 1
    return IntegerPlan(layers, floats, averages, joins)


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A convolution or linear layer in integers.

    Attributes:
        weight: int8, of the tensor's shape.
        scale: one step a row of the view, float32 `[rows]`.
        axis: of the weight, that the rows are.
        bias: int32 `[rows]`, counted in steps of `scale` times the step of the input; None: there is none.
        bias_scale: that product, float32 `[rows]`.
    """

    weight: Array
    scale: Array
    axis: int
    bias: Array | None
    bias_scale: Array

    @property
    def weights(self) -> Array:
        """The weights as numbers, float32."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.weight.ndim)]
        return self.weight.astype(np.float32) * self.scale.reshape(shape)

    @property
    def biases(self) -> Array | None:
        """The biases as numbers, float32."""
        return None if self.bias is None else self.bias.astype(np.float32) * self.bias_scale


def not_integers(quantizer: Quantizer) -> str:
    """Return why what a layer reads cannot be multiplied as integers, or an empty string."""
    if isinstance(quantizer, BinaryCoded):
        bits = len(quantizer.basis)
        return f"what it reads are sums of {bits} numbers: it takes {bits} binary products for each bit of its weight"
    return "" if isinstance(quantizer, Affine) else "what it reads is floating point"


def obstacle(encoded: Encoded | None) -> str:
    """Return why a weight cannot be multiplied as int8, or an empty string."""
    if encoded is not None and isinstance(encoded.format, Basis):
        bits = encoded.format.bits
        return (
            f"its weight has a basis that is not geometric: it takes {bits} binary products for each bit read"
        )
    if encoded is None or not isinstance(encoded.format, Int):
        return "its weight is not encoded as integers"
    if encoded.format.bits > 8:
        return f"its weight has {encoded.format.bits} bits, more than 8"
    if encoded.format.per not in ("tensor", "channel"):
        return "its weight has a step for each group, not for each channel"
    return "its weight has zero points that are not 0" if np.any(encoded.parts.get("zero_point", 0)) else ""


def steps_of(encoded: Encoded) -> Array:
    """Return the integers of a weight in `Int` of at most 8 bits whose zero points are 0, int16 `[rows, cols]`."""
    view, bits = encoded.view, encoded.format.bits  # type: ignore[attr-defined]
    steps = encoded.symbols.astype(np.int16)
    return np.where(steps >= 1 << bits - 1, steps - (1 << bits), steps).reshape(view.rows, view.cols)


def pairing(shape: tuple[int, ...], groups: int = 1) -> Pairing:
    """Return which weights of a layer, `[out, in / groups, kernel ...]`, share a sum of pairs of 8-bit products.

    x86 without VNNI multiplies 8-bit integers by `vpmaddubsw`: it adds products of unsigned activations and signed
    weights in pairs, and saturates each sum at int16. Kernels put input channels innermost: neighbours share a
    sum, the last of an odd number stands alone in one kernel and meets the next place of the window in
    another. Depthwise kernels add in int32. Seen in ONNX Runtime 1.31 with AVX2 and in OpenVINO 2026.4 with
    SSE4.1, AVX2 and AVX-512, by a weight of 127 at every two positions of a row.
    """
    out, channels, *kernel = shape
    if channels == 1 and groups == out > 1:
        return "none"
    return "any" if channels % 2 and prod(kernel) > 1 else "neighbours"


def paired_columns(shape: tuple[int, ...]) -> Array:
    """Return the columns of the matrix of a weight `[out, in / groups, kernel ...]`, neighbours behind one another."""
    channels, places = shape[1], prod(shape[2:])
    columns = np.arange(channels * places).reshape(channels, places)
    even = channels - channels % 2
    pairs = columns[:even].reshape(-1, 2, places).transpose(0, 2, 1)
    return np.append(pairs.reshape(-1), columns[even:].reshape(-1))


def greatest_pair(weight: Array, groups: int = 1) -> int:
    """Return the greatest magnitude of the sum of two weights, int8 `[out, in / groups, ...]`, that share an int16 sum.

    Above `MOST_PAIR`, activations exist whose products saturate on x86 without VNNI.
    """
    kind = pairing(weight.shape, groups)
    if kind == "none" or not weight.size:
        return 0
    rows = weight.reshape(*weight.shape[:2], -1).astype(np.int16)
    if kind == "neighbours":
        rows = np.pad(rows, [(0, 0), (0, rows.shape[1] % 2), (0, 0)])
        return int(np.abs(rows[:, 0::2] + rows[:, 1::2]).max())
    ordered = np.sort(rows.reshape(len(rows), -1), axis=1)
    return int(max(ordered[:, -2:].sum(axis=1).max(), -ordered[:, :2].sum(axis=1).min()))


def integer_layer(encoded: Encoded, bias: Array | None, activation: Affine) -> IntegerLayer:
    """Return a layer in integers; `obstacle(encoded)` is empty.

    A step so small that the bias would not fit into int32 is made larger, which moves weights of that row that
    are about a billionth of its bias.

    Args:
        encoded: the weight.
        bias: `[rows]`, or None.
        activation: quantizer of what the layer reads.
    """
    view, steps = encoded.view, steps_of(encoded)
    old = np.repeat(encoded.parts["scale"].astype(np.float32), view.rows // encoded.parts["scale"].size)
    scale = old
    if bias is not None:
        least = np.abs(bias.astype(np.float64)) / (MOST_BIAS * activation.scale)
        scale = np.maximum(scale, least.astype(np.float32))
    if not np.array_equal(scale, old):
        steps = np.rint(steps * (old / scale)[:, None])
    bias_scale = scale * np.float32(activation.scale)
    rounded = None if bias is None else np.rint(bias.astype(np.float32) / bias_scale).astype(np.int32)
    return IntegerLayer(view.tensor(steps.astype(np.int8)), scale, view.permutation[0], rounded, bias_scale)
