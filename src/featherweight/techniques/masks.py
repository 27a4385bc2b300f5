"""Which weights are least salient: by a share of a tensor, of all tensors, or of every few neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# [n, m]: of every m neighbours in a row at most n are not zero.
Pattern = tuple[int, int]


def chosen(saliency: Array, sparsity: float, pattern: Pattern | None) -> Array:
    """Return where the weights are that go, of `saliency: [rows, cols]`.

    Args:
        saliency: how much each matters.
        sparsity: share that goes.
        pattern: in its place, where there is one.
    """
    return least(saliency, sparsity) if pattern is None else outside_pattern(saliency, *pattern)


def least(saliency: Array, sparsity: float) -> Array:
    """Return where the `sparsity` share of least saliency is; of equals, those that come first.

    >>> least(np.array([3.0, 0.0, 1.0, 1.0]), 0.5)
    array([False,  True,  True, False])
    """
    flat = saliency.reshape(-1)
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = True
    return mask.reshape(saliency.shape)


def together(saliency: Mapping[str, Array], sparsity: float, *, relative: bool) -> dict[str, Array]:
    """Return where the `sparsity` share of least saliency of all tensors is, tensor by tensor.

    Args:
        saliency: magnitudes, one array a tensor.
        sparsity: share of all of them together.
        relative: compare LAMP scores.
    """
    flat = [(lamp(matrix) if relative else matrix).reshape(-1) for matrix in saliency.values()]
    ends = np.cumsum([part.size for part in flat])
    masks = np.split(least(np.concatenate(flat), sparsity), ends[:-1])
    return {
        name: mask.reshape(matrix.shape) for (name, matrix), mask in zip(saliency.items(), masks, strict=True)
    }


def lamp(magnitude: Array) -> Array:
    """Return `w^2 / sum of all w'^2 with |w'| >= |w|`, of the shape of `magnitude`.

    Of equals, the later one counts as greater. The greatest weight of every tensor scores 1, so that no
    tensor is emptied before all are down to one.

    >>> lamp(np.array([2.0, 2.0, 0.0])).tolist()
    [0.5, 1.0, 0.0]
    """
    flat = magnitude.reshape(-1)
    order = np.argsort(flat, kind="stable")
    squares = np.square(flat[order] / (flat.max(initial=0) or 1), dtype=np.float64)
    outlive = np.cumsum(squares[::-1])[::-1]
    score = np.empty(flat.size)
    score[order] = squares / np.where(outlive > 0, outlive, 1)
    return score.reshape(magnitude.shape)


def outside_pattern(saliency: Array, n: int, m: int) -> Array:
    """Return where all but the n greatest of every m neighbours in a row are; of equals, the first stay.

    >>> outside_pattern(np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]]), 2, 4).astype(int)
    array([[1, 1, 0, 0, 0, 0, 1]])
    """
    rows, cols = saliency.shape
    padded = np.full((rows, -(-cols // m) * m), -1.0)
    padded[:, :cols] = saliency
    blocks = padded.reshape(-1, m)
    mask = np.zeros(blocks.shape, bool)
    np.put_along_axis(mask, np.argsort(-blocks, axis=1, kind="stable")[:, n:], True, axis=1)
    return mask.reshape(padded.shape)[:, :cols]
