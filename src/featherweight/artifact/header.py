"""The compressed header: the layout of a file as typed values, the bounds on sizes, and the checks of tensors."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from featherweight.activations import AnyQuantizer
from featherweight.artifact.container import compress, decompress, error_context
from featherweight.artifact.contents import Array, Initialiser, Raw, itemsize
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


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All of a file but its numbers; `facts` is JSON text, `activations` and `others` quantizers and their edges."""

    tensors: tuple[Entry, ...]
    aliases: dict[str, str]
    structure: dict[str, LayerSpec]
    graph: GraphEntry | None
    facts: str
    activations: tuple[tuple[AffineEntry, tuple[str, ...]], ...] = ()
    others: tuple[tuple[AnyQuantizer, tuple[str, ...]], ...] = ()


def pack(header: Header) -> bytes:
    """Return the compressed header with its length before it; it ends before quantizers that it does not have."""
    used = 7 if header.others else 6 if header.activations else 5
    frame = compress(msgspec.msgpack.encode(msgspec.structs.astuple(header)[:used]))
    return struct.pack("<I", len(frame)) + frame


def unpack(data: memoryview) -> tuple[Header, memoryview]:
    """Return the header and the bytes after it; the `IntegrityError` of a bad one names the place in it."""
    length = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    if not 0 < length <= len(data) - 4:
        raise IntegrityError("header", got=f"{length} bytes of {len(data)}")
    text = decompress(data[4 : 4 + length], "header", MOST_HEADER)
    with error_context("header", hint=_NEWER):
        header = msgspec.msgpack.decode(text, type=Header)
    return header, data[4 + length :]


def to_json(value: Any, where: str, *, order: Literal["sorted"] | None = None) -> str:
    """Return plain data as JSON text, its keys in the order they have or sorted; raises as `check_plain` does."""
    check_plain(value, where)
    return msgspec.json.encode(value, order=order).decode()


def from_json(text: str, where: str) -> Any:
    """Undo `to_json`; raises `IntegrityError` if it is not JSON, or nested too deeply."""
    with error_context(where):
        value = msgspec.json.decode(text)
        check_plain(value, where="")
        return value


def check_plain(value: Any, where: str, nesting: int = 0) -> None:
    """Refuse what JSON cannot hold, or what nests too deeply; the `ConfigError` names the place in `value`."""
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


@dataclass(frozen=True)
class Check:
    """What the writer measured of a tensor that goes by these names.

    Attributes:
        names: the canonical name, then those of tied tensors, sorted.
        value: `checksum` of the tensor as it was when the file was written.
        payload: `payload_checksum` of an encoded tensor; None if raw, or of a file of version 1.
    """

    names: tuple[str, ...]
    value: int
    payload: int | None = None

    def verify_payload(self, entry: EncodedEntry, runs: Iterable[bytes | memoryview]) -> None:
        """Refuse the bytes of an encoded tensor if they are not those that were written, where the file says."""
        if self.payload is not None:
            _compare(payload_checksum(self.names, entry, runs), self.payload)

    def verify(self, tensor: Raw | Array) -> None:
        """Refuse a tensor, decoded on this machine, if it is not, bit for bit, the one that was written."""
        _compare(checksum(self.names, tensor), self.value)


def _compare(found: int, expected: int) -> None:
    if found != expected:
        raise IntegrityError(
            "not the tensor that was written", got=f"check {found:08x}", expected=f"{expected:08x}",
            hint="the file was forged, or what decodes it here computes other numbers than what wrote it",
        )  # fmt: skip


def checksum(names: tuple[str, ...], tensor: Raw | Array) -> int:
    """Return the CRC-32 of msgpack `[names, type, shape]` and the elements, row-major, little-endian.

    An encoded tensor is given as it decodes: an array of float32.
    """
    raw = isinstance(tensor, Raw)
    head = msgspec.msgpack.encode((names, tensor.dtype if raw else "f32", tensor.shape))
    return zlib.crc32(tensor.data if raw else np.ascontiguousarray(tensor, "<f4").data, zlib.crc32(head))


def payload_checksum(names: tuple[str, ...], entry: EncodedEntry, runs: Iterable[bytes | memoryview]) -> int:
    """Return the CRC-32 of msgpack `[names, index line]`, and of `runs`, the payload and the parts.

    Args:
        names: the canonical name, then those of tied tensors, sorted.
        entry: the index line, written with all fields.
        runs: payload and parts.
    """
    found = zlib.crc32(msgspec.msgpack.encode((names, entry)))
    for run in runs:
        found = zlib.crc32(run, found)
    return found


def all_names(names: Iterable[str], aliases: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return every name that a tensor goes by, for each canonical one; refuse an alias of no tensor.

    >>> all_names(["a", "b"], {"y": "a", "x": "a"})
    {'a': ('a', 'x', 'y'), 'b': ('b',)}
    """
    found = {name: [name] for name in names}
    for alias, name in sorted(aliases.items()):
        if name not in found:
            raise IntegrityError("alias of no tensor", where=alias, got=ascii(name[:MOST_NAME]))
        found[name].append(alias)
    return {name: tuple(known) for name, known in found.items()}
