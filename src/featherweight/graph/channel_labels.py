"""Labels of channels: what is tied, what must stay and why; axes that are cut into heads and put together again."""

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
Tie = tuple[Array, Array]
Stay = tuple[Array, str]

WHOLE = "heads go as wholes"


@dataclass(frozen=True, eq=False)
class Slot:
    """Axis number `axis` of a parameter or buffer (its canonical name), as a source of `labels: [size]`."""

    tensor: str
    axis: int
    labels: Array


@dataclass(frozen=True, eq=False)
class Cut:
    """Labels of one axis, and of the several axes that hold the same elements, row-major.

    Only one of these can lose indices, or else what is left would be no block: of `(3, heads, size)` whole heads, in
    all three. Which, is known when the rest of the network is: the one that nothing fixes.

    Attributes:
        whole: labels of the one axis.
        parts: labels of the several.
        sizes: of the several.
        divides: whether the one becomes the several, not the several the one.
        place: where the several are: the edge, and their axes on it.
    """

    whole: Array
    parts: Axes
    sizes: tuple[int, ...]
    divides: bool
    place: tuple[str, tuple[int, ...]] = ("", ())

    def free(self, stays: Array) -> list[int]:
        """Return which of the several axes can lose indices; `stays`: which labels must stay `[count]`."""
        if stays[self.whole].all():
            return []
        return [n for n, part in enumerate(self.parts) if part is not None and not stays[part].all()]

    def settled(self, free: Sequence[int], reason: str) -> tuple[list[Tie], list[Stay]]:
        """Return what follows when the first of `free` loses indices; of none, all stay for `reason`."""
        parts = [part for part in self.parts if part is not None]
        if not free:
            return [], [(axis, reason) for axis in (self.whole, *parts)]
        axis = free[0]
        chosen, rows = self.parts[axis], np.moveaxis(self.whole.reshape(self.sizes), axis, 0)
        assert chosen is not None, "it is free"
        ties = [(np.repeat(chosen, rows[0].size), rows.reshape(-1))]
        return ties, [(part, WHOLE) for part in parts if part is not chosen]


@dataclass(eq=False)
class Labels:
    """Labels and what is known of them: which are tied, which must stay and why, which a weight sums over.

    Filled by following a network, then read by `components`.
    """

    slots: list[Slot] = field(default_factory=list)
    count: int = 0
    ties: list[Tie] = field(default_factory=list)
    stay: list[Stay] = field(default_factory=list)
    read: list[Array] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

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

    def joined(self, axes: Sequence[Axis], sizes: Sequence[int]) -> Axis:
        """Return the labels of one axis that holds the elements of several, row-major."""
        labelled = [number for number, axis in enumerate(axes) if axis is not None]
        if len(labelled) < 2:
            shape = [size if number in labelled else 1 for number, size in enumerate(sizes)]
            return np.broadcast_to(axes[labelled[0]].reshape(shape), sizes).reshape(-1) if labelled else None  # type: ignore[union-attr]
        whole = self.fresh(prod(sizes))
        self.cuts.append(Cut(whole, tuple(axes), tuple(sizes), False))
        return whole

    def divided(
        self, whole: Array, sizes: Sequence[int], place: tuple[str, tuple[int, ...]] = ("", ())
    ) -> Axes:
        """Return the labels of several axes that hold the elements of one, row-major; `place`: where they are."""
        grid = whole.reshape(sizes)
        lines = [np.moveaxis(grid, axis, 0).reshape(size, -1) for axis, size in enumerate(sizes)]
        varied = [axis for axis, line in enumerate(lines) if (line != line[0]).any()]
        if len(varied) < 2:
            return tuple(lines[axis][:, 0] if axis in varied else None for axis in range(len(sizes)))
        parts = tuple(self.fresh(size) if axis in varied else None for axis, size in enumerate(sizes))
        self.cuts.append(Cut(whole, parts, tuple(sizes), True, place))
        return parts

    def components(self) -> tuple[Array, dict[int, str]]:
        """Return the component of each label `[count]`, and those that must stay with the reason.

        Cuts are settled one after the other: those that leave no choice; then where an axis is cut, its first axis that
        is free goes; then where axes are put together.
        """
        ties, stay, cuts = list(self.ties), list(self.stay), list(self.cuts)
        while True:
            component, fixed = self._tied(ties, stay)
            if not cuts:
                return component, fixed
            stays = np.isin(component, list(fixed))
            free = {cut: cut.free(stays) for cut in cuts}
            now = (
                [cut for cut in cuts if len(free[cut]) < 2]
                or [cut for cut in cuts if cut.divides]
                or cuts[:1]
            )
            for cut in now:
                more = cut.settled(free[cut], self._reason(cut, component, fixed))
                ties, stay = ties + more[0], stay + more[1]
            cuts = [cut for cut in cuts if cut not in now]

    def _tied(self, ties: Sequence[Tie], stay: Sequence[Stay]) -> tuple[Array, dict[int, str]]:
        pairs = [np.concatenate(side) for side in zip(*ties, strict=True)] or [np.zeros(0, int)] * 2
        edges = coo_array((np.ones(pairs[0].size, bool), tuple(pairs)), shape=(self.count, self.count))
        component = connected_components(edges, directed=False)[1]
        fixed: dict[int, str] = {}
        for labels, reason in stay:
            for number in np.unique(component[labels]).tolist():
                fixed.setdefault(number, reason)
        return component, fixed

    def _reason(self, cut: Cut, component: Array, fixed: dict[int, str]) -> str:
        """Return why no axis of a cut loses indices: what fixes the one, or else each of the several."""
        axes = [part for part in cut.parts if part is not None]
        if all(number in fixed for number in component[cut.whole].tolist()):
            axes = [cut.whole]
        return "; ".join(dict.fromkeys(fixed.get(int(component[axis[0]]), "") for axis in axes))


def reshaped(labels: Labels, axes: Axes, old: Sequence[int], new: Sequence[int], edge: str = "") -> Axes:
    """Return the labels after `old` sizes became `new` ones, row-major, on `edge`.

    An axis that merges with one that has no labels repeats its own; see `Cut` for one that is cut.

    >>> two = Labels()
    >>> channels = two.fresh(2)
    >>> reshaped(two, (None, channels, None), (5, 2, 3), (5, 6))[1].tolist()
    [0, 0, 0, 1, 1, 1]
    """
    found: list[Axis] = [None] * len(new)
    for before, after in blocks(old, new):
        whole = labels.joined([axes[axis] for axis in before], [old[axis] for axis in before])
        if whole is not None:
            parts = labels.divided(whole, [new[axis] for axis in after], (edge, tuple(after)))
            for axis, part in zip(after, parts, strict=True):
                found[axis] = part
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
