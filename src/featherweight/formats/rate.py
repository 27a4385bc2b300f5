"""Rate-aware assignment: a symbol is chosen by the error of its value and by the bits that it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.errors import UnsupportedError
from featherweight.formats.base import Encoded, Importance
from featherweight.formats.coders import static, tag
from featherweight.formats.view import Array

NEARER = 2  # values toward zero that are tried beside the nearest one and zero itself
REFITS = 3


def rate_aware(
    encoded: Encoded, weight: Array, rate: float, *, importance: Importance | None = None, refit: bool = False
) -> Encoded:
    """Return a tensor with symbols that take fewer bits under its coder, where the saving outweighs the error.

    With `E = sum h (w - v)^2`, `S = sum h w^2`, importance `h` (1 by default) and `B` bits of symbols and
    parts, it makes `E / S + rate B / count` small. Each weight takes the nearest value, one of the two next
    nearer zero, or zero, by the bits that `Coder.choose` knows.

    What holds: `E / S + rate B / count` is never more than before, so that `B` is no greater unless `E` is
    less; every weight has its nearest value under the parts, or an error of at most `|w|`; exact zeros stay;
    `rate = 0` changes nothing.

    References: Chou, Lookabaugh, Gray, Entropy-constrained vector quantization, 1989, section III (statistics,
    symbols and codebook in turns); Wiedemann et al., DeepCABAC, 2019, section III (in the coder's loop).

    Args:
        encoded: the tensor, rounded, under the coder that will write it.
        weight: what it was rounded from.
        rate: relative squared error that one bit a weight is worth, 0 or more. Near the grid's own exchange
            it is 1.4 times the relative error of rounding (`2 ln 2`: a bit more makes it a quarter).
        importance: what errors matter.
        refit: whether a codebook may follow its weights.

    Raises:
        UnsupportedError: the format has no neighbours, or too many symbols.
    """
    if reason := static.misfit(encoded.spec):
        raise UnsupportedError(f"format {tag(encoded.format)} has no rate-aware assignment: {reason}")
    matrix = encoded.view.matrix(np.asarray(weight, np.float32))
    heavy = np.float64(1) if importance is None else importance.diagonal.astype(np.float64)
    bit = rate * float((heavy * np.square(matrix, dtype=np.float64)).sum()) / max(matrix.size, 1)
    if bit == 0:
        return encoded
    root, found, format = np.sqrt(heavy / bit), encoded, encoded.format
    for turn in range(1 + REFITS * refit):
        if turn:
            parts = format.refit(matrix, found.symbols, found.parts, view=found.view, importance=importance)
            found = replace(found, parts=parts)
        found = replace(found, symbols=found.coder.choose(*alternatives(found, matrix, root), found.spec))

    def total(entry: Encoded) -> float:
        return 8 * entry.nbytes + float(costs_of(entry, matrix, root).sum(dtype=np.float64))

    return min(encoded, found, key=total)


def alternatives(encoded: Encoded, matrix: Array, root: Array) -> tuple[Array, Array]:
    """Return symbols among which each weight may choose, the nearest first, and their costs in bits, `[k, count]`.

    Args:
        encoded: the tensor, for its parts.
        matrix: what is to be written, float32 `[rows, cols]`.
        root: that by which an error is multiplied before it is squared, `[rows, cols]` or a number.
    """
    spec, format = encoded.spec, encoded.format
    nearest = format.assign(matrix, encoded.parts, view=encoded.view).reshape(-1).astype(spec.dtype)
    found = [nearest]
    for _ in range(NEARER):
        found.append(format.toward_zero(found[-1], encoded.parts, view=encoded.view))
    if spec.zero is not None:
        found.append(np.full_like(nearest, spec.zero))
    costs = [costs_of(replace(encoded, symbols=symbols), matrix, root) for symbols in found]
    return np.stack(found), np.stack(costs)


def costs_of(encoded: Encoded, matrix: Array, root: Array) -> Array:
    """Return the squared error of each weight as so many bits, float32 `[count]`."""
    values = encoded.format.dequantize(encoded.symbols, encoded.parts, view=encoded.view)
    error = (matrix.astype(np.float64) - values) * root
    return np.square(error, out=error).astype(np.float32).reshape(-1)
