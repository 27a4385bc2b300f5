"""The bytes of a file to an `Artifact`: hash, names, lengths and bounds are checked; nothing decodes yet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from featherweight.activations import Quantizer
from featherweight.artifact.artifact import Artifact, Lazy, LazyEncoded, LazyGraph, LazyRaw
from featherweight.artifact.check import Check, all_names
from featherweight.artifact.container import error_context, unwrap
from featherweight.artifact.contents import Initialiser
from featherweight.artifact.header import (
    MOST_AXES,
    MOST_ELEMENTS,
    MOST_NAME,
    EncodedEntry,
    Entry,
    GraphEntry,
    Header,
    Shared,
    SharedOther,
    from_json,
    unpack,
)
from featherweight.errors import IntegrityError
from featherweight.formats import View
from featherweight.structure import STOCK, LayerSpec

MOST_RATIO = 1000  # decoded bytes of a tensor to its bytes in the file, but for ...
MOST_BEYOND = 1 << 29  # ... so many bytes beyond it that all tensors together may decode to: nearly all zeros


def load(path: str | Path) -> Artifact:
    """Read a file.

    Raises:
        IntegrityError: damaged, truncated or hostile; names the file.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    with error_context(str(path)):
        return loads(content)


def loads(content: bytes) -> Artifact:
    """Read a file from its bytes. Nothing is decoded yet; what decodes later stays within the checked bounds.

    Raises:
        IntegrityError: damaged, truncated or hostile; one line says what and where.
    """
    data, digest, version = unwrap(content)
    header, body = unpack(data)
    names = [entry.name for entry in header.tensors]
    _check_names([*names, *header.aliases])
    _check_sizes(header.tensors)
    encoded = [entry.name for entry in header.tensors if isinstance(entry, EncodedEntry)]
    checked = encoded if version > "1" else []
    runs = _cut(body, header, 4 * (len(names) + len(checked)))
    checks = _checks(next(runs), all_names(names, header.aliases), checked)
    graph = LazyGraph(header.graph, next(runs)) if header.graph else None
    tensors: dict[str, Lazy] = {}
    for entry, check in zip(header.tensors, checks, strict=True):
        with error_context(entry.name):
            tensors[entry.name] = _lazy(entry, check, [next(runs) for _ in entry.lengths])
    _check_structure(header.structure)
    activations = _activations(header)
    if header.graph:
        _check_graph(header.graph, {entry.name: entry.shape for entry in header.tensors})
    facts = from_json(header.facts, "facts")
    if not isinstance(facts, dict):
        raise IntegrityError("not a mapping", where="facts", got=type(facts).__name__)
    return Artifact(
        len(content), digest, tensors, header.aliases, header.structure, graph, activations, facts
    )


def _activations(header: Header) -> dict[str, Quantizer]:
    """Return the quantizers by edge."""
    with error_context("activations"):
        shared: list[Shared | SharedOther] = [*header.activations, *header.others]
        _check_names(edge for entry in shared for edge in entry.edges)
        return {edge: entry.quantizer for entry in shared for edge in entry.edges}


def _cut(body: memoryview, header: Header, checks: int) -> Iterator[memoryview]:
    """Cut everything after the header into its runs, back to back; the first holds the checks."""
    lengths = [checks] + ([header.graph.length] if header.graph else [])
    lengths += [length for entry in header.tensors for length in entry.lengths]
    if sum(lengths) != len(body):
        raise IntegrityError("bytes after the header", got=len(body), expected=f"{sum(lengths)} by the index")
    ends = accumulate(lengths, initial=0)
    return (body[start:end] for start, end in pairwise(ends))


def _checks(run: memoryview, names: Mapping[str, tuple[str, ...]], encoded: list[str]) -> list[Check]:
    """Return the check of each tensor: first those of the values, then those of the payloads."""
    numbers = np.frombuffer(run, "<u4").tolist()
    payloads = dict(zip(encoded, numbers[len(names) :], strict=True))
    values = numbers[: len(names)]
    return [
        Check(known, value, payloads.get(name))
        for (name, known), value in zip(names.items(), values, strict=True)
    ]


def _lazy(entry: Entry, check: Check, runs: list[memoryview]) -> Lazy:
    if not isinstance(entry, EncodedEntry):
        if entry.dtype == "bool" and runs[0].nbytes and int(np.frombuffer(runs[0], np.uint8).max()) > 1:
            raise IntegrityError("a truth value that is neither 0 nor 1")
        return LazyRaw(entry, check, runs[0])
    view = View(entry.shape, entry.permutation, entry.groups)
    layout = entry.format.parts(view)
    if len(runs) != 1 + len(layout):
        raise IntegrityError("payload and parts", got=f"{len(runs)} lengths", expected=f"{1 + len(layout)}")
    parts = {
        name: part.read(name, bytes(run)) for (name, part), run in zip(layout.items(), runs[1:], strict=True)
    }
    return LazyEncoded(entry, check, view, runs[0], parts)


def _check_sizes(entries: Iterable[Entry]) -> None:
    beyond = 0
    for entry in entries:
        with error_context(entry.name):
            if len(entry.shape) > MOST_AXES or math.prod(max(n, 1) for n in entry.shape) >= MOST_ELEMENTS:
                raise IntegrityError(
                    "shape", got=entry.shape, expected=f"{MOST_AXES} axes, 2**40 elements at most"
                )
            beyond += max(entry.decoded - MOST_RATIO * sum(entry.lengths), 0)
            if beyond > MOST_BEYOND:
                raise IntegrityError(
                    "too large for its bytes", got=f"{entry.decoded} decoded of {sum(entry.lengths)}",
                    expected=f"at most {MOST_RATIO} times as many, and {MOST_BEYOND} for all tensors",
                )  # fmt: skip


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not (0 < len(name) <= MOST_NAME and name.isprintable()):
            raise IntegrityError(
                "name", got=ascii(name[:40]), expected=f"1 to {MOST_NAME} printable characters"
            )
        if name in seen:
            raise IntegrityError("appears twice", where=name)
        seen.add(name)


def _check_structure(structure: Mapping[str, LayerSpec]) -> None:
    _check_names(structure)
    for path, layer in structure.items():
        if layer.kind not in STOCK:
            raise IntegrityError("not a stock layer", where=path, got=ascii(layer.kind[:MOST_NAME]))
        for argument in layer.arguments:
            if not argument.isidentifier() or argument.startswith("_") or argument in ("device", "dtype"):
                raise IntegrityError(
                    "not an argument a file may give", where=path, got=ascii(argument[:MOST_NAME])
                )


def _check_graph(graph: GraphEntry, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _check_names(initialiser.name for initialiser in graph.initialisers)
    for initialiser in graph.initialisers:
        with error_context(f"initialiser {initialiser.name}"):
            _check_initialiser(initialiser, shapes)
    from_json(graph.outputs, "graph outputs")


def _check_initialiser(initialiser: Initialiser, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if initialiser.tensor not in shapes:
        raise IntegrityError("no such tensor", got=ascii(initialiser.tensor[:MOST_NAME]))
    shape = shapes[initialiser.tensor]
    if initialiser.permutation and sorted(initialiser.permutation) != list(range(len(shape))):
        raise IntegrityError(
            "not an order of the axes", got=initialiser.permutation, expected=f"of {len(shape)}"
        )
    fits = min(initialiser.shape, default=0) >= 0 and math.prod(initialiser.shape) == math.prod(shape)
    if initialiser.shape and not fits:
        raise IntegrityError("shape", got=initialiser.shape, expected=f"{math.prod(shape)} elements")
