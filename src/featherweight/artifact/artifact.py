"""A loaded file: its index is checked, its numbers are decoded when they are asked for.

How its bytes are spent, by tensor and by kind; and what changed between two files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from featherweight.activations import Quantizer
from featherweight.artifact.container import decompress, error_context
from featherweight.artifact.contents import Array, Raw, StoredGraph
from featherweight.artifact.header import MOST_GRAPH, Check, EncodedEntry, GraphEntry, RawEntry, from_json
from featherweight.errors import ConfigError
from featherweight.formats import Encoded, View, tag
from featherweight.structure import LayerSpec

if TYPE_CHECKING:
    from torch import nn

    from featherweight.runtime import Session


@dataclass(frozen=True, eq=False)
class LazyRaw:
    """A raw tensor still in the bytes of its file."""

    entry: RawEntry
    check: Check
    data: memoryview

    def open(self) -> Raw:
        """Return the tensor."""
        with error_context(self.entry.name):
            raw = Raw(self.entry.dtype, self.entry.shape, bytes(self.data))
            self.check.verify(raw)
        return raw

    def decode(self) -> Array:
        """Return the tensor as an array of its own type."""
        return self.open().numpy()


@dataclass(frozen=True, eq=False)
class LazyEncoded:
    """An encoded tensor whose symbols are still in the bytes of their file."""

    entry: EncodedEntry
    check: Check
    view: View
    payload: memoryview
    parts: Mapping[str, Array]

    def open(self) -> Encoded:
        """Return the tensor, its symbols decoded; its values are computed only where its bytes have no check."""
        return self._symbols() if self.check.payload is not None else self.both()[0]

    def decode(self) -> Array:
        """Return the values, float32."""
        return self.both()[1]

    def both(self) -> tuple[Encoded, Array]:
        """Return the tensor and its values."""
        encoded = self._symbols()
        with error_context(self.entry.name):
            values = encoded.decode()
            self.check.verify(values)
        return encoded, values

    def _symbols(self) -> Encoded:
        with error_context(self.entry.name):
            layout = self.entry.format.parts(self.view)
            parts = [self.parts[name].tobytes() for name in layout]
            self.check.verify_payload(self.entry, [self.payload, *parts])
            spec = self.entry.format.stream(self.view, self.parts)
            symbols = self.entry.coder.decode(bytes(self.payload), spec)
            return Encoded(self.entry.format, self.entry.coder, self.view, symbols, self.parts)


Lazy = LazyEncoded | LazyRaw


@dataclass(frozen=True, eq=False)
class Tensors(Mapping[str, Encoded | Raw]):
    """Tensors by canonical name, opened at each access."""

    lazy: Mapping[str, Lazy]

    def __getitem__(self, name: str) -> Encoded | Raw:
        return self.lazy[name].open()

    def __iter__(self) -> Iterator[str]:
        return iter(self.lazy)

    def __len__(self) -> int:
        return len(self.lazy)


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


@dataclass(frozen=True, eq=False)
class Artifact:
    """A file that `load` has checked. Its tensors are decoded only when asked for.

    Every way to a tensor compares its bytes, and its values where they are computed, with the checks in the file:
    it is, bit for bit, what was there when the file was written, or it is refused.

    Attributes:
        nbytes: bytes of the file.
        sha256: hash of its data, which names it.
        lazy: tensors by canonical name, still in the bytes of the file.
        aliases: further names of tied tensors, to their canonical name.
        structure: what differs from the task's own network.
        lazy_graph: the stored graph, if there is one, still compressed.
        activations: quantizers by edge of the network, which is a value of the graph.
        facts: task, recipe, metrics, versions, seed, notes.
    """

    nbytes: int
    sha256: str
    lazy: Mapping[str, Lazy]
    aliases: Mapping[str, str]
    structure: Mapping[str, LayerSpec]
    lazy_graph: tuple[GraphEntry, memoryview] | None
    activations: Mapping[str, Quantizer]
    facts: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Artifact({len(self.lazy)} tensors, {self.nbytes:,} bytes, sha256 {self.sha256[:12]})"

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the tensors, in the module's order."""
        return tuple(self.lazy)

    @property
    def tensors(self) -> Mapping[str, Encoded | Raw]:
        """Tensors by canonical name."""
        return Tensors(self.lazy)

    @property
    def graph(self) -> StoredGraph | None:
        """The float graph without its weights, if the file has one; `IntegrityError` if it exceeds its bound."""
        if self.lazy_graph is None:
            return None
        entry, frame = self.lazy_graph
        onnx = decompress(frame, "graph", MOST_GRAPH)
        return StoredGraph(onnx, entry.initialisers, from_json(entry.outputs, "graph outputs"))

    def encoded(self, name: str) -> Encoded:
        """Return an encoded tensor, by its canonical name.

        Raises:
            ConfigError: there is no such tensor, or it is raw.
            IntegrityError: it does not decode to what was written.
        """
        lazy = self.lazy.get(name)
        if not isinstance(lazy, LazyEncoded):
            encoded = [known for known, tensor in self.lazy.items() if isinstance(tensor, LazyEncoded)]
            expected = f"one of {', '.join(encoded)}"
            raise ConfigError("not an encoded tensor of the file", got=name, expected=expected)
        return lazy.open()

    def weight(self, name: str) -> Array:
        """Return one tensor decoded: float32 if encoded, of its own type if raw; `IntegrityError` if damaged."""
        return self.lazy[name].decode()

    def weights(self) -> dict[str, Array]:
        """Return every tensor decoded, by every name; tied names share one array. A damaged one: `IntegrityError`."""
        return self.opened()[0]

    def opened(self) -> tuple[dict[str, Array], dict[str, Encoded]]:
        """Return every tensor decoded, by every name, and the encoded ones, each read once; see `weights`."""
        values: dict[str, Array] = {}
        encoded: dict[str, Encoded] = {}
        for name, tensor in self.lazy.items():
            if isinstance(tensor, LazyEncoded):
                encoded[name], values[name] = tensor.both()
            else:
                values[name] = tensor.decode()
        return values | {alias: values[name] for alias, name in self.aliases.items()}, encoded

    def into(self, module: nn.Module) -> nn.Module:
        """Return a copy of `module`, the network of the file's task, in eval mode, with what the file holds.

        Raises:
            ConfigError: another network: its names, shapes, types or ties are not those of the file.
            UnsupportedError: `module` cannot be copied.
            IntegrityError: a tensor does not decode, or a layer cannot be built.
        """
        from featherweight.artifact.module import fill

        return fill(self, module)

    def session(self, *, runtime: str = "onnxruntime", threads: int = 1, integers: bool = True) -> Session:
        """Return a session that runs the file; arguments and errors are those of `featherweight.session`."""
        package = import_module("featherweight")  # its table of names knows what runs files, a floor above
        made: Session = package.session(self, runtime=runtime, threads=threads, integers=integers)
        return made

    def index(self) -> Index:
        """Return a row for each tensor, and the bytes of the file by kind, which add up to its size."""
        encoded = [tensor.entry.lengths for tensor in self.lazy.values() if isinstance(tensor, LazyEncoded)]
        nbytes = {
            "graph": self.lazy_graph[0].length if self.lazy_graph else 0,
            "payload": sum(lengths[0] for lengths in encoded),
            "parts": sum(sum(lengths[1:]) for lengths in encoded),
            "raw": sum(tensor.entry.decoded for tensor in self.lazy.values() if isinstance(tensor, LazyRaw)),
        }
        rows = tuple(_row(name, lazy) for name, lazy in self.lazy.items())
        return Index(rows, {"header": self.nbytes - sum(nbytes.values()), **nbytes})


def _row(name: str, lazy: Lazy) -> Row:
    if isinstance(lazy, LazyRaw):
        format_, options, coder, symbols = "raw", {"dtype": lazy.entry.dtype}, "", 0
    else:
        format_, coder = tag(lazy.entry.format), tag(lazy.entry.coder)
        options = {k: v for k, v in msgspec.to_builtins(lazy.entry.format).items() if k != "format"}
        symbols = lazy.entry.format.stream(lazy.view, lazy.parts).count
    shape, nbytes = lazy.entry.shape, sum(lazy.entry.lengths)
    size = prod(shape)
    zeros = size - int(np.count_nonzero(lazy.decode()))
    bits, sparsity = (8 * nbytes / size, zeros / size) if size else (0.0, 0.0)
    return Row(name, shape, format_, options, coder, symbols, nbytes, bits, sparsity)


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
    """Return what changed from `a` to `b`: tensors in the order of `a`, then the added ones; decodes every tensor."""
    return [change for name in dict.fromkeys([*a.names, *b.names]) if (change := _change(name, a, b))]


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
