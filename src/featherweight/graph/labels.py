"""Which channels stand and fall together: a label for every index of every axis, also through a reshape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Array = NDArray[Any]
# Labels `[size]` of one axis; None: an axis whose size stays (batch, pixels, channels of an image).
Axis = Array | None
Axes = tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Slot:
    """Axis number `axis` of a parameter or buffer (its canonical name), as a source of `labels: [size]`."""

    tensor: str
    axis: int
    labels: Array


@dataclass(eq=False)
class Labels:
    """Labels and what is known of them: which are tied, which must stay and why, which a weight sums over.

    Filled by following a network (`featherweight.graph.channel_rules`), then read by `components`.
    """

    slots: list[Slot] = field(default_factory=list)
    count: int = 0
    ties: list[tuple[Array, Array]] = field(default_factory=list)
    stay: list[tuple[Array, str]] = field(default_factory=list)
    read: list[Array] = field(default_factory=list)

    def fresh(self, size: int) -> Array:
        """Return `size` new labels."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def source(self, tensor: str, shape: Sequence[int]) -> Axes:
        """Return new labels for a parameter or buffer; an axis of one index has none."""
        axes = tuple(self.fresh(size) if size > 1 else None for size in shape)
        self.slots += [Slot(tensor, number, axis) for number, axis in enumerate(axes) if axis is not None]
        return axes

    def fix(self, axis: Axis, reason: str) -> None:
        """Say that every index of `axis` must stay."""
        if axis is not None:
            self.stay.append((axis, reason))

    def tie(self, axes: Sequence[Axis], reason: str) -> Axis:
        """Say that axes of one size stand and fall together; one that stays fixes the others, for `reason`."""
        labelled = [axis for axis in axes if axis is not None]
        if len(labelled) < len(axes):
            for axis in labelled:
                self.fix(axis, reason)
            return None
        self.ties += [(labelled[0], other) for other in labelled[1:]]
        return labelled[0] if labelled else None

    def contract(self, axis: Axis, weight: Axis) -> None:
        """Say that an axis of a weight is summed over together with one of an activation."""
        self.tie([axis, weight], "it reads an input of fixed size")
        if weight is not None:
            self.read.append(weight)

    def components(self) -> tuple[Array, dict[int, str]]:
        """Return the component of each label `[count]`, and those that must stay with the reason."""
        pairs = [np.concatenate(side) for side in zip(*self.ties, strict=True)] or [np.zeros(0, int)] * 2
        edges = coo_array((np.ones(pairs[0].size, bool), tuple(pairs)), shape=(self.count, self.count))
        component = connected_components(edges, directed=False)[1]
        fixed: dict[int, str] = {}
        for labels, reason in self.stay:
            for number in np.unique(component[labels]).tolist():
                fixed.setdefault(number, reason)
        return component, fixed


def reshaped(labels: Labels, axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Return the labels after `old` sizes became `new` ones, row-major.

    Axes that merge repeat their labels; a labelled axis that is cut must stay.

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
                labels.fix(axes[axis], "it is reshaped into several axes")
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
