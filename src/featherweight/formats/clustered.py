"""Weight sharing: every weight is one of a few values, found by k-means."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.formats.base import Format, Importance, Part, Parts
from featherweight.formats.coders import StreamSpec
from featherweight.formats.view import BLOCK, Array, View

ROUNDS = 1000


class Clustered(Format, frozen=True, tag="clustered"):
    """A codebook of at most `2**bits` values for the whole tensor, and the index of one for each weight.

    Lloyd's algorithm in one dimension to its fixed point, a local optimum, each weight counting by its importance
    (Choi et al.). If the tensor holds exact zeros, `codebook[0]` is 0.0, stands for them and for nothing else, and the
    other weights are clustered among themselves, as pruning needs it (Han et al.). Values that stand for no
    weight are left out, so the codebook may be shorter, and a tensor of few distinct values may be kept
    exactly. Every other weight gets the nearest of the other values; the error is at most half the widest gap
    between neighbours, or the distance to the outermost value.

    >>> encoded = Clustered(bits=2).encode(np.array([0, 1, 1.5, 0, 4, 8], np.float32))
    >>> encoded.parts["codebook"].tolist(), encoded.symbols.tolist()
    ([0.0, 1.25, 4.0, 8.0], [0, 1, 1, 0, 2, 3])

    References: Han, Mao, Dally, Deep Compression, 2016, section 3 (linear initialisation); Choi, El-Khamy, Lee,
    Towards the limit of network quantization, 2017 (Hessian-weighted k-means).

    Attributes:
        bits: 1 to 12, of a symbol at fixed rate.
        init: where the values start: `linear`, evenly from the least to the greatest weight, or `density`, at evenly
            spaced quantiles.
    """

    bits: Annotated[int, Meta(ge=1, le=12)] = 4
    init: Literal["linear", "density"] = "linear"

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return `codebook`, float32 `[k]`: 0.0 first if there are zeros, then the centres, rising."""
        kept, weights = matrix != 0, None
        values = matrix[kept]
        zeros = values.size < matrix.size
        if importance is None:
            values.sort()
        else:
            order = np.argsort(values)
            values, weights = values[order], importance.diagonal[kept][order].astype(np.float64)
        centres = lloyd(values, weights, start(values, (1 << self.bits) - zeros, self.init))
        centres[centres == 0] = np.finfo(np.float32).tiny  # 0.0 is kept for exact zeros
        return {"codebook": np.concatenate([np.zeros(int(zeros), np.float32), centres])}

    def assign(
        self, matrix: Array, parts: Parts, *, view: View, importance: Importance | None = None
    ) -> Array:
        """Return the index of the nearest value, ties to the smaller; 0.0 is for exact zeros alone."""
        spec, codebook = self.stream(view, parts), parts["codebook"]
        pinned = int(spec.zero is not None)
        order = np.argsort(codebook[pinned:])
        limits, flat = boundaries(codebook[pinned:][order]), matrix.reshape(-1)
        index = order + pinned if order.size else np.zeros(1, int)
        symbols = np.empty(flat.shape, spec.dtype)
        for i in range(0, flat.size, BLOCK):
            block = flat[i : i + BLOCK]
            nearest = index[np.searchsorted(limits, block)]
            symbols[i : i + BLOCK] = np.where(block == 0, 0, nearest) if pinned else nearest
        return symbols

    def dequantize(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return the value of each index."""
        return parts["codebook"][symbols].reshape(view.rows, view.cols)

    def toward_zero(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return the indices of the next values between each value and zero."""
        codebook = parts["codebook"]
        order = np.argsort(codebook, kind="stable")
        rising = codebook[order]
        inward = np.arange(len(order)) - np.sign(rising).astype(int)
        inside = np.clip(inward, 0, max(len(order) - 1, 0))
        stays = (inward != inside) | (rising[inside] * np.sign(rising) < 0)
        lower = np.empty(len(order), symbols.dtype)
        lower[order] = np.where(stays, order, order[inside])
        return lower[symbols]

    def refit(
        self, matrix: Array, symbols: Array, parts: Parts, *, view: View, importance: Importance | None
    ) -> Parts:
        """Return the (weighted) mean of the weights of each index; one without weights stays, as zero does."""
        codebook, weights = parts["codebook"], None if importance is None else importance.diagonal.reshape(-1)
        flat = matrix.reshape(-1).astype(np.float64)
        mass = np.bincount(symbols, weights, len(codebook))
        moment = np.bincount(symbols, flat if weights is None else flat * weights, len(codebook))
        mean = (moment / np.where(mass > 0, mass, 1)).astype(np.float32)
        return {"codebook": np.where((mass > 0) & (codebook != 0) & (mean != 0), mean, codebook)}

    def parts(self, view: View) -> dict[str, Part]:
        """Return `codebook`, float32, of `2**bits` values at most."""
        return {"codebook": Part("<f4", (-1,), most=1 << self.bits)}

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: as many symbols as values; the first is zero if its value is."""
        codebook = parts["codebook"]
        zero = 0 if codebook.size and codebook[0] == 0 else None
        return StreamSpec(view.size, len(codebook), zero=zero, row_length=view.cols)

    def nbits(self, shape: tuple[int, ...]) -> float:
        """Return the most bits a tensor of this shape can take."""
        view = View.of(shape)
        most = min(1 << self.bits, view.size)
        return view.size * max(most - 1, 0).bit_length() + 32 * most


def start(values: Array, count: int, init: str) -> Array:
    """Return where k-means starts on rising `values: [n]`: `count` centres at most, rising, float32."""
    if not values.size:
        return np.zeros(0, np.float32)
    if init == "linear":
        centres = np.linspace(float(values[0]), float(values[-1]), count)
    else:
        centres = values[((np.arange(count) + 0.5) * (values.size / count)).astype(int)]
    return np.unique(centres.astype(np.float32))


def lloyd(values: Array, weights: Array | None, centres: Array) -> Array:
    """Return the centres of weighted k-means, rising, float32, without those of empty clusters.

    In one dimension a cluster is a run of the sorted values: its weight and its mean are differences of prefix sums,
    and a round costs one binary search a centre. A mean is kept between the ends of its run, so that one value alone is
    exact whatever the sums lost. Empty clusters keep their value while it runs (Han et al.).

    Args:
        values: rising float32 numbers, `[n]`.
        weights: of their squared errors, float64 `[n]`; None: 1 each.
        centres: where to start, rising, float32.
    """
    if not values.size:
        return centres
    mass = None if weights is None else _prefix(weights)
    moment = _prefix(values if weights is None else weights * values)
    edges = _edges(values, centres)
    for _ in range(ROUNDS):
        total = np.diff(edges if mass is None else mass[edges])
        first, last = values[np.minimum(edges[:-1], values.size - 1)], values[edges[1:] - 1]
        mean = np.clip(np.diff(moment[edges]) / np.where(total > 0, total, 1), first, last)
        centres = np.where(total > 0, mean, centres).astype(np.float32)
        moved = _edges(values, centres)
        if (moved == edges).all():
            break
        edges = moved
    return np.unique(centres[np.diff(edges) > 0])


def _edges(values: Array, centres: Array) -> Array:
    """Return where each cluster begins in the sorted values, and where the last ends, `[k + 1]`."""
    inner = np.searchsorted(values, boundaries(centres), side="right")
    return np.concatenate([[0], inner, [values.size]])


def _prefix(terms: Array) -> Array:
    """Return the sums of the first 0, 1, ... n terms, float64 `[n + 1]`."""
    sums = np.zeros(terms.size + 1)
    np.cumsum(terms, dtype=np.float64, out=sums[1:])
    return sums


def boundaries(levels: Array) -> Array:
    """Return the greatest float32 not past the middle, for each pair of neighbours of rising `levels: [..., k]`.

    `numpy.searchsorted(boundaries(levels), values)` is the index of the level nearest to each float32 value,
    ties to the smaller, and no value need be widened for it.

    >>> boundaries(np.array([0, 1, 4], np.float32)).tolist()
    [0.5, 2.5]
    """
    wide = levels.astype(np.float64)
    middle = (wide[..., 1:] + wide[..., :-1]) / 2
    near = middle.astype(np.float32)
    return np.where(near > middle, np.nextafter(near, np.float32(-np.inf)), near)
