"""Random legal blocks, and what Arm's own codec makes of bytes: the oracle of every test here."""

import struct

import numpy as np
from astc_encoder import ASTCConfig, ASTCContext, ASTCImage, ASTCProfile, ASTCSwizzle, ASTCType

from featherweight.formats.astc.blocks import LUMINANCE, RGBA, Blocks, decode_texels, texel_values
from featherweight.formats.astc.tables import ENDPOINT_RANGES, WEIGHT_RANGES, configurations, size


def oracle(content, footprint, height, width, kind):
    """Return the texels of `content`, `[height, width, 4]`, uint8 or the bits of float16."""
    context = ASTCContext(ASTCConfig(ASTCProfile.LDR, *size(footprint), 1, 60))
    image = ASTCImage(ASTCType.U8 if kind == "unorm8" else ASTCType.F16, width, height)
    made = context.decompress(content.tobytes(), image, ASTCSwizzle.from_str("RGBA")) or image
    return np.frombuffer(made.data, np.uint8 if kind == "unorm8" else np.uint16).reshape(height, width, 4)


def read_astc(file):
    """Return blocks, footprint, width and height of an `.astc` file of two dimensions."""
    magic, *footprint, depth = struct.unpack_from("<I3B", file)
    width, height, layers = (int.from_bytes(file[start : start + 3], "little") for start in (7, 10, 13))
    assert (magic, depth, layers) == (0x5CA1AB13, 1, 1)
    rows, cols = -(-height // footprint[1]), -(-width // footprint[0])
    blocks = np.frombuffer(file, np.uint8, offset=16).reshape(rows, cols, 16)
    return blocks, "{}x{}".format(*footprint), width, height


def ours(content, footprint, height, width, kind):
    """Return the same by our decoder; `content` is `[block rows, block columns, 16]`."""
    texels = decode_texels(content, footprint, slice(0, height), slice(0, width), 4)
    if kind == "unorm8":
        return (texels >> 8).astype(np.uint8)
    return texel_values(texels, "float16").astype(np.float16).view(np.uint16)


def random_blocks(footprint, channels, count, rng):
    """Return a block of every legal configuration, or of `count` of them, with random integers and seeds."""
    table = np.array(configurations(footprint, channels))
    chosen = table[rng.integers(0, len(table), count)] if count else table
    mode, wide, high, weights, partitions, endpoints = chosen.T
    n = len(chosen)

    def integers(ranges, kinds, width, used):
        levels = np.array([kind.levels for kind in ranges])[kinds]
        drawn = (rng.random((n, width)) * levels[:, None]).astype(np.uint8)
        return np.where(np.arange(width) < used[:, None], drawn, 0).astype(np.uint8)

    return Blocks(
        footprint,
        mode.astype(np.uint16),
        partitions.astype(np.uint8),
        np.where(partitions > 1, rng.integers(0, 1024, n), 0).astype(np.uint16),
        np.full(n, LUMINANCE if channels == 1 else RGBA, np.uint8),
        integers(ENDPOINT_RANGES, endpoints, 18, 2 * channels * partitions),
        integers(WEIGHT_RANGES, weights, 64, wide * high),
    )
