"""Uniform grids of weights and activations while they train: rounded in one pass, their gradients in one other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featherweight.formats.view import Array
from featherweight.training.kernels import pass_inside, round_to_steps

BLOCK = 1 << 18  # numbers that a thread takes at once, and whose sums are apart

# From the sums of a pass, float64 `[units, terms]`, to the gradients of what is learned.
OfSums = Callable[[Array], tuple[Tensor, ...]]
# From numbers and the gradient by them, rounded, `[units, n]`: the gradient by them, and sums `[units, terms]`.
Passed = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class Grid:
    """The whole steps `low .. high` times `step`, one grid a unit: a row of numbers that share it.

    >>> grid = Grid.single(0.5, -2, 1)
    >>> grid.round(np.float32([[-9.0, 0.2, 0.35]])).tolist()
    [[-1.0, 0.0, 0.5]]
    >>> passed, sums = grid.passed(np.float32([[-9.0, 0.2, 0.35]]), np.ones((1, 3), np.float32))
    >>> passed.tolist(), sums.round(3).tolist()  # 0.4 and 0.7 steps are rounded by -0.4 and 0.3; one number is below
    ([[0.0, 1.0, 1.0]], [[-0.1, 1.0, 0.0]])

    Attributes:
        step: float32 `[units]`.
        low: float32 `[units]`.
        high: float32 `[units]`.
        closed: whether what lies on the low end, and on the high end, is inside: its gradient passes.
    """

    step: Array
    low: Array
    high: Array
    closed: tuple[bool, bool] = (False, False)

    @classmethod
    def single(cls, step: float, low: float, high: float, closed: tuple[bool, bool] = (False, False)) -> Grid:
        """Return the grid of one unit."""
        numbers = np.array([[step], [low], [high]], np.float32)
        return cls(numbers[0], numbers[1], numbers[2], closed)

    def round(self, x: Array, into: Array | None = None) -> Array:
        """Return the nearest numbers of the grid, ties to even: float32 `[units, n]`; NaN stays."""
        rounded = np.empty_like(x) if into is None else into
        self._each(x, lambda part: round_to_steps(x[:, part], *self._numbers, rounded[:, part]))
        return rounded

    def passed(self, x: Array, gradient: Array) -> tuple[Array, Array]:
        """Return the gradient by x, 0 where it is clipped, and sums of float64 `[units, 3]`.

        The sums are those of the gradient times `round(x / step) - x / step` inside, of the gradient below the grid,
        and of that above it. They do not depend on the number of threads.
        """
        return self.swept(pass_inside, x, gradient, 3, *(not end for end in self.closed))

    def swept(
        self, kernel: Callable[..., None], x: Array, gradient: Array, terms: int, *options: Any
    ) -> tuple[Array, Array]:
        """Return what a kernel such as `pass_inside` makes of a gradient: what passes, and `terms` sums a unit."""
        passed, blocks = np.empty_like(x), -(-x.shape[1] // BLOCK) if len(x) == 1 else 1
        sums = np.zeros((blocks, len(x), terms))

        def work(part: slice) -> None:
            own = sums[part.start // BLOCK]
            kernel(x[:, part], gradient[:, part], *self._numbers, *options, passed[:, part], own)

        self._each(x, work)
        return passed, np.asarray(sums.sum(axis=0))

    @property
    def _numbers(self) -> tuple[Array, Array, Array]:
        return self.step, self.low, self.high

    def _each(self, x: Array, work: Callable[[slice], None]) -> None:
        """Do the work for each block of the only row, or for all rows at once; by as many threads as torch has."""
        width = BLOCK if len(x) == 1 else max(x.shape[1], 1)
        parts = [slice(start, start + width) for start in range(0, x.shape[1], width)]
        threads = min(torch.get_num_threads(), len(parts))
        if threads > 1:
            for _ in _threads(os.getpid(), threads).map(work, parts):
                pass
        else:
            for part in parts:
                work(part)


@lru_cache(maxsize=4)
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Return threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(count, f"featherweight-{process}")


def rounded_activation(
    x: Tensor, grid: Grid, learned: Iterable[Tensor] = (), of_sums: OfSums | None = None, passed: Passed | None = None
) -> Tensor:  # fmt: skip
    """Return an activation of any shape rounded to the grid of one unit, float32, laid out as it is.

    Args:
        x: is read again when gradients are taken: torch refuses to if it was written to.
        grid: of one unit.
        learned: what has gradients beside x.
        of_sums: their gradients, of the sums that `passed` returns; none if nothing is learned.
        passed: what passes of a gradient, and sums; by default `Grid.passed`.
    """
    return _OnGrid.apply(x, grid, passed or grid.passed, of_sums or _nothing, *learned)  # type: ignore[no-any-return, no-untyped-call]


def _nothing(sums: Array) -> tuple[Tensor, ...]:
    return ()


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, passed: Passed, of_sums: OfSums, *learned: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.passed, ctx.of_sums = passed, of_sums
        dense = dense_of(x)
        rounded = torch.empty_like(dense)  # no view, so that a network may write into it
        grid.round(line_of(dense), line_of(rounded))
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dense = dense_of(ctx.saved_tensors[0])
        gradient = gradients[0].float()
        if gradient.stride() != dense.stride():
            gradient = torch.empty_like(dense).copy_(gradient)
        passed, sums = ctx.passed(line_of(dense), line_of(gradient))
        by_x = torch.from_numpy(passed).as_strided(dense.shape, dense.stride())
        return by_x, None, None, None, *ctx.of_sums(sums)


def dense_of(x: Tensor) -> Tensor:
    """Return x as float32 without gaps in memory; itself where it is so."""
    x = x.detach().float()
    kept = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x if kept else x.contiguous()


def line_of(dense: Tensor) -> Array:
    """Return numbers in the order of memory: `[1, n]`."""
    line: Array = dense.as_strided((1, dense.numel()), (dense.numel(), 1)).numpy()
    return line
