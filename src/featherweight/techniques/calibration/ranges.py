"""From the histogram of an activation to its quantizer: min-max, percentile, least squared error, least divergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from featherweight.activations import Quantizer
from featherweight.techniques.calibration.histograms import Histogram

Array = NDArray[Any]

# How a range is chosen; a number is a percentile: 99.9 clips a thousandth at each end that is not 0.
Ranges = Literal["minmax", "mse", "entropy"] | Annotated[float, Meta(gt=50, le=100)]
Scheme = Literal["affine", "symmetric"]

FACTORS = tuple(2.0 ** (-k / 8) for k in range(32))  # of an end of min-max, that the searches try


@dataclass(frozen=True)
class Grid:
    """The integers of a quantizer, before its range is known: `bits`, `signed` and `scheme` of `Calibrate`."""

    bits: int
    signed: bool
    scheme: Scheme

    def quantizer(self, low: float, high: float) -> Quantizer:
        """Return the quantizer of a range."""
        return Quantizer.of(
            low, high, bits=self.bits, signed=self.signed, symmetric=self.scheme == "symmetric"
        )


def quantizer(seen: Histogram, ranges: Ranges, grid: Grid) -> Quantizer:
    """Return the quantizer of what was seen, never of more than its ends.

    References:
        Migacz, 8-bit inference with TensorRT, 2017 (`entropy`).
        Nagel et al., A white paper on neural network quantization, 2021, section 3.1 (`minmax`, `mse`).
    """
    if ranges == "minmax" or not seen.counts.any():
        return grid.quantizer(seen.low, seen.high)
    if not isinstance(ranges, str):
        ends = (seen.low, seen.high) if ranges == 100 else seen.percentiles((100 - ranges, ranges))
        return grid.quantizer(*ends)
    values, counts = seen.points
    if ranges == "mse":
        return search(values, counts, seen, grid, squared_error)
    # Zeros are exact under every range, and half of all numbers behind a ReLU.
    others = np.arange(len(values)) != np.abs(values).argmin()
    return search(values[others], counts[others], seen, grid, divergence)


def search(
    values: Array,
    counts: Array,
    seen: Histogram,
    grid: Grid,
    error: Callable[[Array, Array, Quantizer], float],
) -> Quantizer:
    """Return the quantizer of least error: both ends are moved alike, then each alone; min-max is the first.

    Args:
        values: numbers, `[n]`, increasing.
        counts: how often each occurs, `[n]`.
        seen: where they come from; its ends are the widest range.
        grid: the integers.
        error: of values, counts and a quantizer.
    """

    def best(ranges: list[tuple[float, float]]) -> tuple[float, float]:
        errors = [error(values, counts, grid.quantizer(*ends)) for ends in ranges]
        return ranges[int(np.argmin(errors))]

    low, high = best([(f * seen.low, f * seen.high) for f in FACTORS])
    if seen.low < 0 < seen.high:
        low, high = best([(low, high), *((low, f * seen.high) for f in FACTORS)])
        low, high = best([(low, high), *((f * seen.low, high) for f in FACTORS)])
    return grid.quantizer(low, high)


def squared_error(values: Array, counts: Array, chosen: Quantizer) -> float:
    """Return the sum of squared errors of `values: [n]`, each as often as `counts: [n]` says."""
    gaps = chosen.dequantize(chosen.quantize(values)) - values
    return float(np.dot(gaps * gaps, counts))


def divergence(values: Array, counts: Array, chosen: Quantizer) -> float:
    """Return the Kullback-Leibler divergence from the clipped distribution to the quantized one.

    What is clipped counts at the nearest end for the first and not at all for the second; each integer's
    share is spread evenly over the values that it stands for.
    """
    low, high = chosen.range
    inside = (values >= low - chosen.scale / 2) & (values <= high + chosen.scale / 2)
    if not inside.any():
        return float("inf")
    reference = counts[inside].astype(np.float64)
    levels = chosen.quantize(values[inside]).astype(np.int64) - chosen.grid[0]
    held, sharing = np.bincount(levels, reference), np.bincount(levels)
    spread = (held / np.maximum(sharing, 1))[levels]
    first, last = np.flatnonzero(inside)[[0, -1]]
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last + 1 :].sum()
    p, q = reference / reference.sum(), spread / spread.sum()
    return float(np.sum(p * np.log(p / q)))
