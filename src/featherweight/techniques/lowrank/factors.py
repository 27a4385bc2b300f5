"""A weight as a product of thinner ones; every form is exact at full rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TINY = np.finfo(np.float64).tiny
SWEEPS = 5  # of the alternating fit of Tucker-2; the error does not rise from one to the next


def split(matrix: Array, rank: int, root: Array | None = None) -> tuple[Array, Array]:
    """Return `left [rows, rank]` and `right [rank, columns]`, whose product is nearest to `matrix`.

    The root of each singular value goes to either side. With `root`, lower triangular with `root root'` the second
    moment of the inputs x, nearest is what computes nearest to `matrix x`: the singular values are of `matrix root`.

    References: Zhang, Zou, He, Sun, Accelerating very deep convolutional networks for classification and detection,
    2016, arXiv 1505.06798, section 3.1 (the linear case, with the moments of the outputs).

    >>> left, right = split(np.arange(6.0).reshape(2, 3), 2)
    >>> np.abs(left @ right - np.arange(6.0).reshape(2, 3)).max() < 1e-12
    np.True_
    """
    target = weighed(matrix, root)
    wide = len(target) <= target.shape[1]
    short = target if wide else target.T
    vectors = leading(short, rank)
    rest = vectors.T @ short  # each row as long as its singular value
    half = np.sqrt(np.linalg.norm(rest, axis=1))
    scaled, rest = vectors * half, rest / np.maximum(half, TINY)[:, None]
    left, right = (scaled, rest) if wide else (rest.T, scaled.T)
    return left, right if root is None else np.linalg.solve(root.T, right.T).T


def weighed(matrix: Array, root: Array | None) -> Array:
    """Return a matrix, times the root of the second moment of its inputs if that is known."""
    return matrix if root is None else matrix @ root


def by_channel(weight: Array, rank: int, root: Array | None = None) -> tuple[Array, Array]:
    """Return a convolution of `rank` channels, `[rank, in, k...]`, and one of single pixels, `[out, rank, 1...]`.

    References: Zhang, Zou, He, Sun, Accelerating very deep convolutional networks for classification and
    detection, 2016, arXiv 1505.06798, section 3.1.
    """
    left, right = split(weight.reshape(len(weight), -1), rank, root)
    ones = [1] * (weight.ndim - 2)
    return right.reshape(rank, *weight.shape[1:]), left.reshape(len(weight), rank, *ones)


def by_axis(weight: Array, rank: int) -> tuple[Array, Array]:
    """Return a vertical convolution `[rank, in, kh, 1]` and a horizontal one `[out, rank, 1, kw]`.

    References: Jaderberg, Vedaldi, Zisserman, Speeding up convolutional neural networks with low rank
    expansions, 2014, arXiv 1405.3866, section 2.2 (scheme 2).
    """
    out, ins, height, width = weight.shape
    left, right = split(spatial_matrix(weight), rank)  # [in kh, rank], [rank, out kw]
    vertical = left.reshape(ins, height, rank).transpose(2, 0, 1)[..., None]
    horizontal = right.reshape(rank, out, width).transpose(1, 0, 2)[:, :, None]
    return vertical, horizontal


def spatial_matrix(weight: Array) -> Array:
    """Return `[out, in, kh, kw]` as `[in kh, out kw]`."""
    out, ins, height, width = weight.shape
    return weight.transpose(1, 2, 0, 3).reshape(ins * height, out * width)


def unfolded(weight: Array, axis: int) -> Array:
    """Return a weight as a matrix whose rows are the indices of `axis`."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def tucker(weight: Array, rank_in: int, rank_out: int) -> tuple[Array, Array, Array]:
    """Return `into [in, rank_in]`, `core [rank_out, rank_in, k...]` and `out [out, rank_out]`, bases orthonormal.

    `weight[t, s] = sum of out[t, p] core[p, q] into[s, q]`: higher-order SVD, then alternating least squares.

    References: Kim et al., Compression of deep convolutional neural networks for fast and low power mobile
    applications, 2016, arXiv 1511.06530, eq. 2 (Tucker-2).
    """
    into, out = leading(unfolded(weight, 1), rank_in), leading(unfolded(weight, 0), rank_out)
    for _ in range(SWEEPS):
        into = leading(unfolded(np.einsum("ts...,tp->ps...", weight, out), 1), rank_in)
        out = leading(unfolded(np.einsum("ts...,sq->tq...", weight, into), 0), rank_out)
    return into, np.einsum("ts...,tp,sq->pq...", weight, out, into), out


def product(weights: Sequence[Array]) -> Array:
    """Return the weight of one layer that computes what layers of these weights do, one after the other.

    Args:
        weights: `[out, in, k...]` of each, in order of execution; along each axis one kernel at most is longer than 1.
    """
    whole = weights[0]
    for weight in weights[1:]:
        both = np.tensordot(weight, whole, (1, 0))  # [out, k of the second..., in, k of the first...]
        sides = [max(pair) for pair in zip(weight.shape[2:], whole.shape[2:], strict=True)]
        axes = range(len(sides))
        across = both.transpose(
            0, 1 + len(sides), *(n for axis in axes for n in (1 + axis, 2 + len(sides) + axis))
        )
        whole = across.reshape(len(weight), whole.shape[1], *sides)
    return whole


def leading(matrix: Array, rank: int) -> Array:
    """Return the leading left singular vectors `[rows, rank]`.

    They are eigenvectors of `matrix matrix'`; no more than these are computed. They are orthonormal to rounding: all of
    them together lose nothing.
    """
    from scipy.linalg import eigh

    rows = len(matrix)
    found: Array = eigh(matrix @ matrix.T, subset_by_index=[rows - rank, rows - 1])[1][:, ::-1]
    return found
