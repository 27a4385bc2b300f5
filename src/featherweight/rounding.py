"""Rounding to a grid, to nearest or stochastically: what training in low precision does to weights. No torch."""

from __future__ import annotations

from math import frexp
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from featherweight.activations import Affine, AnyScaled
from featherweight.checked import check_fields
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats.view import Array

Mode = Literal["nearest", "stochastic", "shared"]
MODES: tuple[Mode, ...] = get_args(Mode)

LANES = 1024  # generators of shared randomness
REUSE = 8  # numbers that share what one of them gives
CHUNK = 1 << 16  # numbers at a time, so that what they need stays in the cache

# Of each floating-point type: bits of the mantissa, and the exponent of the least normal number.
_SHAPES = {"float16": (10, -14), "bfloat16": (7, -126), "float8_e4m3fn": (3, -6), "float8_e5m2": (2, -14)}


class Rounding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How numbers become those of a grid.

    Stochastically, x becomes the point of the grid above it with probability `f`, its distance from the point below
    over their distance, and otherwise the point below: the expectation is x, the variance `d**2 f (1 - f)` with `d` the
    distance of the two. Integers and fixed point have one step; the step of floating-point numbers is that of their
    binade, subnormal numbers included. `f` counts to 2**-31; to bfloat16 rounding is exactly unbiased. Points of the
    grid stay what they are, NaN and infinity too. Numbers beyond the grid become its ends: there the expectation is no
    longer x.

    `shared` is cheap: a vector of 1,024 generators xorshift32 of 32 bits, each number of which serves 8 roundings, of
    elements i, i + 1,024, i + 2,048, ... Each element is rounded without bias, but those 8 go up and down together: the
    variance of their sum may be 8 times that of fresh randomness.

    >>> whole = Rounding(Affine(1.0, 0, signed=True))
    >>> total = np.zeros(1, np.float32)
    >>> for step in range(100):
    ...     total += np.float32(0.3)
    ...     beyond = whole.round(total, seed=step)
    >>> float(total[0])  # 30 with a standard deviation of 4.6; nearest stays at 0
    23.0

    References: Gupta et al., Deep learning with limited numerical precision, 2015, arXiv 1502.02551, section 3.1;
    De Sa et al., Understanding and optimizing asynchronous low-precision stochastic gradient descent, ISCA 2017
    (`shared`); Marsaglia, Xorshift RNGs, 2003.

    Attributes:
        grid: the numbers that there are, as those of an activation: `affine` integers times a step, or `float`.
        rounding: `nearest`, ties to even; `stochastic`, with a random number for each element; `shared`.
    """

    grid: AnyScaled
    rounding: Mode = "stochastic"

    def __post_init__(self) -> None:
        """Refuse what no kernel computes.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, "rounding")
        if not isinstance(self.grid, Affine) and self.grid.kind == "bfloat16" and self.grid.scale != 1:
            hint = "bfloat16 has the range of float32 and needs none"
            where = "rounding.grid.scale"
            raise ConfigError(
                "bfloat16 takes no scale", where=where, got=self.grid.scale, expected=1.0, hint=hint
            )

    def round(self, values: Array, *, seed: int) -> int:
        """Round in place; return how many finite values were beyond the ends of the grid and became those.

        Args:
            values: float32, of any shape, contiguous.
            seed: 0 or more; the result depends on nothing else, so take another one for each tensor and step.

        Raises:
            UnsupportedError: an array of another type or layout.
        """
        from featherweight.formats.kernels import round_to_grid

        if values.dtype != np.float32 or not values.flags.c_contiguous:
            got = f"{values.dtype} with strides {values.strides}"
            raise UnsupportedError("cannot be rounded in place", got=got, expected="float32, contiguous")
        flat, grid, beyond = values.reshape(-1), self._numbers(), 0
        source, reuse, random = np.random.PCG64(seed), 0, np.empty(0, np.uint32)
        if self.rounding == "shared":
            reuse, random = REUSE, np.maximum(source.random_raw(LANES // 2).view(np.uint32), 1)
        for start in range(0, flat.size, CHUNK):
            some = flat[start : start + CHUNK]
            if self.rounding == "stochastic":
                random = source.random_raw((some.size + 1) // 2).view(np.uint32)
            beyond += round_to_grid(some, random, reuse, self.rounding != "nearest", *grid)
        return beyond

    def _numbers(self) -> tuple[Any, ...]:
        """Return the grid as `round_to_grid` takes it."""
        scale = self.grid.scale
        low, high = (np.float32(abs(end / scale)) for end in self.grid.range)
        kind = "" if isinstance(self.grid, Affine) else self.grid.kind
        mantissa, least = map(np.int32, _SHAPES.get(kind, (0, 0)))
        exact = frexp(scale)[0] == 0.5
        return kind == "bfloat16", np.float32(scale), exact, bool(kind), mantissa, least, high, low
