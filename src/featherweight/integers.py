"""How a layer computes in integers: its weights, its bias, and the steps they are counted in. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.activations import Quantizer
from featherweight.formats import Encoded, Int

Array = NDArray[Any]

MOST_BIAS = 2.0**30  # of an int32 sum, so that what is added to it has room


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


def integer_layer(
    encoded: Encoded, bias: Array | None, activation: Quantizer, *, reduced: bool = False
) -> IntegerLayer:
    """Return a layer in integers; `obstacle(encoded)` is empty.

    A step so small that the bias would not fit into int32 is made larger, which moves weights of that row that
    are about a billionth of its bias. `reduced`: weights of 8 bits are rounded to 7, for processors whose
    8-bit products saturate in pairs (before VNNI).

    Args:
        encoded: the weight.
        bias: `[rows]`, or None.
        activation: quantizer of what the layer reads.
        reduced: see above.
    """
    view, bits = encoded.view, encoded.format.bits  # type: ignore[attr-defined]
    steps = steps_of(encoded)
    old = np.repeat(encoded.parts["scale"].astype(np.float32), view.rows // encoded.parts["scale"].size)
    scale = old * np.float32(2) if reduced and bits == 8 else old
    if bias is not None:
        least = np.abs(bias.astype(np.float64)) / (MOST_BIAS * activation.scale)
        scale = np.maximum(scale, least.astype(np.float32))
    if not np.array_equal(scale, old):
        steps = np.rint(steps * (old / scale)[:, None])
        steps = np.clip(steps, -64, 63) if reduced else steps
    bias_scale = scale * np.float32(activation.scale)
    rounded = None if bias is None else np.rint(bias.astype(np.float32) / bias_scale).astype(np.int32)
    return IntegerLayer(view.tensor(steps.astype(np.int8)), scale, view.permutation[0], rounded, bias_scale)
