"""Which channels stand and fall together: a label for every index of every axis, followed through a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """One axis of one parameter or buffer, as a source of labels.

    Attributes:
        tensor: canonical name.
        axis: number of the axis.
        labels: `[size]`.
    """

    tensor: str
    axis: int
    labels: Array


@dataclass(eq=False)
class Labels:
    """Labels and what is known of them: which are tied, which must stay and why, which a weight sums over.

    Filled by following a network (`featherweight.graph.coupling.follower`), then read by `components`.
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
        edges = coo_array(
            (np.ones(pairs[0].size, bool), (pairs[0], pairs[1])), shape=(self.count, self.count)
        )
        component = connected_components(edges, directed=False)[1]
        fixed: dict[int, str] = {}
        for labels, reason in self.stay:
            for number in np.unique(component[labels]).tolist():
                fixed.setdefault(number, reason)
        return component, fixed
