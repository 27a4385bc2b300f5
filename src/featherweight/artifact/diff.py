"""What changed between two files, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from featherweight.artifact.artifact import Artifact, Lazy, LazyRaw
from featherweight.artifact.contents import Array


@dataclass(frozen=True)
class Side:
    """How one file keeps a tensor: `format` and `coder` as JSON (a raw tensor: its type, and nothing)."""

    format: str
    coder: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Change:
    """A tensor that two files keep differently.

    Attributes:
        name: canonical name.
        kind: `added` (only in the second file), `removed` (only in the first) or `changed`.
        before: how the first file keeps it.
        after: how the second file keeps it.
        difference: greatest absolute difference of the decoded values; None if the shapes differ.
    """

    name: str
    kind: Literal["added", "removed", "changed"]
    before: Side | None
    after: Side | None
    difference: float | None


def diff(a: Artifact, b: Artifact) -> list[Change]:
    """Return what changed from `a` to `b`: tensors in the order of `a`, then the added ones.

    Raises:
        IntegrityError: a tensor does not decode.
    """
    changes = [_change(name, a, b) for name in [*a.names, *(name for name in b.names if name not in a.lazy)]]
    return [change for change in changes if change is not None]


def _change(name: str, a: Artifact, b: Artifact) -> Change | None:
    before = _side(a.lazy[name]) if name in a.lazy else None
    after = _side(b.lazy[name]) if name in b.lazy else None
    if before is None or after is None:
        return Change(name, "added" if before is None else "removed", before, after, None)
    same = before.shape == after.shape
    difference = _greatest_difference(a.weight(name), b.weight(name)) if same else None
    return Change(name, "changed", before, after, difference) if (before != after or difference) else None


def _side(lazy: Lazy) -> Side:
    entry = lazy.entry
    if isinstance(lazy, LazyRaw):
        return Side(lazy.entry.dtype, "", entry.shape, sum(entry.lengths))
    form, coder = msgspec.json.encode(lazy.entry.format), msgspec.json.encode(lazy.entry.coder)
    return Side(form.decode(), coder.decode(), entry.shape, sum(entry.lengths))


def _greatest_difference(x: Array, y: Array) -> float:
    """Return the greatest `|x - y|`; equal infinities, and NaN on both sides, count as equal."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))
