"""Rounding to a grid: nanoseconds a number, to nearest, stochastically, and with shared randomness; one thread.

    python -m benchmarks rounding [--quick]

The best of nine. Rivals draw one uniform number an element as one would, `step * floor(x / step + uniform)`, in
torch (Mersenne Twister) and in numpy (PCG64); and the loop of this library is fed by torch's uniform numbers, so that
only the randomness differs. The last column is how many times as fast shared randomness is on that grid.
"""

import time
from functools import partial

import numpy as np
import torch

from benchmarks.common import head, row, timed
from featherweight.activations import Affine, FloatingPoint
from featherweight.rounding import Rounding

GRIDS = {
    "fixed point, 8 bits, step 2**-7": Affine(2.0**-7, 0, 8, True),
    "integers, 8 bits, step 0.01": Affine(float(np.float32(0.01)), 0, 8, True),
    "bfloat16": FloatingPoint(1.0, "bfloat16"),
    "float16": FloatingPoint(1.0, "float16"),
    "float8_e4m3fn": FloatingPoint(1.0, "float8_e4m3fn"),
}


def ways(grid, x):
    """Return by name what rounds `x`."""
    values, found = torch.from_numpy(x), x.copy()
    uniform, twister, congruential = (
        torch.empty(x.size),
        torch.Generator().manual_seed(0),
        np.random.default_rng(0),
    )

    def ours(rounding, drawn=False):
        if drawn:
            uniform.uniform_(generator=twister)
        np.copyto(found, x)
        rounding.round(found, seed=1)

    made = {name: partial(ours, Rounding(grid, name)) for name in ("shared", "nearest", "stochastic")}
    made["shared's loop and torch's uniform numbers"] = partial(ours, Rounding(grid, "shared"), True)
    if isinstance(grid, Affine):
        step, (low, high) = grid.scale, grid.grid

        def in_torch():
            drawn = torch.rand(values.shape, generator=twister)
            return values.div(step).add_(drawn).floor_().clamp_(low, high).mul_(step)

        def in_numpy():
            steps = np.floor(x / np.float32(step) + congruential.random(x.shape, np.float32))
            return np.clip(steps, low, high, out=steps) * np.float32(step)

        made |= {"torch, floor(x / step + rand)": in_torch, "numpy, floor(x / step + random)": in_numpy}
    return made


def main(quick):
    x = (np.random.default_rng(0).normal(size=1 << (12 if quick else 18)) * 0.3).astype(np.float32)
    print(f"{x.size} numbers\n")
    head("grid", "rounding", "ns a number", "shared is faster by")
    for name, grid in GRIDS.items():
        calls = ways(grid, x)
        for call in calls.values():
            call()  # compiled
        seconds = {way: timed(call, 9, time.perf_counter)[1] for way, call in calls.items()}
        for way, found in seconds.items():
            row(name, way, f"{found / x.size * 1e9:.2f}", f"{found / seconds['shared']:.1f}x")
