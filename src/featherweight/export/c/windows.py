"""The numbers of a step that its kernel in C takes: sizes, windows, ranges; and why a step has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from featherweight.activations import Affine
from featherweight.export.c.program import byte

MOST_SIZE = (1 << 16) - 1


class Refusal(Exception):
    """Why a node has no form in C."""


# The window of a linear layer.
ONE = {
    "kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1,
    "pad_top": 0, "pad_left": 0,
}  # fmt: skip


def planes(shape: tuple[int, ...], prefix: str = "") -> dict[str, int]:
    """Return channels, height and width of a shape without batch; over one axis of places, the height is 1."""
    if len(shape) not in (2, 3):
        raise Refusal(f"{len(shape) - 1} axes of places")
    channels, *places = shape
    height, width = [1, *places][-2:]
    return {f"{prefix}channels": channels, f"{prefix}height": height, f"{prefix}width": width}


def windows(given: Mapping[str, Any], axes: int, kernel: tuple[int, ...]) -> dict[str, int]:
    """Return the fields of windows over one or two axes."""
    pairs = {"kernel": kernel, "stride": given.get("strides"), "dilation": given.get("dilations")}
    found = {}
    for name, numbers in pairs.items():
        found[f"{name}_h"], found[f"{name}_w"] = [1, 1, *(numbers or [1] * axes)][-2:]
    found["pad_top"], found["pad_left"] = [0, 0, *(given.get("pads") or [0] * axes)[:axes]][-2:]
    return found


def checked(numbers: dict[str, int]) -> dict[str, int]:
    """Return numbers that uint16_t holds; refuse others."""
    if not all(0 <= n <= MOST_SIZE for n in numbers.values()):
        raise Refusal(f"a size beyond {MOST_SIZE}")
    return numbers


def ends(quantizer: Affine | None, low: float, high: float) -> dict[str, int]:
    """Return the least and greatest byte of a range within a quantizer, and what stands for 0."""
    if quantizer is None:
        return {"out_zero": 0, "least": 0, "most": 0}
    least, most = (byte(quantizer, int(q)) for q in quantizer.quantize(np.array([low, high], np.float32)))
    return {"out_zero": byte(quantizer, quantizer.zero_point), "least": least, "most": most}
