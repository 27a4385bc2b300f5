"""Histograms of activations that grow as batches come: bins of a thousandth of each number, exact ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

POINTS = 8192  # that a search looks at
DROPPED = 13  # bits of float32 that a bin does not tell apart: 1,024 bins from a power of two to the next
SAMPLED = 4096  # numbers of one sample of the batch that are counted; the ends are of all


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of numbers in bins as wide as a thousandth of what they hold, so that an outlier widens no other.

    Attributes:
        bins: `[n]`, int32, increasing: what float32 is without its last bits, in order of the numbers.
        counts: `[n]`, int64.
        low: the least number seen, counted or not; minus infinity is allowed.
        high: the greatest.
    """

    bins: NDArray[np.int32]
    counts: NDArray[np.int64]
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float32], low: float, high: float) -> Histogram:
        """Return the histogram of `values: [n]` whose ends are `low` and `high`, or lie within them.

        Raises:
            TaskError: an end is NaN.
        """
        if np.isnan(low) or np.isnan(high):
            raise TaskError(
                "an activation is NaN on the calibration data", got=f"{low} to {high}",
                hint="look for NaN in the data, and for weights that diverged",
            )  # fmt: skip
        codes = np.ascontiguousarray(values, np.float32).view(np.int32)
        bins, counts = np.unique((codes ^ (codes >> 31 & 0x7FFFFFFF)) >> DROPPED, return_counts=True)
        return cls(bins, counts, float(low), float(high))

    def __add__(self, other: Histogram) -> Histogram:
        """Return the histogram of what either has seen."""
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([self.counts, other.counts]), len(bins))
        return Histogram(bins, counts.astype(np.int64), min(self.low, other.low), max(self.high, other.high))

    @cached_property
    def middles(self) -> NDArray[np.float32]:
        """The middle of each bin, within the ends."""
        codes = (self.bins << DROPPED) + (1 << DROPPED - 1)
        values = (codes ^ (codes >> 31 & 0x7FFFFFFF)).view(np.float32)
        return np.clip(values, self.low, self.high).astype(np.float32)

    @property
    def points(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """At most `POINTS` increasing numbers that stand for all, evenly spaced, and how many each stands for."""
        width = (self.high - self.low) / POINTS or 1.0
        places = np.minimum((self.middles - self.low) / width, POINTS - 1).astype(np.int64)
        counts = np.bincount(places, self.counts)
        sums = np.bincount(places, self.counts * self.middles.astype(np.float64))
        filled = counts > 0
        return (sums[filled] / counts[filled]).astype(np.float32), counts[filled].astype(np.int64)

    def percentiles(self, percents: tuple[float, float]) -> tuple[float, float]:
        """Return two numbers that these percentages of all are at most."""
        share = np.cumsum(self.counts) / max(self.counts.sum(), 1)
        places = np.searchsorted(share, np.array(percents) / 100).clip(0, len(share) - 1)
        low, high = self.middles[places].tolist()
        return low, high

    def magnitude(self, percent: float) -> float:
        """Return the magnitude that this percentage of all numbers is within."""
        sizes = np.abs(self.middles)
        order = np.argsort(sizes)
        share = np.cumsum(self.counts[order]) / max(self.counts.sum(), 1)
        return float(sizes[order][np.searchsorted(share, percent / 100)]) if len(sizes) else 0.0

    def within(self, most: float) -> Histogram:
        """Return the histogram of the numbers of at most this magnitude."""
        kept = np.abs(self.middles) <= most
        low = self.low if self.low >= -most else float(self.middles[kept].min(initial=0.0))
        high = self.high if self.high <= most else float(self.middles[kept].max(initial=0.0))
        return Histogram(self.bins[kept], self.counts[kept], low, high)

    @property
    def power(self) -> float:
        """The mean of the squares."""
        squares = np.square(self.middles.astype(np.float64))
        return float(np.dot(squares, self.counts) / max(self.counts.sum(), 1))


def histogram(activation: Tensor) -> Histogram:
    """Return the histogram of `activation: [n, ...]`: the ends of all of it, counts of evenly spaced numbers."""
    if not activation.numel():
        return Histogram(np.zeros(0, np.int32), np.zeros(0, np.int64), 0.0, 0.0)
    flat = flattened(activation.float())
    low, high = flat.aminmax()
    stride = max(1, len(flat) // (SAMPLED * activation.shape[0] if activation.dim() else 1)) | 1
    return Histogram.of(flat[::stride].numpy(), float(low), float(high))


def flattened(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor in the order of its memory, without a copy where it is dense."""
    import torch

    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)
