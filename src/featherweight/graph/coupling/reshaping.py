"""Labels through a reshape: axes that merge repeat their labels; a labelled axis that is cut must stay."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from featherweight.graph.coupling.labels import Axes, Axis, Labels

REASON = "it is reshaped into several axes"


def reshaped(labels: Labels, axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Return the labels after `old` sizes became `new` ones, row-major.

    >>> two = Labels()
    >>> channels = two.fresh(2)
    >>> reshaped(two, (None, channels, None), (5, 2, 3), (5, 6))[1].tolist()
    [0, 0, 0, 1, 1, 1]
    """
    found: list[Axis] = [None] * len(new)
    for before, after in blocks(old, new):
        labelled = [axis for axis in before if axes[axis] is not None]
        if len(labelled) == 1 and len(after) == 1:
            axis, sizes = labelled[0], [old[a] for a in before]
            shape = [old[a] if a == axis else 1 for a in before]
            found[after[0]] = np.broadcast_to(np.reshape(axes[axis], shape), sizes).reshape(-1)  # type: ignore[arg-type]
        else:
            for axis in labelled:
                labels.fix(axes[axis], REASON)
    return tuple(found)


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return runs of axes of `old` and `new` that hold the same elements, as short as they can be.

    Axes of size 1 hold nothing and are left out.

    >>> blocks((2, 1, 3, 4), (6, 2, 2))
    [([0, 2], [0]), ([3], [1, 2])]
    """
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    found = []
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := prod(old[n] for n in before)) != (b := prod(new[n] for n in after)):
            if a < b:
                before.append(left.pop(0))
            else:
                after.append(right.pop(0))
        found.append((before, after))
    return found
