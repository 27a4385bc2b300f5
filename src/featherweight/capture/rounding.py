"""How far from each other two computations of one network may be: another order of float32 operations errs, too."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

TOLERANCE = 1e-5  # of the largest magnitude of an output
OFF = 8.0  # times the error of float32 that another order of it may err ...
MOST_OFF = 1e-3  # ... but never more than this share of the largest magnitude


def rounding(computed: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """Return how far right outputs may be from those that float32 computed: a share of the largest of each.

    `OFF` times how far these are from what float64 makes of the same inputs, at least `TOLERANCE`, at most `MOST_OFF`.
    """
    gaps = [TOLERANCE]
    for ours, theirs in zip(computed, exact, strict=True):
        if ours.is_floating_point() and ours.shape == theirs.shape and ours.numel():
            scale = float(theirs.abs().max()) or 1.0
            gaps.append(OFF * float((ours.double() - theirs.double()).abs().max()) / scale)
    return min(max(gap for gap in gaps if gap == gap), MOST_OFF)
