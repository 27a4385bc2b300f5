"""Rate-aware assignment: bytes against nearest rounding of the same error, and weights a second of one core's time.

    python -m benchmarks rate [--quick]

A grid of 8 bits with a free step, one scale a tensor. Each line is one step, in units of the root mean square of the
weights that are not zero, and one rate, in units of the relative error of rounding. The rival is nearest rounding
with the wider step that makes the same error, found by bisection.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import timed
from featherweight.formats import Encoded, Int
from featherweight.formats.coders import Cabac, Coder, Huffman, Rans
from featherweight.formats.rate import rate_aware

Array = np.ndarray
GRID = Int(bits=8, per="tensor")


def weights(side: int) -> dict[str, Array]:
    """Name to weights."""
    draw = np.random.default_rng(0)
    shape = (side, side)
    tensors = {"gaussian": draw.normal(size=shape), "laplacian": draw.laplace(size=shape)}
    tensors["gaussian, 90 % zeros"] = draw.normal(size=shape) * (draw.random(shape) < 0.1)
    return {name: weight.astype(np.float32) for name, weight in tensors.items()}


def nearest(weight: Array, step: float, coder: Coder) -> Encoded:
    scale = step * np.sqrt(np.square(weight[weight != 0]).mean())
    return GRID.encode(weight, parts={"scale": np.array([scale], np.float32)}).recoded(coder)


def error(encoded: Encoded, weight: Array) -> float:
    """Return the squared error over the squared weights."""
    return float(np.square(encoded.decode() - weight).sum() / np.square(weight).sum())


def rival(weight: Array, wanted: float, low: float, coder: Coder) -> Encoded:
    """Return nearest rounding with the widest step whose error is not above `wanted`."""
    high = 4 * low
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if error(nearest(weight, middle, coder), weight) <= wanted else (low, middle)
        )
    return nearest(weight, low, coder)


def line(name: str, weight: Array, step: float, multiple: float, coder: Coder) -> str:
    before = nearest(weight, step, coder)
    after, seconds = timed(lambda: rate_aware(before, weight, multiple * error(before, weight)))
    wanted = error(after, weight)
    other = rival(weight, wanted, step, coder)
    gain = f"{after.nbytes / other.nbytes - 1:+7.1%}"
    speed = f"{weight.size / seconds / 1e6:5.1f} M/s"
    bits = f"{8 * after.nbytes / weight.size:5.2f} bits"
    settings = f"{name:22} {type(coder).__name__:8} {step:4} {multiple:4}"
    return f"{settings} {-10 * np.log10(wanted):5.1f} dB {bits} {gain} {speed}"


def main(quick: bool) -> None:
    for coder in (Rans(), Huffman(), Cabac()):
        small = np.eye(8, dtype=np.float32)
        rate_aware(nearest(small, 1.0, coder), small, 0.1)  # compiles
        for name, weight in weights(50 if quick else 1000).items():
            for step, multiple in ((0.5, 1.4), (1.0, 1.4), (1.5, 1.4), (1.5, 0.7)):
                print(line(name, weight, step, multiple, coder), flush=True)
