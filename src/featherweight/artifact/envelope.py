"""The outermost layer: a safetensors file of one byte tensor, whose JSON header follows from those bytes."""

from __future__ import annotations

import hashlib
import struct

from featherweight.errors import IntegrityError

VERSIONS = ("1", "2")  # read; the last one is written
_OPENING = b'{"__metadata__":{"format":"featherweight","version":"'


def wrap(data: bytes) -> bytes:
    """Return the file that holds `data`."""
    return _head(VERSIONS[-1], len(data), hashlib.sha256(data).hexdigest()) + data


def unwrap(content: bytes) -> tuple[memoryview, str, str]:
    """Return the data of a file, its SHA-256 in hexadecimal and its version, without copying.

    The head is not parsed: it is computed from the data and compared, so that no bit of it is free.

    Raises:
        IntegrityError: not one of our files, of another version, damaged or truncated.
    """
    if content[8 : 8 + len(_OPENING)] != _OPENING:
        raise IntegrityError("not a featherweight file")
    text = content[8 + len(_OPENING) : 8 + len(_OPENING) + 16].partition(b'"')[0]
    version = text.decode(errors="replace")
    if version not in VERSIONS:
        raise IntegrityError(
            "container version", got=repr(version), expected=" or ".join(map(repr, VERSIONS)),
            hint="a newer featherweight may read it",
        )  # fmt: skip
    start = 8 + struct.unpack_from("<Q", content)[0]
    data = memoryview(content)[start:]
    digest = hashlib.sha256(data).hexdigest()
    if content[:start] != _head(version, len(data), digest):
        raise IntegrityError(
            "damaged or truncated: its bytes do not have the SHA-256 it carries",
            hint="fetch or write it again",
        )
    return data, digest, version


def _head(version: str, size: int, digest: str) -> bytes:
    text = (
        f'{_OPENING.decode()}{version}","sha256":"{digest}"}},'
        f'"data":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
