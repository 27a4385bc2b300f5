"""Contents to the bytes of a file: the same contents give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from featherweight.activations import Affine, Quantizer
from featherweight.artifact.check import all_names, checksum, payload_checksum
from featherweight.artifact.container import compress, error_context, wrap
from featherweight.artifact.contents import Contents, Raw, StoredGraph
from featherweight.artifact.header import (
    AffineEntry,
    EncodedEntry,
    Entry,
    GraphEntry,
    Header,
    RawEntry,
    Shared,
    SharedOther,
    pack,
    to_json,
)
from featherweight.artifact.reader import loads
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.files import write_whole
from featherweight.formats import Encoded


def write(path: str | Path, contents: Contents) -> int:
    """Write a file, whole or not at all, and return its bytes.

    Raises:
        UnsupportedError: contents that the reader would refuse.
        ConfigError: facts or outputs that are not plain JSON.
    """
    content = dumps(contents)
    write_whole(path, content)
    return len(content)


def dumps(contents: Contents) -> bytes:
    """Return the bytes of a file, read back before they are returned: both sides have one set of rules.

    Raises:
        UnsupportedError: contents that the reader would refuse.
        ConfigError: facts or outputs that are not plain JSON.
    """
    graph, graph_runs = _graph(contents.graph) if contents.graph else (None, [])
    lines = [_tensor(name, tensor) for name, tensor in contents.tensors.items()]
    shared = _shared(contents.activations)
    header = Header(
        tensors=tuple(entry for entry, _ in lines),
        aliases=dict(sorted(contents.aliases.items())),
        structure=dict(sorted(contents.structure.items())),
        graph=graph,
        facts=to_json(dict(contents.facts), "facts", order="sorted"),
        activations=tuple(
            Shared(AffineEntry(*msgspec.structs.astuple(quantizer)), edges)
            for quantizer, edges in shared.items()
            if isinstance(quantizer, Affine)
        ),
        others=tuple(
            SharedOther(quantizer, edges)
            for quantizer, edges in shared.items()
            if not isinstance(quantizer, Affine)
        ),
    )
    runs = [*graph_runs, *(run for _, tensor_runs in lines for run in tensor_runs)]
    try:
        content = wrap(b"".join([pack(header), _checks(contents, lines), *runs]))
        loads(content)
    except IntegrityError as error:
        raise UnsupportedError(
            error.what, where=error.where, got=error.got, expected=error.expected,
            hint="a file with these contents could not be read; see docs/spec/container.md",
        ) from error  # fmt: skip
    return content


def _graph(graph: StoredGraph) -> tuple[GraphEntry, list[bytes]]:
    frame = compress(graph.onnx)
    return GraphEntry(len(frame), tuple(graph.initialisers), to_json(graph.outputs, "graph.outputs")), [frame]


def _shared(activations: Mapping[str, Quantizer]) -> dict[Quantizer, tuple[str, ...]]:
    """Return each quantizer once, with its edges, in the order in which they come."""
    edges: dict[Quantizer, list[str]] = {}
    for edge, quantizer in activations.items():
        edges.setdefault(quantizer, []).append(edge)
    return {quantizer: tuple(sharing) for quantizer, sharing in edges.items()}


def _checks(contents: Contents, lines: list[tuple[Entry, list[bytes]]]) -> bytes:
    """Return the check of every tensor as it decodes here and now, then those of all payloads."""
    names = all_names(contents.tensors, contents.aliases)
    checks = []
    for name, tensor in contents.tensors.items():
        with error_context(name):
            checks.append(checksum(names[name], tensor if isinstance(tensor, Raw) else tensor.decode()))
    for entry, runs in lines:
        if isinstance(entry, EncodedEntry):
            checks.append(payload_checksum(names[entry.name], entry, runs))
    return np.array(checks, "<u4").tobytes()


def _tensor(name: str, tensor: Encoded | Raw) -> tuple[Entry, list[bytes]]:
    if isinstance(tensor, Raw):
        return RawEntry(name, tensor.shape, tensor.dtype), [tensor.data]  # type: ignore[arg-type]
    runs = [tensor.payload, *_parts(name, tensor)]
    view = tensor.view
    moved = view.permutation != tuple(range(len(view.shape)))
    entry = EncodedEntry(
        name=name, shape=view.shape, format=tensor.format, coder=tensor.coder,
        lengths=tuple(len(run) for run in runs),
        permutation=view.permutation if moved else (), groups=view.groups,
    )  # fmt: skip
    return entry, runs


def _parts(name: str, tensor: Encoded) -> list[bytes]:
    declared = tensor.format.parts(tensor.view)
    if set(declared) != set(tensor.parts):
        raise UnsupportedError(
            "parts of the tensor", where=name, got=sorted(tensor.parts), expected=sorted(declared)
        )
    for part, layout in declared.items():
        if tensor.parts[part].dtype != np.dtype(layout.dtype):
            raise UnsupportedError(
                "type of a part", where=f"{name}: {part}", got=tensor.parts[part].dtype, expected=layout.dtype
            )
    return [np.ascontiguousarray(tensor.parts[part]).tobytes() for part in declared]
