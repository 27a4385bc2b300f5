"""How the bytes of a file are spent, by tensor and by kind; and what changed between two files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from featherweight.artifact.artifact import Artifact, Lazy, LazyEncoded, LazyRaw
from featherweight.artifact.contents import Array
from featherweight.formats import tag


@dataclass(frozen=True)
class Row:
    """One tensor of a file.

    Attributes:
        name: canonical name.
        shape: shape of the tensor.
        format: tag of its format, or `raw`.
        options: the format's own options; of a raw tensor, its `dtype`.
        coder: tag of its coder; empty if raw.
        symbols: length of its symbol stream; 0 if raw.
        nbytes: its bytes in the file, without its line in the header.
        bits_per_weight: `8 * nbytes` over the number of elements.
        sparsity: fraction of exact zeros after decoding.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    options: Mapping[str, Any]
    coder: str
    symbols: int
    nbytes: int
    bits_per_weight: float
    sparsity: float

    @property
    def label(self) -> str:
        """Format and options on one line, `int 4 channel`; of a raw tensor, and of a float format, its type."""
        options = [str(value) for value in self.options.values() if value != "none"]
        return " ".join([self.format, *options][self.format == "float" :]) if self.coder else options[0]


@dataclass(frozen=True)
class Index:
    """Rows in the module's order, and bytes by kind: `header`, `graph`, `payload`, `parts` and `raw`."""

    rows: tuple[Row, ...]
    nbytes: Mapping[str, int]


def index(artifact: Artifact) -> Index:
    """Return the rows of a file, and its bytes by kind, which add up to its size.

    Raises:
        IntegrityError: a tensor does not decode.
    """
    encoded = [tensor for tensor in artifact.lazy.values() if isinstance(tensor, LazyEncoded)]
    raw = [tensor for tensor in artifact.lazy.values() if isinstance(tensor, LazyRaw)]
    nbytes = {
        "graph": artifact.lazy_graph.entry.length if artifact.lazy_graph else 0,
        "payload": sum(tensor.entry.lengths[0] for tensor in encoded),
        "parts": sum(sum(tensor.entry.lengths[1:]) for tensor in encoded),
        "raw": sum(tensor.entry.decoded for tensor in raw),
    }
    rows = tuple(_row(artifact, name) for name in artifact.names)
    return Index(rows, {"header": artifact.nbytes - sum(nbytes.values()), **nbytes})


def _row(artifact: Artifact, name: str) -> Row:
    lazy = artifact.lazy[name]
    values = artifact.weight(name)
    nbytes = sum(lazy.entry.lengths)
    if isinstance(lazy, LazyRaw):
        format_, options, coder, symbols = "raw", {"dtype": lazy.entry.dtype}, "", 0
    else:
        format_, coder = tag(lazy.entry.format), tag(lazy.entry.coder)
        options = {k: v for k, v in msgspec.to_builtins(lazy.entry.format).items() if k != "format"}
        symbols = lazy.entry.format.stream(lazy.view, lazy.parts).count
    size = math.prod(lazy.entry.shape)
    zeros = size - int(np.count_nonzero(values))
    return Row(
        name, lazy.entry.shape, format_, options, coder, symbols, nbytes,
        bits_per_weight=8 * nbytes / size if size else 0.0, sparsity=zeros / size if size else 0.0,
    )  # fmt: skip


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
