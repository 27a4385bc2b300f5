"""Which edges of sums and concatenations share a quantizer, and which edges stay in float: by what each would lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featherweight.activations import Quantizer
from featherweight.techniques.calibration.histograms import Histogram

if TYPE_CHECKING:
    from featherweight.graph.graph import Edge
    from featherweight.graph.quantizable import Plan
    from featherweight.model import Note

ALIKE = 2.0  # times its own step: what an edge may be rounded to so as to share a quantizer; it loses one bit
LEAST_PART = 10.0  # dB of signal to rounding that is left of each part of a concatenation
LEAST_CHANNEL = 6.0  # dB that is left of the median channel of what a layer reads
USUAL, OUTLYING = 99.0, 1000.0  # percent of the numbers, and how far beyond them one is an outlier
MASK = 2.0**96  # numbers beyond stand for minus infinity, and have no step


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
    plan: Plan, seen: Mapping[Edge, Observed], choose: Callable[[Histogram], Quantizer]
) -> tuple[dict[Edge, Quantizer], list[Note]]:
    """Return the quantizer of each edge of `plan`, equal ones across joins of like ranges; and notes on the others.

    Args:
        plan: what is to be quantized.
        seen: what passed over each of its edges.
        choose: the quantizer of what was seen.
    """
    from featherweight.model import Note

    groups: dict[Edge, set[Edge]] = {}
    totals: dict[Edge, Histogram] = {}
    steps: dict[Edge, float] = {}  # the least that an edge of the group has by itself
    chosen: dict[Edge, Quantizer] = {}

    def put(edges: set[Edge], total: Histogram, quantizer: Quantizer, step: float) -> None:
        for edge in edges:
            groups[edge], totals[edge], chosen[edge], steps[edge] = edges, total, quantizer, step

    for group in plan.shared:
        total = sum((seen[edge].histogram for edge in group[1:]), seen[group[0]].histogram)
        quantizer = choose(total)
        put(set(group), total, quantizer, quantizer.scale if total.low < total.high else np.inf)
    notes = []
    for join in plan.joins:
        edges = {*join.inputs, *([join.written] if join.shares else [])}
        merged = {edge for member in edges for edge in groups[member]}
        parts = {id(groups[member]): totals[member] for member in sorted(edges)}
        total = sum(list(parts.values())[1:], next(iter(parts.values())))
        quantizer, step = choose(total), min(steps[member] for member in edges)
        if quantizer.scale <= ALIKE * step or len(parts) == 1:
            put(merged, total, quantizer, step)
        else:
            ranges = ", ".join(
                f"{edge} {_range(seen[edge].histogram)}" for edge in dict.fromkeys(join.inputs)
            )
            notes.append(
                Note("chose", join.written, f"operands of unlike ranges have a quantizer each: {ranges}")
            )
    return chosen, notes


def lost(plan: Plan, seen: Mapping[Edge, Observed], chosen: Mapping[Edge, Quantizer]) -> dict[Edge, str]:
    """Return the edges that integers would lose too much of, with the reason: masks, small parts, small channels.

    Args:
        plan: what is to be quantized.
        seen: what passed over each of its edges.
        chosen: the quantizers.
    """
    found = {}
    for join in plan.joins:
        for edge in join.inputs if join.op == "cat" else ():
            left = ratio(seen[edge].histogram.power, chosen[join.written])
            if left < LEAST_PART:
                found[join.written] = (
                    f"joins unlike ranges: {edge} {_range(seen[edge].histogram)} would keep {left:.0f} dB "
                    f"in steps of {chosen[join.written].scale:.2g}"
                )
    for edge, op in plan.readers.items():
        left = ratio(seen[edge].power, chosen[edge])
        if left < LEAST_CHANNEL:
            reason = f"outliers: the median channel that a {op} reads would keep {left:.0f} dB"
            found.setdefault(edge, f"{reason} in steps of {chosen[edge].scale:.2g}")
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
    step = quantizer.scale * 2.0 ** (quantizer.bits - 8)
    return 10 * float(np.log10(12 * power / step**2)) if power else np.inf


def _range(seen: Histogram) -> str:
    return f"{seen.low:.3g} to {seen.high:.3g}"
