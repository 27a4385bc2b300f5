"""Findings; and why a file is not smaller: where its bytes went that need not be there, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from featherweight.artifact import Artifact, Index
from featherweight.formats.coders import Fixed, Rans
from featherweight.units import nbytes, percent, some


class Finding(msgspec.Struct, frozen=True):
    """One reason why a file is larger or slower than it could be.

    Attributes:
        kind: short name of the reason.
        about: what it costs: `size`, `speed`, or `measurement` (a comparison that misleads).
        where: layers or tensors.
        what: what is the case.
        hint: what to do.
    """

    kind: str
    about: Literal["size", "speed", "measurement"]
    where: list[str]
    what: str
    hint: str

    @property
    def places(self) -> str:
        """The first few of `where`."""
        return some(self.where, 4)


# A finding is listed if it concerns this share of the file.
WORTH = 0.02


def size_findings(artifact: Artifact) -> list[Finding]:
    """Return why a file is not smaller.

    Raises:
        IntegrityError: a tensor does not decode.
    """
    index = artifact.index()
    return [*_raw(artifact, index), *_fixed_rate(artifact, index), *_overhead(artifact, index)]


def _raw(artifact: Artifact, index: Index) -> Iterator[Finding]:
    """Tensors that no step encoded."""
    raw = sorted((row for row in index.rows if row.format == "raw"), key=lambda row: -row.nbytes)
    share = sum(row.nbytes for row in raw) / artifact.nbytes
    if share >= WORTH:
        yield Finding(
            "raw", "size", [row.name for row in raw],
            f"{len(raw)} tensors are as they were: {percent(share)} of the file",
            "encode them: weights as int, what is left as float16 (where = ['*', '!weights'])",
        )  # fmt: skip


def _fixed_rate(artifact: Artifact, index: Index) -> Iterator[Finding]:
    """Tensors at fixed rate whose symbols an entropy coder would write in fewer bytes."""
    where, saved = [], 0
    for row in (row for row in index.rows if row.coder):
        encoded = artifact.encoded(row.name)
        if isinstance(encoded.coder, Fixed):
            fewer = encoded.nbytes - encoded.recoded(Rans()).nbytes
            if fewer > WORTH * row.nbytes:
                where.append(row.name)
                saved += fewer
    if saved >= WORTH * artifact.nbytes:
        yield Finding(
            "fixed rate", "size", where,
            f"their symbols are far from uniform: rans takes {nbytes(saved)} less, "
            f"{percent(saved / artifact.nbytes)} of the file",
            "name a coder: rans (fast) or cabac (smallest)",
        )  # fmt: skip


def _overhead(artifact: Artifact, index: Index) -> Iterator[Finding]:
    """Header, graph, scales and codebooks beside the numbers themselves."""
    norms = any(name.endswith(".running_mean") for name in artifact.names)
    for kind, (hint, folded) in _OVERHEAD.items():
        share = index.nbytes[kind] / artifact.nbytes
        if share >= 10 * WORTH:
            yield Finding(
                f"overhead: {kind}", "size", [kind],
                f"{nbytes(index.nbytes[kind])} of {kind}: {percent(share)} of the file",
                hint + (f"; fold batch norm to have fewer {folded}" if norms and folded else ""),
            )  # fmt: skip


# What to do about each kind, and of what there is less once batch norm is folded.
_OVERHEAD = {
    "header": ("names, recipe and metrics: little to win", "tensors"),
    "graph": ("the float graph without weights: little to win", "operators"),
    "parts": (
        "scales and codebooks: larger groups, or a scale for a tensor instead of one for a channel",
        "",
    ),
}
