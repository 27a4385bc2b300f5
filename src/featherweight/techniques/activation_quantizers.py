"""From what passed over the edges of a network to their quantizers: histograms, ranges, and joins that share one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from featherweight.activations import Affine, Quantizer, Scaled, ends
from featherweight.events import Note
from featherweight.formats.view import Array

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.graph import Edge
    from featherweight.graph.quantizable import Plan

# How a range is chosen; a number is a percentile: 99.9 clips a thousandth at each end that is not 0.
Ranges = Literal["minmax", "mse", "entropy"] | Annotated[float, Meta(gt=50, le=100)]
Scheme = Literal["affine", "symmetric"]
Grid = Callable[[float, float], Scaled]  # from the ends of a range to its integers
Error = Callable[[Array, Array, Quantizer], float]  # of values, each as often as its count says

POINTS = 8192  # that a search looks at
DROPPED = 13  # bits of float32 that a bin does not tell apart: 1,024 bins from a power of two to the next
SAMPLED = 4096  # numbers of one sample of the batch that are counted; the ends are of all
FACTORS = tuple(2.0 ** (-k / 8) for k in range(32))  # of an end of min-max, that the searches try
ALIKE = 2.0  # times its own step: what an edge may be rounded to so as to share a quantizer; it loses one bit
LEAST_PART = 10.0  # dB of signal to rounding that is left of each part of a concatenation
LEAST_CHANNEL = 6.0  # dB that is left of the median channel of what a layer reads
USUAL, OUTLYING = 99.0, 1000.0  # percent of the numbers, and how far beyond them one is an outlier
MASK = 2.0**96  # numbers beyond stand for minus infinity, and have no step


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of numbers in bins as wide as a thousandth of what they hold, so that an outlier widens no other.

    Attributes:
        bins: `[n]`, int32, increasing: what float32 is without its last bits, in order of the numbers.
        counts: `[n]`, int64.
        low: the least number seen, counted or not; minus infinity is allowed.
        high: the greatest.
        topped: whether a range reaches up to the greatest, since it is what is gone on with.
        width: bits of its integers; 0: as of most others.
    """

    bins: NDArray[np.int32]
    counts: NDArray[np.int64]
    low: float
    high: float
    topped: bool = False
    width: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float32], low: float, high: float) -> Histogram:
        """Return the histogram of `values: [n]` whose ends are `low` and `high`, or lie within them."""
        codes = np.ascontiguousarray(values, np.float32).view(np.int32)
        bins, counts = np.unique((codes ^ (codes >> 31 & 0x7FFFFFFF)) >> DROPPED, return_counts=True)
        return cls(bins, counts, float(low), float(high))

    def __add__(self, other: Histogram) -> Histogram:
        """Return the histogram of what either has seen."""
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([self.counts, other.counts]), len(bins))
        low, high = min(self.low, other.low), max(self.high, other.high)
        topped, width = self.topped or other.topped, max(self.width, other.width)
        return Histogram(bins, counts.astype(np.int64), low, high, topped, width)

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
        return replace(self, bins=self.bins[kept], counts=self.counts[kept], low=low, high=high)

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


def quantizer(seen: Histogram, ranges: Ranges, grid: Grid) -> Scaled:
    """Return the quantizer of what was seen, never of more than its ends.

    References:
        Migacz, 8-bit inference with TensorRT, 2017 (`entropy`).
        Nagel et al., A white paper on neural network quantization, 2021, section 3.1 (`minmax`, `mse`).
    """
    if ranges == "minmax" or not seen.counts.any():
        return grid(seen.low, seen.high)
    if not isinstance(ranges, str):
        return grid(*((seen.low, seen.high) if ranges == 100 else seen.percentiles((100 - ranges, ranges))))
    values, counts = seen.points
    if ranges == "mse":
        return search(values, counts, seen, grid, squared_error)
    # Zeros are exact under every range, and half of all numbers behind a ReLU.
    others = np.arange(len(values)) != np.abs(values).argmin()
    return search(values[others], counts[others], seen, grid, divergence)


def search(values: Array, counts: Array, seen: Histogram, grid: Grid, error: Error) -> Scaled:
    """Return the quantizer of least error of `values: [n]`, increasing, each as often as `counts: [n]` says.

    Both ends of what was seen, the widest range, are moved alike, then each alone; min-max is the first. The upper end
    of what is `topped` stays.
    """

    def best(ranges: list[tuple[float, float]]) -> tuple[float, float]:
        errors = [error(values, counts, grid(*ends)) for ends in ranges]
        return ranges[int(np.argmin(errors))]

    if seen.topped:
        return grid(*best([(f * seen.low, seen.high) for f in FACTORS]))
    low, high = best([(f * seen.low, f * seen.high) for f in FACTORS])
    if seen.low < 0 < seen.high:
        low, high = best([(low, high), *((low, f * seen.high) for f in FACTORS)])
        low, high = best([(low, high), *((f * seen.low, high) for f in FACTORS)])
    return grid(low, high)


def squared_error(values: Array, counts: Array, chosen: Quantizer) -> float:
    """Return the sum of squared errors of `values: [n]`, each as often as `counts: [n]` says."""
    gaps = chosen.dequantize(chosen.quantize(values)) - values
    return float(np.dot(gaps * gaps, counts))


