"""Histograms of activations that grow as batches come: bounded memory, exact ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor

BINS = 8192
SAMPLED = 4096  # numbers of one sample of the batch that are counted; the ends are of all


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of numbers in equal bins over `-limit .. limit`.

    Attributes:
        counts: `[BINS]`, int64.
        limit: a power of two, greater than any number seen.
        low: the least number seen, counted or not.
        high: the greatest.
    """

    counts: NDArray[np.int64]
    limit: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float32], low: float, high: float) -> Histogram:
        """Return the histogram of `values: [n]` whose ends are `low` and `high`, or lie within them.

        Raises:
            TaskError: an end is NaN or infinite.
        """
        if not (np.isfinite(low) and np.isfinite(high)):
            raise TaskError(
                "an activation is NaN or infinite on the calibration data", got=f"{low} to {high}",
                hint="look for NaN in the data, and for weights that diverged",
            )  # fmt: skip
        # Above them: a number at an end has a bin, which is the same in wider histograms.
        limit = 2.0 ** np.frexp(max(abs(low), abs(high), 2.0**-100))[1]
        places = np.floor(values * np.float64(BINS // 2 / limit))
        counts = np.bincount(places.astype(np.int64) + BINS // 2, minlength=BINS)
        return cls(counts, float(limit), float(low), float(high))

    def __add__(self, other: Histogram) -> Histogram:
        """Return the histogram of what either has seen."""
        limit = max(self.limit, other.limit)
        counts = self.widened(limit) + other.widened(limit)
        return Histogram(counts, limit, min(self.low, other.low), max(self.high, other.high))

    def widened(self, limit: float) -> NDArray[np.int64]:
        """Return the counts over `-limit .. limit`, no narrower than now: bins are merged, never split."""
        width = max(int(BINS // 2 / (limit / self.limit)), 1)  # of the new bins that the old ones fill
        below, above = self.counts.reshape(2, width, -1).sum(axis=2)
        wider = np.zeros(BINS, np.int64)
        wider[BINS // 2 - width : BINS // 2], wider[BINS // 2 : BINS // 2 + width] = below, above
        return wider

    @property
    def points(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The middles of the bins that are not empty, within the ends, and their counts."""
        middles = (np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit
        filled = self.counts > 0
        return np.clip(middles[filled], self.low, self.high).astype(np.float32), self.counts[filled]


def histogram(activation: Tensor) -> Histogram:
    """Return the histogram of `activation: [n, ...]`: the ends of all of it, counts of evenly spaced numbers."""
    if not activation.numel():
        return Histogram(np.zeros(BINS, np.int64), 2.0**-100, 0.0, 0.0)
    flat = flattened(activation)
    low, high = flat.aminmax()
    stride = max(1, len(flat) // (SAMPLED * activation.shape[0] if activation.dim() else 1)) | 1
    return Histogram.of(flat[::stride].numpy(), float(low), float(high))


def flattened(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor in the order of its memory, without a copy where it is dense."""
    import torch

    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)
