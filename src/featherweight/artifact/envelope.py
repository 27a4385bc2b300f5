"""The outermost layer: a safetensors file of one byte tensor, whose JSON header follows from those bytes."""

from __future__ import annotations

import hashlib
import struct

from featherweight.errors import IntegrityError

VERSION = "1"
_OPENING = b'{"__metadata__":{"format":"featherweight","version":"'


def wrap(data: bytes) -> bytes:
    """Return the file that holds `data`."""
    return _head(len(data), hashlib.sha256(data).hexdigest()) + data


def unwrap(content: bytes) -> tuple[memoryview, str]:
    """Return the data of a file and its SHA-256 in hexadecimal, without copying.

    The head is not parsed: it is written anew from the data and compared, so that no bit of it is free.

    Raises:
        IntegrityError: not one of our files, of another version, damaged or truncated.
    """
    if content[8 : 8 + len(_OPENING)] != _OPENING:
        raise IntegrityError("not a featherweight file")
    version = content[8 + len(_OPENING) : 8 + len(_OPENING) + 16].partition(b'"')[0]
    if version != VERSION.encode():
        raise IntegrityError(
            "container version", got=repr(version.decode(errors="replace")), expected=repr(VERSION),
            hint="a newer featherweight may read it",
        )  # fmt: skip
    start = 8 + struct.unpack_from("<Q", content)[0]
    data = memoryview(content)[start:]
    digest = hashlib.sha256(data).hexdigest()
    if content[:start] != _head(len(data), digest):
        raise IntegrityError(
            "damaged or truncated: its bytes do not have the SHA-256 it carries",
            hint="fetch or write it again",
        )
    return data, digest


def _head(size: int, digest: str) -> bytes:
    text = (
        f'{_OPENING.decode()}{VERSION}","sha256":"{digest}"}},'
        f'"data":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
