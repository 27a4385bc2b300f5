"""The column sweep: columns are encoded in turn, and each error is compensated in the remaining columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from featherweight.errors import UnsupportedError
from featherweight.formats.view import Array

Order = Literal["given", "activation"]
# A block `[rows, k]` of the weight, and which columns `[k]` it is, to what can be written of it, `[rows, k]`.
QuantiseColumns = Callable[[Array, Array], Array]

LAZY = 64  # columns in a run
SMALL = 24  # columns of a matrix that is inverted as it is


class Run(Protocol):
    """Writes a run of columns one after the other by itself."""

    def in_turn(self, left: Array, corner: Array, columns: Array) -> tuple[Array, Array]:
        """Return what `featherweight.formats.sweep.in_turn` returns."""


def sweep(
    weight: Array, hessian: Array | None, quantise_columns: QuantiseColumns | Run, *, width: int = 1,
    damping: float = 0.01, order: Order = "given", lazy: int = LAZY,
) -> Array:  # fmt: skip
    """Return a matrix that `quantise_columns` has made, of small error `tr (W - Q) H (W - Q)'`.

    After each block of columns the columns that are left become what makes the error least, given all that is
    fixed. Exactly so: the result is that of optimal brain surgery in the order of the columns. A column that
    no input reaches (`H_jj = 0`) is encoded as it is.

    >>> H = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> sweep(np.array([[0.4, 0.4]]), H, lambda block, columns: np.rint(block), damping=1e-9).tolist()
    [[0.0, 1.0]]

    References: Hassibi, Stork, Second order derivatives for network pruning: optimal brain surgeon, 1993, eq.
    5; Frantar, Ashkboos, Hoefler, Alistarh, GPTQ, 2022, arXiv 2210.17323, section 3 (one Cholesky factor for
    all rows, lazy updates, damping); for `width > 1` their eq. 4 with a block in the place of q.

    Args:
        weight: `[rows, cols]`.
        hessian: `[cols, cols]`, symmetric, positive semi-definite; or `[groups, cols, cols]`: of each of so
            many equal runs of rows; or None: the identity, each column by itself.
        quantise_columns: the encoder, of `width` columns jointly; of the last block there may be fewer. Or what
            sees whole runs of columns: a uniform grid for each number, the same by a compiled loop.
        width: columns in a block.
        damping: added to the diagonal, times its mean.
        order: `given`, or `activation`: blocks of greatest summed diagonal first.
        lazy: columns in a run, in whole blocks: their errors reach the columns beyond in one product of matrices.

    Raises:
        UnsupportedError: the Hessian is not finite, or not positive definite when it is damped.
    """
    rows, cols = weight.shape
    if not weight.size:
        return np.zeros(weight.shape)
    upper, columns = None, np.arange(cols)
    if hessian is not None:
        groups = hessian if hessian.ndim == 3 else hessian[None]
        columns = ordered(groups, width, order)
        wide = [damped(groups, damping, columns)]
        del hessian, groups  # of a wide layer each copy counts, and these may be the only ones
        upper = inverse_factor(wide.pop())
    count = 1 if upper is None else len(upper)
    # [groups, cols, rows of a group]: a column lies together
    left = np.ascontiguousarray(weight.reshape(count, -1, cols).transpose(0, 2, 1)[:, columns], float)
    done = np.empty((rows, cols))
    length = width * max(1, lazy // width)
    for start in range(0, cols, length):
        stop = min(start + length, cols)
        run, these = left[:, start:stop], columns[start:stop]
        corner = np.eye(stop - start)[None] if upper is None else upper[:, start:stop, start:stop]
        if callable(quantise_columns):
            made, errors = in_turn(run, corner, these, quantise_columns, width)
        else:
            made, errors = quantise_columns.in_turn(run, corner, these)
        done[:, these] = by_rows(made)
        if upper is not None:
            left[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    return done


def in_turn(
    left: Array, corner: Array, columns: Array, quantise_columns: QuantiseColumns, width: int
) -> tuple[Array, Array]:
    """Return what is written of a run of columns, and the errors that the columns after it compensate.

    Args:
        left: `[groups, k, rows of a group]`; changes.
        corner: `[groups, k, k]`, the rows and columns of the inverse factor that are theirs.
        columns: which they are, `[k]`.
        quantise_columns: the encoder.
        width: columns that it encodes jointly.
    """
    made, errors = np.empty_like(left), np.empty_like(left)
    for first in range(0, len(columns), width):
        here, after = slice(first, first + width), slice(first + width, None)
        block = left[:, here]
        found = quantise_columns(by_rows(block), columns[here])
        made[:, here] = found.reshape(len(left), -1, block.shape[1]).transpose(0, 2, 1)
        missed, pivot = block - made[:, here], corner[:, here, here]
        error = missed / pivot if width == 1 else np.linalg.solve(pivot.transpose(0, 2, 1), missed)
        left[:, after] -= corner[:, here, after].transpose(0, 2, 1) @ error
        errors[:, here] = error
    return made, errors


def by_rows(block: Array) -> Array:
    """Return `block: [groups, k, rows of a group]` as `[rows, k]`."""
    return block.transpose(0, 2, 1).reshape(-1, block.shape[1])


def ordered(hessian: Array, width: int, order: Order) -> Array:
    """Return the columns in the order in which they are encoded; blocks stay whole, a short one last."""
    cols = hessian.shape[-1]
    if order == "given":
        return np.arange(cols)
    whole = cols - cols % width
    reached = np.einsum("gii->i", hessian)[:whole].reshape(-1, width).sum(axis=1)
    blocks = np.argsort(-reached, kind="stable")
    return np.append(np.arange(whole).reshape(-1, width)[blocks].reshape(-1), np.arange(whole, cols))


def damped(hessian: Array, damping: float, columns: Array | None = None) -> Array:
    """Return `hessian: [groups, cols, cols]` plus `damping` times the mean of its diagonal; the identity for 0.

    `columns` are what it has in what order; None: all, as they are.
    """
    wide: Array = (hessian if columns is None else hessian[:, columns[:, None], columns]).astype(
        float, copy=columns is None
    )
    np.einsum("gii->gi", wide)[...] += shift(hessian, damping)[:, None]
    return wide


def shift(hessian: Array, damping: float) -> Array:
    """Return what damping adds to the diagonal of each of `hessian: [groups, cols, cols]`, `[groups]`."""
    mean = np.einsum("gii->g", hessian) / max(hessian.shape[-1], 1)
    return np.where(mean > 0, damping * mean, 1.0)


def inverse_factor(hessian: Array) -> Array:
    """Return the upper triangular `U` with `U' U = H^-1`, of each of `[groups, cols, cols]`.

    Its row i, divided by its diagonal, says how the columns after i compensate an error in column i, when those
    before it are fixed. `U` is the inverse of `R` in `H = R R'`, the Cholesky factor taken from the
    last column to the first, so that `H` itself need not be inverted. Raises `UnsupportedError` as `sweep` does.
    """
    if not np.isfinite(hessian).all():
        raise UnsupportedError("the Hessian holds NaN or infinity", hint="look for activations that overflow")
    try:
        backward = np.linalg.cholesky(hessian[:, ::-1, ::-1])
        del hessian  # of a wide layer each copy counts
    except np.linalg.LinAlgError:
        raise UnsupportedError("the Hessian is not positive definite", hint="more damping") from None
    return triangular_inverse(backward[:, ::-1, ::-1])


def triangular_inverse(upper: Array) -> Array:
    """Return the inverses of upper triangular matrices, `[groups, n, n]`: by halves, nearly all of it products."""
    size = upper.shape[-1]
    if size <= SMALL:
        return np.triu(np.linalg.inv(upper))
    first, last, found = slice(size // 2), slice(size // 2, size), np.zeros_like(upper)
    found[:, first, first] = triangular_inverse(upper[:, first, first])
    found[:, last, last] = triangular_inverse(upper[:, last, last])
    found[:, first, last] = -found[:, first, first] @ upper[:, first, last] @ found[:, last, last]
    return found


@dataclass(frozen=True, eq=False)
class Uniform:
    """A grid for each number of a matrix `[rows, cols]`: `scale` times a whole step, ties to even steps.

    Attributes:
        shape: of the matrix.
        scale: float32; as the ends of the steps, it broadcasts to `shape`.
        low: least step.
        high: greatest step.
        pair: most that the steps of columns 0 and 1, 2 and 3, ... of a run may sum to in magnitude; None: any.
    """

    shape: tuple[int, int]
    scale: Array
    low: Array
    high: Array
    pair: int | None = None

    def in_turn(self, left: Array, corner: Array, columns: Array) -> tuple[Array, Array]:
        """Return what the function `in_turn` returns."""
        from featherweight.formats.kernels import round_in_turn

        made, errors = np.array(left, np.float64, order="C"), np.empty(left.shape)
        scale, low, high = (  # [groups, k, rows of a group]
            np.broadcast_to(part, self.shape)[:, columns].reshape(len(left), -1, len(columns))
            .transpose(0, 2, 1).astype(np.float32, order="C") for part in (self.scale, self.low, self.high)
        )  # fmt: skip
        most = np.inf if self.pair is None else float(self.pair)
        round_in_turn(made, np.ascontiguousarray(corner), scale, low, high, most, errors)
        return made, errors