def divergence(values: Array, counts: Array, chosen: Quantizer) -> float:
    """Return the Kullback-Leibler divergence from the clipped distribution to the quantized one.

    What is clipped counts at the nearest end for the first and not at all for the second; each integer's
    share is spread evenly over the values that it stands for.
    """
    assert isinstance(chosen, Affine)
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


@dataclass(frozen=True, eq=False)
class Observed:
    """What passed over an edge.

    Attributes:
        histogram: of all numbers.
        power: of edges that layers read, the median mean square of a channel of a sample; those of zeros left out.
    """

    histogram: Histogram
    power: float = 0.0

    def within(self, times: float) -> Observed:
        """Return this without numbers of more than so many times the usual magnitude, which may be 0."""
        usual = self.histogram.magnitude(USUAL)
        return Observed(self.histogram.within(times * usual), self.power) if usual else self


def quantizers(
    plan: Plan, seen: Mapping[Edge, Observed], choose: Callable[[Histogram], Scaled]
) -> tuple[dict[Edge, Scaled], list[Note]]:
    """Return the quantizer of each edge of `plan`, equal ones across joins of like ranges; and notes on the others.

    Args:
        plan: what is to be quantized.
        seen: what passed over each of its edges.
        choose: the quantizer of what was seen.
    """
    groups: dict[Edge, set[Edge]] = {}
    totals: dict[Edge, Histogram] = {}
    steps: dict[Edge, float] = {}  # the least that an edge of the group has by itself
    chosen: dict[Edge, Scaled] = {}

    def put(edges: set[Edge], total: Histogram, quantizer: Scaled, step: float) -> None:
        for edge in edges:
            groups[edge], totals[edge], chosen[edge], steps[edge] = edges, total, quantizer, step

    for group in plan.shared:
        total = reduce(add, (seen[edge].histogram for edge in group))
        quantizer = choose(total)
        put(set(group), total, quantizer, quantizer.scale if total.low < total.high else np.inf)
    notes = []
    for join in plan.joins:
        edges = {*join.inputs, *([join.written] if join.shares else [])}
        merged = {edge for member in edges for edge in groups[member]}
        parts = {id(groups[member]): totals[member] for member in sorted(edges)}
        total = reduce(add, parts.values())
        quantizer, step = choose(total), min(steps[member] for member in edges)
        if quantizer.scale <= ALIKE * step or len(parts) == 1:
            put(merged, total, quantizer, step)
        else:
            ranges = ", ".join(f"{e} {_range(seen[e].histogram)}" for e in dict.fromkeys(join.inputs))
            reason = f"operands of unlike ranges have a quantizer each: {ranges}"
            notes.append(Note("chose", join.written, reason))
    for edge in plan.reads:
        own, of_all = choose(seen[edge].histogram), chosen.get(ends(edge)[0])
        if of_all is None or finer(of_all, own):
            chosen[edge] = own
    return chosen, notes


def finer(first: Quantizer, second: Quantizer) -> bool:
    """Return whether the first has more numbers than the second, which are worth rounding once more to."""
    return isinstance(first, Affine) and isinstance(second, Affine) and first.bits > second.bits


def lost(plan: Plan, seen: Mapping[Edge, Observed], chosen: Mapping[Edge, Scaled]) -> dict[Edge, str]:
    """Return the edges that integers would lose too much of, with the reason: small parts, small channels."""
    found = {}
    for join in plan.joins:
        for edge in join.inputs if join.op == "cat" else ():
            left = ratio(seen[edge].histogram.power, chosen[join.written])
            if left < LEAST_PART:
                reason = f"joins unlike ranges: {edge} {_range(seen[edge].histogram)} would keep"
                found[join.written] = f"{reason} {left:.0f} dB in steps of {chosen[join.written].scale:.2g}"
    for edge, op in plan.readers.items():
        reading = [chosen[e] for e in (edge, *plan.reads) if ends(e)[0] == edge and e in chosen]
        left = min(ratio(seen[edge].power, one) for one in reading)
        if left < LEAST_CHANNEL:
            reason = f"outliers: the median channel that a {op} reads would keep {left:.0f} dB"
            found.setdefault(edge, f"{reason} in steps of {max(one.scale for one in reading):.2g}")
    return found


def masks(seen: Mapping[Edge, Observed]) -> dict[Edge, str]:
    """Return the edges that hold numbers that stand for minus infinity, with the reason."""
    ends = {edge: (found.histogram.low, found.histogram.high) for edge, found in seen.items()}
    return {
        edge: f"holds {low if -low > high else high:.3g}, which no step fits: a mask"
        for edge, (low, high) in ends.items()
        if max(-low, high) > MASK
    }


def ratio(power: float, quantizer: Quantizer) -> float:
    """Return the signal to rounding in dB of numbers of a mean square, as if the quantizer had 8 bits.

    Narrower ones are asked for; numbers that are always 0 lose nothing.
    """
    if not isinstance(quantizer, Affine):  # floating point rounds each number as well
        return float("inf")
    step = quantizer.scale * 2.0 ** (quantizer.bits - 8)
    return 10 * float(np.log10(12 * power / step**2)) if power else np.inf


def _range(seen: Histogram) -> str:
    return f"{seen.low:.3g} to {seen.high:.3g}"
