"""Arm's encoder in place of ours: `astc-encoder-py`, if it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import MissingExtraError
from featherweight.formats.astc.modes import Footprint, size

Array = NDArray[Any]

THOROUGH = 98.0


def encode_tile(texels: Array, footprint: Footprint, *, quality: float = THOROUGH, threads: int = 1) -> Array:
    """Return the bytes of blocks, uint8 `[block rows, block columns, 16]`.

    Args:
        texels: `[height, width, channels]`, 1 or 4 channels; clipped to 0 .. 1. It knows no importance.
        footprint: texels of a block.
        quality: 0 to 100; `-medium` is 60, `-thorough` 98, `-exhaustive` 100.
        threads: the bytes do not depend on them.

    Raises:
        MissingExtraError: `astc-encoder-py` is not installed.
    """
    try:
        import astc_encoder as arm
    except ImportError:
        raise MissingExtraError(
            "Arm's encoder is not installed", where="astc.preset", got="astcenc",
            hint="pip install featherweight[astc]",
        ) from None  # fmt: skip
    width, height = size(footprint)
    rows, cols = -(-texels.shape[0] // height), -(-texels.shape[1] // width)
    if not rows * cols:
        return np.zeros((rows, cols, 16), np.uint8)
    filled = np.pad(
        texels,
        [(0, rows * height - texels.shape[0]), (0, cols * width - texels.shape[1]), (0, 0)],
        mode="edge",
    )
    picture = np.broadcast_to(np.clip(filled, 0, 1), (*filled.shape[:2], 4)).astype(np.float32)
    image = arm.ASTCImage(arm.ASTCType.F32, picture.shape[1], picture.shape[0], 1, picture.tobytes())
    context = arm.ASTCContext(arm.ASTCConfig(arm.ASTCProfile.LDR, width, height, 1, quality), threads)
    swizzle = arm.ASTCSwizzle.from_str("RGBA" if texels.shape[2] == 4 else "RRR1")
    return np.frombuffer(context.compress(image, swizzle), np.uint8).reshape(rows, cols, 16)
