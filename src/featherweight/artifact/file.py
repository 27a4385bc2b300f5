"""Contents to the bytes of a file, and the bytes of a file to an `Artifact`: the same contents give the same bytes.

Reading checks hash, names, lengths and bounds; nothing decodes yet. Writing reads back what it wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import numpy as np

from featherweight.activations import Affine, BinaryCoded, FloatingPoint, Quantizer
from featherweight.artifact import header
from featherweight.artifact.artifact import Artifact, Lazy, LazyEncoded, LazyRaw
from featherweight.artifact.container import VERSIONS, compress, error_context, opening, unwrap
from featherweight.artifact.contents import Contents, Raw
from featherweight.artifact.header import MOST_NAME, Check, EncodedEntry, Entry, Header, from_json, to_json
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.files import Pieces, write_whole
from featherweight.formats import Encoded, View
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
    head, body = header.unpack(data)
    lengths = _lengths(head, version)
    if sum(lengths) != len(body):
        raise IntegrityError("bytes after the header", got=len(body), expected=f"{sum(lengths)} by the index")
    runs = [body[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
    return _opened(len(content), digest, head, runs, version)


def _lengths(head: Header, version: str) -> list[int]:
    """Return the bytes of what follows the header, back to back: checks of values and payloads, graph, all runs."""
    checked = [entry for entry in head.tensors if isinstance(entry, EncodedEntry) and version > "1"]
    lengths = [4 * (len(head.tensors) + len(checked))] + ([head.graph.length] if head.graph else [])
    return lengths + [length for entry in head.tensors for length in entry.lengths]


def _opened(
    nbytes: int, digest: str, head: Header, parts: Sequence[bytes | memoryview], version: str
) -> Artifact:
    """Return the file that has this header, and these runs of bytes after it; refuse what breaks a rule."""
    names = [entry.name for entry in head.tensors]
    _check_names([*names, *head.aliases])
    _check_sizes(head.tensors)
    checked = [entry.name for entry in head.tensors if isinstance(entry, EncodedEntry) and version > "1"]
    runs = (memoryview(part) for part in parts)
    numbers = np.frombuffer(next(runs), "<u4").tolist()
    values, payloads = numbers[: len(names)], dict(zip(checked, numbers[len(names) :], strict=True))
    known = header.all_names(names, head.aliases)
    graph = (head.graph, next(runs)) if head.graph else None
    tensors: dict[str, Lazy] = {}
    for entry, value in zip(head.tensors, values, strict=True):
        with error_context(entry.name):
            check = Check(known[entry.name], value, payloads.get(entry.name))
            tensors[entry.name] = _lazy(entry, check, [next(runs) for _ in entry.lengths])
    _check_structure(head.structure)
    activations = _activations(head)
    if head.graph:
        _check_graph(head.graph, {entry.name: entry.shape for entry in head.tensors})
    facts = from_json(head.facts, "facts")
    if not isinstance(facts, dict):
        raise IntegrityError("not a mapping", where="facts", got=type(facts).__name__)
    aliases, structure = head.aliases, head.structure
    return Artifact(nbytes, digest, tensors, aliases, structure, graph, activations, facts)


def _activations(head: Header) -> dict[str, Quantizer]:
    """Return the quantizers by edge; their fields are checked when they are made."""
    with error_context("activations"):
        affine = [(Affine(*msgspec.structs.astuple(entry)), edges) for entry, edges in head.activations]
        shared: list[tuple[Quantizer, tuple[str, ...]]] = [*affine, *head.others]
        _check_names(edge for _, edges in shared for edge in edges)
        return {edge: quantizer for quantizer, edges in shared for edge in edges}


def _lazy(entry: Entry, check: Check, runs: list[memoryview]) -> Lazy:
    if not isinstance(entry, EncodedEntry):
        if entry.dtype == "bool" and runs[0].nbytes and int(np.frombuffer(runs[0], np.uint8).max()) > 1:
            raise IntegrityError("a truth value that is neither 0 nor 1")
        return LazyRaw(entry, check, runs[0])
    view = View(entry.shape, entry.permutation, entry.groups)
    layout = entry.format.parts(view)
    if len(runs) != 1 + len(layout):
        raise IntegrityError("payload and parts", got=f"{len(runs)} lengths", expected=f"{1 + len(layout)}")
    declared = zip(layout.items(), runs[1:], strict=True)
    parts = {name: part.read(name, bytes(run)) for (name, part), run in declared}
    return LazyEncoded(entry, check, view, runs[0], parts)


def _check_sizes(entries: Iterable[Entry]) -> None:
    beyond = 0
    for entry in entries:
        with error_context(entry.name):
            elements = math.prod(max(n, 1) for n in entry.shape)
            if len(entry.shape) > header.MOST_AXES or elements >= header.MOST_ELEMENTS:
                expected = f"{header.MOST_AXES} axes, 2**40 elements at most"
                raise IntegrityError("shape", got=entry.shape, expected=expected)
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
            expected = f"1 to {MOST_NAME} printable characters"
            raise IntegrityError("name", got=ascii(name[:40]), expected=expected)
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
                got = ascii(argument[:MOST_NAME])
                raise IntegrityError("not an argument a file may give", where=path, got=got)


def _check_graph(graph: header.GraphEntry, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _check_names(initialiser.name for initialiser in graph.initialisers)
    for initialiser in graph.initialisers:
        with error_context(f"initialiser {initialiser.name}"):
            if initialiser.tensor not in shapes:
                raise IntegrityError("no such tensor", got=ascii(initialiser.tensor[:MOST_NAME]))
            shape, (order, new) = shapes[initialiser.tensor], (initialiser.permutation, initialiser.shape)
            if order and sorted(order) != list(range(len(shape))):
                raise IntegrityError("not an order of the axes", got=order, expected=f"of {len(shape)}")
            if new and (min(new) < 0 or math.prod(new) != math.prod(shape)):
                raise IntegrityError("shape", got=new, expected=f"{math.prod(shape)} elements")
    from_json(graph.outputs, "graph outputs")


def write(path: str | Path, contents: Contents) -> int:
    """Write a file, whole or not at all, and return its bytes; raises as `dumps` does."""
    content = pieces(contents)
    write_whole(path, content)
    return sum(map(len, content))


def dumps(contents: Contents) -> bytes:
    """Return the bytes of a file; raises as `pieces` does."""
    return b"".join(pieces(contents))


def pieces(contents: Contents) -> Pieces:
    """Return the bytes of a file, one piece behind the other; raw tensors are not copied.

    They have passed the rules by which the file will be read: both sides have one set.

    Raises:
        UnsupportedError: contents that the reader would refuse.
        ConfigError: facts or outputs that are not plain JSON.
    """
    graph, frame = None, b""
    if contents.graph:
        frame, outputs = compress(contents.graph.onnx), to_json(contents.graph.outputs, "graph.outputs")
        graph = header.GraphEntry(len(frame), tuple(contents.graph.initialisers), outputs)
    lines = [_tensor(name, tensor) for name, tensor in contents.tensors.items()]
    edges: dict[Quantizer, list[str]] = {}  # each quantizer once, in the order in which they come
    for edge, quantizer in contents.activations.items():
        edges.setdefault(quantizer, []).append(edge)
    affine, others = [], []
    for quantizer, sharing in edges.items():
        if isinstance(quantizer, Affine):
            affine.append((header.AffineEntry(*msgspec.structs.astuple(quantizer)), tuple(sharing)))
        elif isinstance(quantizer, FloatingPoint | BinaryCoded):
            others.append((quantizer, tuple(sharing)))
    head = Header(
        tuple(entry for entry, _ in lines), dict(sorted(contents.aliases.items())),
        dict(sorted(contents.structure.items())), graph, to_json(dict(contents.facts), "facts", order="sorted"),
        tuple(affine), tuple(others),
    )  # fmt: skip
    runs = [run for _, tensor_runs in lines for run in tensor_runs]
    try:
        after = [_checks(contents, lines), *([frame] if graph else []), *runs]
        packed = header.pack(head)
        first, digest = opening([packed, *after])
        again, _ = header.unpack(memoryview(packed))
        _opened(len(first) + len(packed) + sum(map(len, after)), digest, again, after, VERSIONS[-1])
    except IntegrityError as error:
        raise UnsupportedError(
            error.what, where=error.where, got=error.got, expected=error.expected,
            hint="a file with these contents could not be read; see docs/spec/container.md",
        ) from error  # fmt: skip
    return [first, packed, *after]


def _checks(contents: Contents, lines: list[tuple[Entry, list[bytes | memoryview]]]) -> bytes:
    """Return the check of every tensor as it decodes here and now, then those of all payloads."""
    names = header.all_names(contents.tensors, contents.aliases)
    checks = []
    for name, tensor in contents.tensors.items():
        with error_context(name):
            values = tensor if isinstance(tensor, Raw) else tensor.decode()
            checks.append(header.checksum(names[name], values))
    for entry, runs in lines:
        if isinstance(entry, EncodedEntry):
            checks.append(header.payload_checksum(names[entry.name], entry, runs))
    return np.array(checks, "<u4").tobytes()


def _tensor(name: str, tensor: Encoded | Raw) -> tuple[Entry, list[bytes | memoryview]]:
    if isinstance(tensor, Raw):
        return header.RawEntry(name, tensor.shape, tensor.dtype), [tensor.data]  # type: ignore[arg-type]
    view, declared = tensor.view, tensor.format.parts(tensor.view)
    runs: list[bytes | memoryview] = [tensor.payload]
    if set(declared) != set(tensor.parts):
        got, expected = sorted(tensor.parts), sorted(declared)
        raise UnsupportedError("parts of the tensor", where=name, got=got, expected=expected)
    for part, layout in declared.items():
        array, where = tensor.parts[part], f"{name}: {part}"
        if array.dtype != np.dtype(layout.dtype):
            raise UnsupportedError("type of a part", where=where, got=array.dtype, expected=layout.dtype)
        runs.append(np.ascontiguousarray(array).tobytes())
    moved = view.permutation != tuple(range(len(view.shape)))
    lengths, order = tuple(len(run) for run in runs), view.permutation if moved else ()
    return EncodedEntry(name, view.shape, tensor.format, tensor.coder, lengths, order, view.groups), runs
