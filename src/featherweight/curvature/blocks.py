"""The Fisher information within runs of neighbouring weights: the predicted loss of zeros, and their compensation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.curvature.hvp import gradients
from featherweight.errors import UnsupportedError
from featherweight.model import Model
from featherweight.task import Batch, Task

Array = NDArray[Any]
TOGETHER = 16  # gradients that are multiplied at once
AT_ONCE = 1 << 12  # blocks that are inverted at once


@dataclass(frozen=True, eq=False)
class Blocks:
    """The curvature of a weight of `n` numbers, as its matrix `[rows, cols]` has them, in runs of b.

    Attributes:
        curvature: positive definite, float32 `[runs, b, b]`; of what fills up the last run, zero.
        damping: added to its diagonal.
    """

    curvature: Tensor
    damping: float

    def lost(self, weight: Array) -> Array:
        """Return `w^2 / (2 [F^-1]_qq)`: the loss of removing each weight when its run compensates; of zeros 0.

        Weights that are zero stay zero: they compensate nothing.
        """
        found = []
        for values, curvature in self._runs(weight):
            inverse = torch.linalg.inv(held(curvature, values != 0))
            found.append(values.square() / (2 * inverse.diagonal(dim1=1, dim2=2)))
        return _matrix(found, weight)

    def without(self, weight: Array, gone: Array) -> Array:
        """Return the weight with zeros where `gone: [rows, cols]` is true, and the rest of each run moved.

        With Q what goes and R what stays and is not zero, R becomes `w_R + [F_RR]^-1 F_RQ w_Q`, of all changes the one
        of least `d' F d / 2`: optimal brain surgery of all of Q at once.
        """
        found = []
        out = next_of(gone, self.curvature.shape[1])
        for values, curvature in self._runs(weight):
            goes = next(out)
            stays = (values != 0) & ~goes
            pull = torch.einsum("nij,nj->ni", curvature, values * goes) * stays
            moved = torch.linalg.solve(held(curvature, stays), pull)
            found.append(torch.where(goes, 0, values + moved))
        return _matrix(found, weight).astype(weight.dtype)

    def _runs(self, weight: Array) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some runs of the weight, and their damped curvature, in double precision."""
        runs, width, _ = self.curvature.shape
        shift = self.damping * torch.eye(width, dtype=torch.float64)
        values = next_of(weight, width)
        for start in range(0, runs, AT_ONCE):
            yield next(values).double(), self.curvature[start : start + AT_ONCE].double() + shift


def next_of(matrix: Array, width: int) -> Iterator[Tensor]:
    """Yield the numbers of a matrix in runs, zeros at the end, `AT_ONCE` runs at a time: `[runs, width]`."""
    flat = np.zeros(-(-matrix.size // width) * width, matrix.dtype)
    flat[: matrix.size] = matrix.reshape(-1)
    yield from torch.split(torch.from_numpy(flat.reshape(-1, width)), AT_ONCE)


def held(curvature: Tensor, free: Tensor) -> Tensor:
    """Return `curvature: [runs, b, b]` with the identity in rows and columns that are not `free: [runs, b]`."""
    both = free[:, :, None] & free[:, None, :]
    return torch.where(both, curvature, torch.eye(curvature.shape[1], dtype=curvature.dtype))


def _matrix(runs: Sequence[Tensor], like: Array) -> Array:
    whole: Array = torch.cat(list(runs)).numpy().reshape(-1)[: like.size].reshape(like.shape)
    return whole


def fisher_blocks(
    model: Model, task: Task, batches: Iterable[Batch], names: Sequence[str], *, width: int, damping: float
) -> dict[str, Blocks]:
    """Return the mean over samples of `g g'`, g the gradient of a sample's loss, within runs of `width` weights.

    Memory is `width` numbers a weight.

    Args:
        model: the network, in eval mode.
        task: whose loss.
        batches: the samples.
        names: parameters.
        width: of a run.
        damping: times the mean diagonal of the tensor.

    Raises:
        TaskError: a gradient holds NaN or infinity; names the batch.
        UnsupportedError: sums of their squares do; names the parameter.
    """
    layout = model.views
    sums: dict[str, Tensor] = {}
    waiting: dict[str, list[Tensor]] = {name: [] for name in names}
    count = 0

    def multiply() -> None:
        for name, runs in waiting.items():
            if runs:
                g = torch.stack(runs, dim=1)
                sums[name] = sums.get(name, torch.zeros(())) + g.transpose(1, 2) @ g
                runs.clear()

    for gradient, _ in gradients(model, task, batches, each=True):
        for name in names:
            matrix = layout[name].matrix(gradient[name].float().numpy())
            waiting[name].append(torch.cat(list(next_of(matrix, width))))
        count += 1
        if count % TOGETHER == 0:
            multiply()
    multiply()
    return {name: _mean(name, total / count, layout[name].size, damping) for name, total in sums.items()}


def _mean(name: str, curvature: Tensor, size: int, damping: float) -> Blocks:
    diagonal = float(curvature.diagonal(dim1=1, dim2=2).sum()) / max(size, 1)
    if not isfinite(diagonal):
        raise UnsupportedError("squares of its gradients exceed float32", where=name)
    return Blocks(curvature, damping * diagonal if diagonal > 0 else 1.0)
