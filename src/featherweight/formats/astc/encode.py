"""Texels to blocks: a tile of a texture, by our encoder, strip by strip on the threads of the run, or by Arm's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from featherweight.errors import MissingExtraError
from featherweight.formats.astc.blocks import LUMINANCE, RGBA, Blocks, DecodeMode
from featherweight.formats.astc.modes import MOST_ENDPOINTS, MOST_WEIGHTS, Array, Footprint, size
from featherweight.formats.astc.presets import Preset, plan_of
from featherweight.formats.astc.search import Plan, search
from featherweight.processors import taken_processors

STRIP = 1 << 10  # blocks that one call encodes
THOROUGH = 98.0


def encode_tile(
    texels: Array, importance: Array, footprint: Footprint, mode: DecodeMode, preset: Preset
) -> Array:
    """Return the bytes of a tile's blocks, uint8 `[block rows, block columns, 16]`.

    Blocks are independent: a tile that begins at a block's corner has the blocks that it has in the whole texture,
    so columns can be encoded strip after strip, and threads share the work.

    Args:
        texels: what to come near to, 0 to 1 where nothing is clipped, `[height, width, channels]`.
        importance: weight of the squared error of each texel, `[height, width]`.
        footprint: texels of a block.
        mode: how the texture will be decoded.
        preset: how much is tried.
    """
    width, height = size(footprint)
    shape = -(-texels.shape[0] // height), -(-texels.shape[1] // width)
    content = np.zeros((*shape, 16), np.uint8)
    strips = list(_strips(*shape))
    plan = plan_of(footprint, texels.shape[2], mode, preset)

    def work(place: tuple[slice, slice]) -> None:
        rows, cols = place
        window = slice(rows.start * height, rows.stop * height), slice(cols.start * width, cols.stop * width)
        values = cut_up(texels[window], (width, height)) * 255
        heavy = cut_up(importance[window][:, :, None], (width, height))[:, :, 0]
        blocks = encode_blocks(values, heavy, footprint, plan)
        content[rows, cols] = blocks.pack().reshape(content[rows, cols].shape)

    with ThreadPoolExecutor(taken_processors()) as pool:
        list(pool.map(work, strips))
    return content


def encode_tile_astcenc(texels: Array, footprint: Footprint, *, quality: float = THOROUGH) -> Array:
    """Return the same by Arm's encoder, `astc-encoder-py`, if it is installed.

    Args:
        texels: `[height, width, channels]`, 1 or 4 channels; clipped to 0 .. 1. It knows no importance.
        footprint: texels of a block.
        quality: 0 to 100; `-medium` is 60, `-thorough` 98, `-exhaustive` 100.

    Raises:
        MissingExtraError: `astc-encoder-py` is not installed.
    """
    try:
        import astc_encoder as arm
    except ImportError:
        what, hint = "Arm's encoder is not installed", "pip install featherweight[astc]"
        raise MissingExtraError(what, where="astc.preset", got="astcenc", hint=hint) from None
    width, height = size(footprint)
    rows, cols = -(-texels.shape[0] // height), -(-texels.shape[1] // width)
    if not rows * cols:
        return np.zeros((rows, cols, 16), np.uint8)
    below, right = rows * height - texels.shape[0], cols * width - texels.shape[1]
    filled = np.pad(texels, [(0, below), (0, right), (0, 0)], mode="edge")
    picture = np.broadcast_to(np.clip(filled, 0, 1), (*filled.shape[:2], 4)).astype(np.float32)
    image = arm.ASTCImage(arm.ASTCType.F32, picture.shape[1], picture.shape[0], 1, picture.tobytes())
    context = arm.ASTCContext(arm.ASTCConfig(arm.ASTCProfile.LDR, width, height, 1, quality), 1)
    swizzle = arm.ASTCSwizzle.from_str("RGBA" if texels.shape[2] == 4 else "RRR1")
    return np.frombuffer(context.compress(image, swizzle), np.uint8).reshape(rows, cols, 16)


def encode_blocks(values: Array, importance: Array, footprint: Footprint, plan: Plan) -> Blocks:
    """Return blocks for `values: [blocks, texels, channels]`, 0 to 255, and `importance: [blocks, texels]`."""
    count, _, channels = values.shape
    mode, partitions, seed = np.zeros(count, np.uint16), np.zeros(count, np.uint8), np.zeros(count, np.uint16)
    endpoints, weights = (np.zeros((count, most), np.uint8) for most in (MOST_ENDPOINTS, MOST_WEIGHTS))
    search(values, importance, plan, mode, partitions, seed, endpoints, weights)
    kind = np.full(count, LUMINANCE if channels == 1 else RGBA, np.uint8)
    return Blocks(footprint, mode, partitions, seed, kind, endpoints, weights)


def cut_up(texels: Array, footprint: tuple[int, int]) -> Array:
    """Return `texels: [height, width, channels]` as float64 `[blocks, texels, channels]`, filled up with 0."""
    width, height = footprint
    below, right = -texels.shape[0] % height, -texels.shape[1] % width
    filled = np.pad(texels.astype(np.float64), [(0, below), (0, right), (0, 0)])
    rows, cols = filled.shape[0] // height, filled.shape[1] // width
    apart = filled.reshape(rows, height, cols, width, filled.shape[2]).swapaxes(1, 2)
    return np.ascontiguousarray(apart.reshape(rows * cols, height * width, filled.shape[2]))


def _strips(rows: int, cols: int) -> Iterator[tuple[slice, slice]]:
    """Yield rectangles of about `STRIP` blocks that cover a texture."""
    wide = min(max(cols, 1), STRIP)
    tall = max(STRIP // wide, 1)
    for top in range(0, rows, tall):
        for left in range(0, cols, wide):
            yield slice(top, min(top + tall, rows)), slice(left, min(left + wide, cols))
