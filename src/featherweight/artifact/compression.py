"""Compression of header and graph: bounded zstd with a dictionary of the words that every file repeats."""

from __future__ import annotations

import msgspec
import zstandard

from featherweight.artifact.error_context import error_context
from featherweight.errors import IntegrityError

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


def compress(content: bytes) -> bytes:
    """Return a zstd frame with the decompressed size, without checksum or dictionary number."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(content), write_content_size=True, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(dict_data=_words(), compression_params=parameters).compress(content)


def decompress(frame: memoryview, where: str, most: int) -> bytes:
    """Undo `compress`; the size is checked before anything is allocated.

    Raises:
        IntegrityError: larger than `most` bytes, or not exactly one such frame.
    """
    with error_context(where):
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= most:
            raise IntegrityError("decompressed size", got=size, expected=f"0 to {most} bytes")
        return zstandard.ZstdDecompressor(dict_data=_words()).decompress(frame, allow_extra_data=False)


def _words() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
