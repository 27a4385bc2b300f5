"""A loaded file: its index is checked, its numbers are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from featherweight.activations import Quantizer
from featherweight.artifact.check import Check
from featherweight.artifact.container import decompress, error_context
from featherweight.artifact.contents import Array, Raw, StoredGraph
from featherweight.artifact.header import (
    MOST_GRAPH,
    EncodedEntry,
    GraphEntry,
    RawEntry,
    from_json,
)
from featherweight.errors import ConfigError
from featherweight.formats import Encoded, View
from featherweight.structure import LayerSpec

if TYPE_CHECKING:
    from torch import nn

    from featherweight.artifact.index import Index
    from featherweight.runtime import Session


@dataclass(frozen=True, eq=False)
class LazyRaw:
    """A raw tensor still in the bytes of its file."""

    entry: RawEntry
    check: Check
    data: memoryview

    def open(self) -> Raw:
        """Return the tensor.

        Raises:
            IntegrityError: it is not the one that was written.
        """
        with error_context(self.entry.name):
            raw = Raw(self.entry.dtype, self.entry.shape, bytes(self.data))
            self.check.verify(raw)
        return raw

    def decode(self) -> Array:
        """Return the tensor as an array of its own type; raises as `open` does."""
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
        """Return the tensor, its symbols decoded; its values are computed only where its bytes have no check.

        Raises:
            IntegrityError: its bytes are not those that were written, or do not decode.
        """
        return self._symbols() if self.check.payload is not None else self.both()[0]

    def decode(self) -> Array:
        """Return the values, float32, which are those that were written; raises as `open` does."""
        return self.both()[1]

    def both(self) -> tuple[Encoded, Array]:
        """Return the tensor and its values; raises as `open` does."""
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


@dataclass(frozen=True, eq=False)
class LazyGraph:
    """The stored graph, still compressed."""

    entry: GraphEntry
    frame: memoryview

    def open(self) -> StoredGraph:
        """Return the graph.

        Raises:
            IntegrityError: it does not decompress within its bound.
        """
        onnx = decompress(self.frame, "graph", MOST_GRAPH)
        return StoredGraph(onnx, self.entry.initialisers, from_json(self.entry.outputs, "graph outputs"))


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
        activations: quantizers by edge of the network, which is a value of the graph.
        facts: task, recipe, metrics, versions, seed, notes.
    """

    nbytes: int
    sha256: str
    lazy: Mapping[str, Lazy]
    aliases: Mapping[str, str]
    structure: Mapping[str, LayerSpec]
    lazy_graph: LazyGraph | None
    activations: Mapping[str, Quantizer]
    facts: Mapping[str, Any]

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
        """The float graph without its weights, if the file has one."""
        return self.lazy_graph.open() if self.lazy_graph else None

    def encoded(self, name: str) -> Encoded:
        """Return an encoded tensor, by its canonical name.

        Raises:
            ConfigError: there is no such tensor, or it is raw.
            IntegrityError: it does not decode to what was written.
        """
        lazy = self.lazy.get(name)
        if not isinstance(lazy, LazyEncoded):
            encoded = [known for known, tensor in self.lazy.items() if isinstance(tensor, LazyEncoded)]
            raise ConfigError(
                "not an encoded tensor of the file", got=name, expected=f"one of {', '.join(encoded)}"
            )
        return lazy.open()

    def weight(self, name: str) -> Array:
        """Return one tensor decoded: float32 if encoded, of its own type if raw.

        Raises:
            IntegrityError: it does not decode to what was written.
        """
        return self.lazy[name].decode()

    def weights(self) -> dict[str, Array]:
        """Return every tensor decoded, by every name; tied names share one array.

        Raises:
            IntegrityError: a tensor does not decode to what was written.
        """
        return self.opened()[0]

    def opened(self) -> tuple[dict[str, Array], dict[str, Encoded]]:
        """Return every tensor decoded, by every name, and the encoded ones, each read once.

        Raises:
            IntegrityError: a tensor does not decode to what was written.
        """
        values: dict[str, Array] = {}
        encoded: dict[str, Encoded] = {}
        for name, tensor in self.lazy.items():
            if isinstance(tensor, LazyEncoded):
                encoded[name], values[name] = tensor.both()
            else:
                values[name] = tensor.decode()
        return values | {alias: values[name] for alias, name in self.aliases.items()}, encoded

    def into(self, module: nn.Module) -> nn.Module:
        """Return a copy of `module`, in eval mode, with the structure and the tensors of the file.

        Args:
            module: the network of the task that the file was made from; it is left as it is.

        Raises:
            ConfigError: another network: its names, shapes, types or ties are not those of the file.
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
        """Return a row for each tensor, and the bytes of the file by kind."""
        from featherweight.artifact.index import index

        return index(self)
