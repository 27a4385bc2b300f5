"""The compressed header: the layout of a file as typed values, and the bounds on sizes."""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any, Literal

import msgspec

from featherweight.activations import Affine, AnyQuantizer, Quantizer
from featherweight.artifact.container import compress, decompress, error_context
from featherweight.artifact.contents import Initialiser, itemsize
from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats import AnyCoder, AnyFormat
from featherweight.structure import LayerSpec

MOST_HEADER = 1 << 20  # bytes, decompressed
MOST_GRAPH = 1 << 24  # bytes, decompressed
MOST_ELEMENTS = 1 << 40  # of a tensor
MOST_AXES = 32  # of a tensor
MOST_NAME = 512  # characters
MOST_NESTING = 32  # of facts and outputs

Size = Annotated[int, msgspec.Meta(ge=0, lt=MOST_ELEMENTS)]
Dtype = Literal["bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"]
_NEWER = "it may need a newer featherweight, or a plug-in that is not installed here"


class EncodedEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=0):
    """Index line of an encoded tensor; `lengths` are the bytes of its payload and of each part."""

    name: str
    shape: tuple[Size, ...]
    format: AnyFormat
    coder: AnyCoder
    lengths: tuple[Size, ...]
    permutation: tuple[Size, ...] = ()
    groups: Annotated[int, msgspec.Meta(ge=1)] = 1

    @property
    def decoded(self) -> int:
        """Bytes of the tensor once decoded, float32."""
        return 4 * math.prod(self.shape)


class RawEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Index line of a raw tensor; its length follows from type and shape."""

    name: str
    shape: tuple[Size, ...]
    dtype: Dtype

    @property
    def decoded(self) -> int:
        """Bytes of the tensor, in the file and out of it."""
        return itemsize(self.dtype) * math.prod(self.shape)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of its one run in the file."""
        return (self.decoded,)


Entry = EncodedEntry | RawEntry


class GraphEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The stored graph: compressed length, table of initialisers, outputs as JSON text."""

    length: Size
    initialisers: tuple[Initialiser, ...]
    outputs: str


class AffineEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An affine quantizer, as the first files have them."""

    scale: float
    zero_point: int
    bits: int = 8
    signed: bool = False


class Shared(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An affine quantizer and the edges that share it."""

    entry: AffineEntry
    edges: tuple[str, ...]

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer; its fields are checked when it is made."""
        return Affine(*msgspec.structs.astuple(self.entry))


class SharedOther(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A quantizer of another format and the edges that share it."""

    quantizer: AnyQuantizer
    edges: tuple[str, ...]


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All of a file but its numbers; `facts` is JSON text."""

    tensors: tuple[Entry, ...]
    aliases: dict[str, str]
    structure: dict[str, LayerSpec]
    graph: GraphEntry | None
    facts: str
    activations: tuple[Shared, ...] = ()
    others: tuple[SharedOther, ...] = ()


def pack(header: Header) -> bytes:
    """Return the compressed header with its length before it; it ends before quantizers that it does not have."""
    fields = msgspec.structs.astuple(header)
    used = 7 if header.others else 6 if header.activations else 5
    frame = compress(msgspec.msgpack.encode(fields[:used]))
    return struct.pack("<I", len(frame)) + frame


def unpack(data: memoryview) -> tuple[Header, memoryview]:
    """Return the header and the bytes after it.

    Raises:
        IntegrityError: truncated, too large, or not a header; names the place in it.
    """
    length = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    if not 0 < length <= len(data) - 4:
        raise IntegrityError("header", got=f"{length} bytes of {len(data)}")
    text = decompress(data[4 : 4 + length], "header", MOST_HEADER)
    with error_context("header", hint=_NEWER):
        header = msgspec.msgpack.decode(text, type=Header)
    return header, data[4 + length :]


def to_json(value: Any, where: str, *, order: Literal["sorted"] | None = None) -> str:
    """Return plain data as JSON text, its keys in the order they have or sorted.

    Raises:
        ConfigError: it holds something that JSON cannot, or nests too deeply; names the place.
    """
    check_plain(value, where)
    return msgspec.json.encode(value, order=order).decode()


def from_json(text: str, where: str) -> Any:
    """Undo `to_json`.

    Raises:
        IntegrityError: not JSON, or nested too deeply.
    """
    with error_context(where):
        value = msgspec.json.decode(text)
        check_plain(value, where="")
        return value


def check_plain(value: Any, where: str, nesting: int = 0) -> None:
    """Refuse what JSON cannot hold.

    Raises:
        ConfigError: names the place in `value`.
    """
    if nesting > MOST_NESTING:
        raise ConfigError("nested too deeply", where=where, expected=f"at most {MOST_NESTING} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(item, f"{where}.{key}", nesting + 1)
        plain = all(isinstance(key, str) for key in value)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            check_plain(item, f"{where}[{position}]", nesting + 1)
        plain = True
    elif isinstance(value, int):
        plain = -(2**63) <= value < 2**64
    else:
        plain = value is None or isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))
    if not plain:
        raise ConfigError(
            "not plain JSON", where=where, got=f"{type(value).__name__} {value!r}"[:80],
            expected="dict with text keys, list, text, finite number, true, false or none",
        )  # fmt: skip
