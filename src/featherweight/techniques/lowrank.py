"""Low rank: how the rank of a matrix is chosen, a weight as a product of thinner ones, a layer as thinner layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from featherweight.checked import Options
from featherweight.formats.view import Array
from featherweight.structure import LayerSpec, spec_of

Form = Literal["channel", "spatial", "tucker"]

GRID = 257  # points of the search over the logarithm of the variance, beside those of each interval
TAU = 2.5129  # the zero of the function that Nakajima et al. bound in their theorem 2, over sqrt(alpha)
ZOOMS = 6  # onto the least point of the grid; each is 16 times as fine
AT_ONCE = 1 << 20  # numbers that the free energy is computed of together
TINY = np.finfo(np.float64).tiny
SWEEPS = 5  # of the alternating fit of Tucker-2; the error does not rise from one to the next


class Rank(Options, frozen=True, tag_field="by"):
    """A rule from a matrix to a rank."""

    def of(self, matrix: Array) -> int:
        """Return the rank for a matrix, at least 1 and at most its shorter side."""
        singular = np.linalg.svd(matrix, compute_uv=False)
        return min(max(self.counted(singular, *matrix.shape), 1), len(singular))

    def counted(self, singular: Array, rows: int, columns: int) -> int:
        """Return how many of the singular values stay."""
        raise NotImplementedError


class Evbmf(Rank, frozen=True, tag="evbmf"):
    """As many components as outlive the noise, by empirical variational Bayes.

    References: Nakajima, Sugiyama, Babacan, Tomioka, Global analytic solution of fully-observed variational Bayesian
    matrix factorization, 2013, JMLR 14, theorem 2 and eq. 22; for networks Kim et al., Compression of deep
    convolutional neural networks for fast and low power mobile applications, 2016, arXiv 1511.06530, section 3.2.
    """

    def counted(self, singular: Array, rows: int, columns: int) -> int:
        """Return how many of all singular values, descending, outlive the noise.

        >>> Evbmf().counted(np.array([9.0, 8.0, 0.1, 0.1, 0.1, 0.1]), 6, 20)
        2
        """
        small, large = sorted((rows, columns))
        if not singular.any():
            return 0
        alpha = small / large
        edge = (1 + TAU * sqrt(alpha)) * (1 + sqrt(alpha) / TAU)
        squares = np.square(singular / singular.max(), dtype=np.float64)
        return int((squares > large * noise(squares, alpha, edge, large) * edge).sum())


class Energy(Rank, frozen=True, tag="energy"):
    """The fewest components that hold a share of the squared singular values.

    Attributes:
        share: of the energy.
    """

    share: Annotated[float, Meta(gt=0, le=1)] = 0.95

    def counted(self, singular: Array, rows: int, columns: int) -> int:
        """Return the number of components."""
        energy = np.cumsum(np.square(singular, dtype=np.float64))
        return int(np.searchsorted(energy, self.share * energy[-1] * (1 - 1e-12))) + 1


class Given(Rank, frozen=True, tag="given"):
    """A number of components, or all of a matrix that has fewer.

    Attributes:
        rank: how many.
    """

    rank: Annotated[int, Meta(ge=1)]

    def of(self, matrix: Array) -> int:
        """Return the rank; no singular value is needed."""
        return int(min(self.rank, *matrix.shape))


RANKS: tuple[type[Rank], ...] = (Evbmf, Energy, Given)
AnyRank = Evbmf | Energy | Given


def noise(squares: Array, alpha: float, edge: float, large: int) -> float:
    """Return the variance of the noise that minimises the free energy, within the bounds that hold for it.

    The free energy may have a minimum between every two variances at which a component crosses the threshold: a grid
    with points in each of these intervals finds the least of them, finer grids around it its place.

    Args:
        squares: of the singular values, descending.
        alpha: the shorter side of the matrix over the longer.
        edge: threshold of a component, in units of noise.
        large: the longer side.
    """
    count = len(squares)
    tail = min(ceil(count / (1 + alpha)) - 1, count - 1)
    upper = float(squares.mean()) / large
    lower = max(float(squares[tail]) / (large * edge), float(squares[tail:].mean()) / large, upper * 1e-12)
    if lower >= upper:
        return upper
    floor = np.maximum(squares, upper * 1e-12)
    steps = np.log(squares[squares > 0] / (large * edge))  # where a component crosses the threshold
    ends = np.log([lower, upper])
    inside = np.unique(np.r_[ends, steps[(steps > ends[0]) & (steps < ends[1])]])
    between = np.linspace(inside[:-1], inside[1:], 3).ravel()
    grid = np.unique(np.r_[np.linspace(ends[0], ends[1], GRID), between])
    for _ in range(ZOOMS):
        best = int(free_energy(np.exp(grid), floor, alpha, edge, large).argmin())
        grid = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], 33)
    return float(np.exp(grid[16]))


def free_energy(variance: Array | float, squares: Array, alpha: float, edge: float, large: int) -> Array:
    """Return the free energy of variances of the noise, `[...]`, up to a constant."""
    variances = np.asarray(variance)
    if variances.size > (few := max(1, AT_ONCE // len(squares))):
        parts = np.split(variances, range(few, len(variances), few))
        return np.concatenate([free_energy(part, squares, alpha, edge, large) for part in parts])
    scale = large * variances[..., None]
    count = int((squares > scale.min() * edge).sum())  # of components that any of these variances keeps
    x, rest = squares[:count] / scale, squares[count:]
    middle = x - (1 + alpha)
    tau = np.where(x > edge, (middle + np.sqrt(np.maximum(middle**2 - 4 * alpha, 0))) / 2, 0.0)
    found: Array = (x - tau + np.log((tau + 1) / x) + alpha * np.log(tau / alpha + 1)).sum(axis=-1)
    scale = scale[..., 0]
    found += rest.sum() / scale - np.log(rest).sum() + len(rest) * np.log(scale)
    return found


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
    target = matrix if root is None else matrix @ root
    wide = len(target) <= target.shape[1]
    short = target if wide else target.T
    vectors = leading(short, rank)
    rest = vectors.T @ short  # each row as long as its singular value
    half = np.sqrt(np.linalg.norm(rest, axis=1))
    scaled, rest = vectors * half, rest / np.maximum(half, TINY)[:, None]
    left, right = (scaled, rest) if wide else (rest.T, scaled.T)
    return left, right if root is None else np.linalg.solve(root.T, right.T).T


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
        count = len(sides)
        pairs = [axis for side in range(count) for axis in (1 + side, 2 + count + side)]
        across = both.transpose(0, 1 + count, *pairs)
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


@dataclass(frozen=True, eq=False)
class Factor:
    """One of the layers that take a layer's place.

    Attributes:
        spec: the layer, without bias.
        weight: of it.
        places: how often it is applied on the example: output pixels or rows.
    """

    spec: LayerSpec
    weight: Array
    places: int


def factors(
    layer: Any, form: Form, rank: Rank, inputs: tuple[int, ...], outputs: tuple[int, ...],
    root: Array | None = None,
) -> list[Factor]:  # fmt: skip
    """Return what takes the place of a linear or convolution layer; one factor alone: its rank is full.

    Args:
        layer: a plain `Linear` or ungrouped `Conv1d`, `Conv2d`, `Conv3d`.
        form: how a convolution of more than single pixels is split; a linear layer has one form.
        rank: how ranks are chosen.
        inputs: shape that it reads on the example.
        outputs: shape that it returns.
        root: of the second moment of what a row of the weight meets, see `split`; linear layers and `channel` alone.
    """
    weight = layer.weight.detach().double().numpy()
    matrix = weight.reshape(len(weight), -1)
    weighed = matrix if root is None else matrix @ root
    if weight.ndim == 2:
        after, chosen = prod(outputs[:-1]), rank.of(weighed)
        left, right = split(weight, chosen, root)
        return [
            Factor(spec_of(layer, out_features=chosen, bias=False), right, after),
            Factor(spec_of(layer, in_features=chosen, bias=False), left, after),
        ]
    before, after = (shape[0] * prod(shape[2:]) for shape in (inputs, outputs))
    if prod(weight.shape[2:]) == 1 or form == "channel":
        chosen = rank.of(weighed)
        first, second = by_channel(weight, chosen, root)
        return [
            Factor(spec_of(layer, out_channels=chosen, bias=False), first, after),
            Factor(_pixel(layer, second), second, after),
        ]
    if form == "spatial" and weight.ndim == 4:
        chosen, half = rank.of(spatial_matrix(weight)), inputs[0] * outputs[2] * inputs[3]
        first, second = by_axis(weight, chosen)
        return [
            Factor(spec_of(layer, out_channels=chosen, bias=False, **_along(layer, 0)), first, half),
            Factor(spec_of(layer, in_channels=chosen, bias=False, **_along(layer, 1)), second, after),
        ]
    return _tucker(layer, weight, rank.of(unfolded(weight, 1)), rank.of(unfolded(weight, 0)), before, after)


def _tucker(layer: Any, weight: Array, rank_in: int, rank_out: int, before: int, after: int) -> list[Factor]:
    """A side of full rank gets no layer of its own."""
    into, core, out = tucker(weight, rank_in, rank_out)
    whole_in, whole_out = rank_in == weight.shape[1], rank_out == weight.shape[0]
    core = np.einsum("pq...,sq->ps...", core, into) if whole_in else core
    core = np.einsum("pq...,tp->tq...", core, out) if whole_out else core
    ones = (1,) * (weight.ndim - 2)
    first, last = into.T.reshape(*into.T.shape, *ones), out.reshape(*out.shape, *ones)
    middle = spec_of(layer, in_channels=rank_in, out_channels=rank_out, bias=False)
    return [
        *([] if whole_in else [Factor(_pixel(layer, first), first, before)]),
        Factor(middle, core, after),
        *([] if whole_out else [Factor(_pixel(layer, last), last, after)]),
    ]


def _pixel(layer: Any, weight: Array) -> LayerSpec:
    """A convolution of single pixels with such a weight."""
    outs, ins, *sides = weight.shape
    arguments = {"in_channels": ins, "out_channels": outs, "kernel_size": sides, "bias": False}
    return LayerSpec(type(layer).__name__, arguments)


def _along(layer: Any, axis: int) -> dict[str, Any]:
    """The arguments of a convolution along one axis alone."""
    kept = {name: [1, 1] for name in ("kernel_size", "stride", "dilation")} | {"padding": [0, 0]}
    for name, values in kept.items():
        if not isinstance(getattr(layer, name), str):
            values[axis] = getattr(layer, name)[axis]
    return kept | ({"padding": layer.padding} if isinstance(layer.padding, str) else {})
