"""Second moments of a layer's inputs: the Hessian of its squared output error, and how far its inputs drifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.curvature.layerwise import Pairs
from featherweight.curvature.linear_ops import LinearOp, second_moment
from featherweight.formats.sweep import damped

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over all patches x of a layer's inputs as they are, and x + d as they were in the float network.

    Attributes:
        hessian: `sum x x'`, float64 `[groups, cols, cols]`.
        drift: `sum d x'`, likewise; None: nothing drifted.
    """

    hessian: Array
    drift: Array | None

    def diagonal(self, rows: int, damping: float) -> Array:
        """Return what a squared error of each weight costs, `[rows, cols]`."""
        diagonal = np.einsum("gii->gi", damped(self.hessian, damping))
        return np.repeat(diagonal, rows // len(diagonal), axis=0)

    def target(self, weight: Array, damping: float) -> Array:
        """Return the matrix `[rows, cols]` whose outputs on the inputs as they are come nearest to the float ones.

        That is `W + W D (H + damping)^-1` with the drift D: the ridge regression of the float outputs `W (x + d)`
        on x that is drawn toward W. Squared errors of a quantized layer against the float outputs are those
        against this matrix, up to a constant.
        """
        if self.drift is None:
            return weight
        blocks = weight.reshape(len(self.hessian), -1, weight.shape[1])
        moved = np.linalg.solve(damped(self.hessian, damping), (blocks @ self.drift).transpose(0, 2, 1))
        shifted: Array = weight + moved.transpose(0, 2, 1).reshape(weight.shape)
        return shifted


def moments(
    layer: LinearOp, pairs: Pairs, kernel: tuple[int, ...], *, drift: bool, places: int | None = None
) -> Moments:
    """Return the moments of a layer's inputs, batch by batch.

    Args:
        layer: the layer.
        pairs: its inputs in the float network, and as they are.
        kernel: the weight's shape without its first two axes.
        drift: whether to sum the drift as well.
        places: of each sample to see, about; None: all.

    Returns:
        sums that are finite: of inputs too large for squares in float32, those of the inputs over the greatest, which
        is the same problem.

    Raises:
        UnsupportedError: the inputs hold NaN or infinity.
    """
    found = _summed(layer, pairs, kernel, drift=drift, places=places)
    if not np.isfinite(found.hessian).all() or not (found.drift is None or np.isfinite(found.drift).all()):
        largest = max(float(part.abs().max()) for pair in pairs for part in pair)
        found = _summed(
            layer, ((a / largest, b / largest) for a, b in pairs), kernel, drift=drift, places=places
        )
    return found


def _summed(
    layer: LinearOp, pairs: Pairs, kernel: tuple[int, ...], *, drift: bool, places: int | None
) -> Moments:
    hessian = moved = None
    for before, now in pairs:
        new = second_moment(layer, now, kernel, places=places)
        hessian = new if hessian is None else hessian + new
        if drift and before is not now:
            new = second_moment(layer, before - now, kernel, now, places=places)
            moved = new if moved is None else moved + new
    assert hessian is not None, "a prefix has inputs"
    return Moments(hessian.numpy(), None if moved is None else moved.numpy())
