"""Checksums of a tensor: of what it decodes to, and of its bytes in the file."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from featherweight.artifact.contents import Array, Raw
from featherweight.artifact.header import MOST_NAME, EncodedEntry
from featherweight.errors import IntegrityError


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
        """Compare the bytes of an encoded tensor with those that were written, where the file says.

        Raises:
            IntegrityError: they are not the same.
        """
        if self.payload is not None:
            self._compare(payload_checksum(self.names, entry, runs), self.payload)

    def verify(self, tensor: Raw | Array) -> None:
        """Compare a tensor, decoded on this machine, with the one that was written.

        Raises:
            IntegrityError: they are not the same tensor, bit for bit.
        """
        self._compare(checksum(self.names, tensor), self.value)

    @staticmethod
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
    """Return the CRC-32 of msgpack `[names, index line]`, the payload and the parts.

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
    """Return every name that a tensor goes by, for each canonical one.

    >>> all_names(["a", "b"], {"y": "a", "x": "a"})
    {'a': ('a', 'x', 'y'), 'b': ('b',)}

    Raises:
        IntegrityError: an alias of no tensor.
    """
    found = {name: [name] for name in names}
    for alias, name in sorted(aliases.items()):
        if name not in found:
            raise IntegrityError("alias of no tensor", where=alias, got=ascii(name[:MOST_NAME]))
        found[name].append(alias)
    return {name: tuple(known) for name, known in found.items()}
