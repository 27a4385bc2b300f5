"""How a layer computes in integers: its weights, its bias, and the steps they are counted in. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherweight.activations import Quantizer
from featherweight.formats import Encoded, Int

Array = NDArray[Any]

MOST_BIAS = 2.0**30  # of an int32 sum, so that what is added to it has room
# Two weights that share an int16 sum: 255 * 128 and -255 * 128 fit, one step more does not.
MOST_PAIR = 128

# Which weights of a row share an int16 sum: none, input channels 2j and 2j + 1 of one place, or any two.
Pairing = Literal["none", "neighbours", "any"]


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


def obstacle(encoded: Encoded | None) -> str:
    """Return why a weight cannot be multiplied as int8, or an empty string."""
    if encoded is None or not isinstance(encoded.format, Int):
        return "its weight is not encoded as integers"
    if encoded.format.bits > 8:
        return f"its weight has {encoded.format.bits} bits, more than 8"
    if encoded.format.per not in ("tensor", "channel"):
        return "its weight has a step for each group, not for each channel"
    if np.any(encoded.parts.get("zero_point", 0)):
        return "its weight has zero points that are not 0"
    return ""


def steps_of(encoded: Encoded) -> Array:
    """Return the integers of a weight in `Int` of at most 8 bits whose zero points are 0, int16 `[rows, cols]`."""
    view, bits = encoded.view, encoded.format.bits  # type: ignore[attr-defined]
    steps = encoded.symbols.astype(np.int16)
    return np.where(steps >= 1 << bits - 1, steps - (1 << bits), steps).reshape(view.rows, view.cols)


def pairing(shape: tuple[int, ...], groups: int = 1) -> Pairing:
    """Return which weights of a layer share a sum where 8-bit products are added in pairs.

    x86 without VNNI multiplies 8-bit integers by `vpmaddubsw`: it adds products of unsigned activations and signed
    weights in pairs, and saturates each sum at int16. Kernels put input channels innermost: neighbours share a
    sum, the last of an odd number stands alone in one kernel and meets the next place of the window in
    another. Depthwise kernels add in int32. Seen in ONNX Runtime 1.31 with AVX2 and in OpenVINO 2026.4 with
    SSE4.1, AVX2 and AVX-512, by a weight of 127 at every two positions of a row.

    Args:
        shape: of the weight, `[out, in / groups, kernel ...]`.
        groups: of a convolution.
    """
    out, channels, *kernel = shape
    if channels == 1 and groups == out > 1:
        return "none"
    return "any" if channels % 2 and prod(kernel) > 1 else "neighbours"


def paired_columns(shape: tuple[int, ...]) -> Array:
    """Return the columns of a weight's matrix `[out, in / groups * kernel]`, neighbours behind one another.

    Args:
        shape: of the weight, `[out, in / groups, kernel ...]`.
    """
    channels, places = shape[1], prod(shape[2:])
    columns = np.arange(channels * places).reshape(channels, places)
    even = channels - channels % 2
    pairs = columns[:even].reshape(-1, 2, places).transpose(0, 2, 1)
    return np.append(pairs.reshape(-1), columns[even:].reshape(-1))


def greatest_pair(weight: Array, groups: int = 1) -> int:
    """Return the greatest magnitude of the sum of two weights that share an int16 sum.

    Above `MOST_PAIR`, activations exist whose products saturate on x86 without VNNI.

    Args:
        weight: int8 `[out, in / groups, kernel ...]`.
        groups: of a convolution.
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


def integer_layer(encoded: Encoded, bias: Array | None, activation: Quantizer) -> IntegerLayer:
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
