"""Sizes of a reshape into heads without their number, so that fewer heads have sizes too."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any


def without_heads(old: Sequence[Any], new: Sequence[int]) -> list[int]:
    """Return the sizes of a reshape that cuts the last axis into heads, or joins them, without the number of heads.

    They mean the same of `old`, and are those of a network with fewer heads: 0 keeps an axis. Sizes of any other
    reshape are returned as they are.

    >>> without_heads(["batch", 6, 2304], [-1, 6, 3, 12, 64])
    [0, 0, 3, -1, 64]
    >>> without_heads(["batch", 6, 12, 64], [-1, 6, 768])
    [0, 0, -1]

    Args:
        old: sizes of what is reshaped; what is no number is free.
        new: what it is reshaped to; 0 keeps the size of an axis, -1 is what is left over.
    """
    lead = min(len(old), len(new)) - 1
    cut, joined = list(old[lead:]), list(new[lead:])
    if lead < 1 or len(cut) == len(joined) or not all(isinstance(n, int) and n > 0 for n in (*cut, *joined)):
        return list(new)
    kept = all(n in (-1, 0) or n == m for n, m in zip(new[:lead], old[:lead], strict=True))
    if not kept or prod(cut) != prod(joined):
        return list(new)
    joined[max(len(joined) - 2, 0)] = -1
    return [0] * lead + joined
