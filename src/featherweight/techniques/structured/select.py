"""Which channels go: scores, a budget and a guard in, the channels that stay out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import ConfigError
from featherweight.graph.groups import Channels
from featherweight.techniques.saliencies.base import Scores

Array = NDArray[Any]


@dataclass(frozen=True)
class Guard:
    """What every group of channels keeps, so that no layer collapses.

    Attributes:
        least: channels that stay at least.
        multiple: of which the number that stays is a multiple, as far as there are so many.
    """

    least: int = 1
    multiple: int = 1


def select(
    scores: Scores, channels: Channels, cost: Callable[[Array], float], limit: float, guard: Guard
) -> Array:
    """Return which channels stay `[channels.count]`: the fewest removed, in order, that bring the cost to `limit`.

    Args:
        scores: what removal is thought to cost.
        channels: coupled channels.
        cost: of the network with some channels; it never rises as channels go.
        limit: what it may cost.
        guard: what every group keeps.

    Raises:
        ConfigError: the limit cannot be reached; says what can.
    """
    order = removal_order(scores, channels, guard.least)
    low, high = 0, len(order)
    if cost(without(order, channels, guard.multiple)) > limit:
        least = cost(without(order, channels, guard.multiple))
        raise ConfigError(
            "cannot be reached", where="prune.keep", got=f"{limit:g}", expected=f"at least {least:g}"
        )
    while low < high:
        middle = (low + high) // 2
        if cost(without(order[:middle], channels, guard.multiple)) <= limit:
            high = middle
        else:
            low = middle + 1
    return without(order[:low], channels, guard.multiple)


def removal_order(scores: Scores, channels: Channels, least: int) -> Array:
    """Return the channels in the order in which they go; the last `least` of each group never do."""
    linear, pair = scores.linear, scores.pair
    order = np.argsort(linear, kind="stable") if pair is None else greedy(linear, pair)
    sizes = np.array([group.size for group in channels.groups])
    return order[ranks(order, channels) < (sizes - least)[channels.group_of[order]]]


def greedy(linear: Array, pair: Array) -> Array:
    """Return all channels, each the one that costs least after those before it.

    Removing s after M costs `linear[s] + pair[s, s] / 2 + sum over M of pair[s, t]`.

    >>> greedy(np.zeros(3), np.array([[1.0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 1.9]])).tolist()
    [0, 2, 1]
    """
    increment = linear + np.diagonal(pair) / 2
    order = np.empty(len(linear), int)
    for step in range(len(linear)):
        order[step] = chosen = np.argmin(increment)
        increment = increment + pair[:, chosen]
        increment[chosen] = np.inf
    return order


def ranks(order: Array, channels: Channels) -> Array:
    """Return, of each channel in `order`, how many of its group come before it.

    A stable sort by group puts those of a group side by side, in order.
    """
    of = channels.group_of[order]
    beside = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[beside], of[beside])
    found = np.empty(len(order), int)
    found[beside] = np.arange(len(order)) - starts
    return found


def without(removed: Array, channels: Channels, multiple: int = 1) -> Array:
    """Return which channels stay when `removed` go, but for the last of each group that make no whole multiple."""
    sizes = np.array([group.size for group in channels.groups], int)
    gone = np.bincount(channels.group_of[removed], minlength=len(sizes))
    stay = np.minimum(-(-(sizes - gone) // multiple) * multiple, sizes)
    kept = np.ones(channels.count, bool)
    kept[removed[ranks(removed, channels) < (sizes - stay)[channels.group_of[removed]]]] = False
    return kept
