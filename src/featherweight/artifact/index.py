"""How the bytes of a file are spent: a row for each tensor, and sums by kind that add up to its size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from featherweight.artifact.artifact import Artifact, LazyEncoded, LazyRaw
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
