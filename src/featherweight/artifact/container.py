"""The outermost layers of a file: a safetensors file of one byte tensor, zstd frames in it, errors of reading."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import zstandard

from featherweight.errors import FeatherweightError, IntegrityError, MissingExtraError, UnsupportedError
from featherweight.files import Pieces, sha256_of

VERSIONS = ("1", "2")  # read; the last one is written
_OPENING = b'{"__metadata__":{"format":"featherweight","version":"'
MOST_QUOTED = 300  # characters of what a stranger chose that a message has
_GRAPH_WORDS = """
pytorch main_graph x batch dim_param val_0 sym_size_int_1 Shape start end Squeeze Constant value_ints
BatchNormalization epsilon momentum training_mode Softmax Transpose perm Concat Slice Unsqueeze axes
LayerNormalization GlobalAveragePool AveragePool count_include_pad ReduceMean keepdims Add Mul Sub Div
Sqrt Sigmoid Tanh Clip HardSwish MatMul Gemm beta transA transB alpha Flatten axis Reshape allowzero
MaxPool storage_order ceil_mode ConvTranspose Relu Conv group pads auto_pad NOTSET strides dilations
kernel_shape conv2d max_pool2d relu linear view
"""
_HEADER_WORDS = [
    "num_batches_tracked", "running_mean", "running_var", "layer1", "downsample", "classifier",
    "Linear", "in_features", "out_features", "Conv2d", "in_channels", "out_channels", "kernel_size", "stride",
    "padding", "dilation", "groups", "bias", "BatchNorm2d", "num_features", "kind", "arguments",
    "coder", "cabac", "bitmask", "gaps", "values", "huffman", "level", "zstd", "rans", "fixed",
    "format", "log2", "fraction", "clustered", "init", "linear", "density",
    "float", "kind", "float32", "bfloat16", "float16", "per", "none", "coder", "fixed",
    "format", "int", "bits", 8, "bits", 4, "scheme", "affine", "symmetric", "per", "tensor", "channel",
    "scale_by", "mse", "minmax", "coder", "fixed", "conv1.bias", "fc1.bias", ".bias",
    "conv1.weight", "fc1.weight",
]  # fmt: skip

# Part of the format: to change it is to change the version of the container.
DICTIONARY = " ".join(_GRAPH_WORDS.split()).encode() + msgspec.msgpack.encode(_HEADER_WORDS)


def opening(data: Pieces) -> tuple[bytes, str]:
    """Return what stands before `data` in its file, and the SHA-256 of `data` in hexadecimal."""
    digest = sha256_of(data).hexdigest()
    return _head(VERSIONS[-1], sum(map(len, data)), digest), digest


def wrap(data: bytes) -> bytes:
    """Return the file that holds `data`."""
    return opening([data])[0] + data


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
        what = "damaged or truncated: its bytes do not have the SHA-256 it carries"
        raise IntegrityError(what, hint="fetch or write it again")
    return data, digest, version


def _head(version: str, size: int, digest: str) -> bytes:
    text = (
        f'{_OPENING.decode()}{version}","sha256":"{digest}"}},'
        f'"data":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def compress(content: bytes) -> bytes:
    """Return a zstd frame with the decompressed size, without checksum or dictionary number."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(content), write_content_size=True, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(dict_data=_words(), compression_params=parameters).compress(content)


def decompress(frame: memoryview, where: str, most: int) -> bytes:
    """Undo `compress`; refuse what is not one such frame or larger than `most`, before anything is allocated."""
    with error_context(where):
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= most:
            raise IntegrityError("decompressed size", got=size, expected=f"0 to {most} bytes")
        return zstandard.ZstdDecompressor(dict_data=_words()).decompress(frame, allow_extra_data=False)


def _words() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


@contextmanager
def error_context(where: str, *, hint: str = "") -> Iterator[None]:
    """Turn any exception of the block into an `IntegrityError` at `where`; an inner place is kept beside it.

    Formats, coders (plug-ins too) and layer constructors may raise anything on forged options and bytes, so no
    list of exception types would be complete. What the machine lacks, a library or memory, is not damage.

    Raises:
        IntegrityError: the bytes are damaged or hostile.
        MissingExtraError: a library that reads them is not installed.
        UnsupportedError: they do not fit into memory.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        what = f"{error.name or error} is not installed"
        raise MissingExtraError(what, where=where, hint=f"pip install {error.name}") from error
    except MemoryError as error:
        raise UnsupportedError("not enough memory", where=where, got=str(error) or "MemoryError") from error
    except FeatherweightError as error:
        raise IntegrityError(
            _short(error.what), where=": ".join(part for part in (where, error.where) if part),
            got=_short(error.got), expected=error.expected, hint=error.hint or hint,
        ) from error  # fmt: skip
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise IntegrityError(_short(reason), where=where, hint=hint) from error


def _short(value: Any) -> Any:
    """Return what a message may quote of a value that a stranger chose."""
    text = str(value)
    return value if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]} ..."
