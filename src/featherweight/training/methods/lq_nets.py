"""LQ-Nets: bases of weights and of activations that follow what they round, by QEM and a moving average."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from featherweight.activations import Affine, BinaryCoded, Quantizer
from featherweight.formats import Basis, Encoded, Format, Int
from featherweight.formats.basis import least_squares, levels
from featherweight.formats.clustered import boundaries
from featherweight.formats.view import Array, join, split
from featherweight.training.methods.base import Method, RangeSurrogate, Surrogate
from featherweight.training.methods.latent import StraightThrough

if TYPE_CHECKING:
    from torch import Tensor

DECAY = 0.9  # share of a basis that stays in a step
RIDGE = 1e-4
QUARTILE = 0.6745  # of normal numbers
WIDEST = 4  # bits of an activation whose levels are learned


class LqNets(Method, frozen=True, tag="lq_nets"):
    """Bases of weights (`Basis`) and of activations follow what they round; no gradient trains them.

    In each step numbers are rounded to the nearest level of the basis `v`; for these codes `B` the basis of least
    squares is `u = (B'B + ridge)^-1 (B'x + ridge v)`, and `v` becomes `0.9 v + 0.1 u`. The ridge, 1e-4, is that
    of the authors' code; here activations have it too. Backward a weight has the identity, an activation 1 below the
    greatest level, else 0.

    An activation that has integers of 1 to 4 bits and a range from zero (behind a ReLU) gets a basis of as many
    numbers, with bits of 0 and 1; others keep their quantizers. Weights in integers (layers of 8 bits, say) train by
    `straight_through`. A product takes `K_w K_a` binary products, for which no
    runtime here has kernels: it is simulated, and computed in float elsewhere.

    References: Zhang, Yang, Ye, Hua, LQ-Nets: learned quantization for highly accurate and compact deep neural
    networks, 2018, arXiv 1807.10029.

    Attributes:
        start: of the bases: `encoded`, as QEM fits the weights, and the grid that `calibrate` gave an activation; or
            `paper`, of weights and activations that are as before training: `0.6745 sqrt(2 / n) / 2**(K - 1) 2**j`, n
            outputs times places of the kernel, and `0.6745 * 2 / (2**K - 1) 2**j`.
    """

    start: Literal["encoded", "paper"] = "encoded"

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return "" if isinstance(format, Basis | Int) else "its weights are those of basis, or integers"

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the float weight, which starts from `weight`, and its basis."""
        if isinstance(encoded.format, Int):
            return StraightThrough().surrogate(weight, encoded)
        return FollowingBasis(weight, encoded, self)

    def range(self, quantizer: Quantizer) -> FollowingLevels | None:
        """Return levels that follow an activation; None if it can be negative, has more bits, or no integers."""
        if not isinstance(quantizer, Affine) or quantizer.range[0] < 0 or quantizer.bits > WIDEST:
            return None
        return FollowingLevels(quantizer, self)


def at_levels(x: Array, basis: Array, lengths: Array, low: int) -> tuple[Array, Array, Array]:
    """Return numbers rounded to the nearest levels, how many have each code, and their sums.

    Args:
        x: float32 `[units, n]`.
        basis: float32 `[units, k]`.
        lengths: how many numbers a unit has, `[units]`.
        low: what a bit that is not set stands for, -1 or 0.
    """
    from featherweight.training.kernels import round_to_levels

    found = levels(basis, low)
    order = np.argsort(found, axis=1, kind="stable")
    rising, rounded = np.take_along_axis(found, order, axis=1), np.empty_like(x)
    sums = np.empty((2, *found.shape))
    round_to_levels(x, boundaries(rising), rising, lengths, rounded, *sums)
    by_code = np.empty_like(sums)
    np.put_along_axis(by_code, order[None], sums, axis=2)
    return rounded, by_code[0], by_code[1]


def followed(basis: Tensor, mass: Array, moment: Array, low: int) -> Tensor:
    """Return the moving average of bases, float32 `[units, k]`, after a step whose codes have these sums."""
    from torch import from_numpy

    old = basis.numpy().astype(np.float64)
    new = least_squares(mass, moment, old, RIDGE, low)
    return from_numpy((DECAY * old + (1 - DECAY) * new).astype(np.float32))


class FollowingBasis(Surrogate):
    """A float weight, which trains, and its basis, `[units, bits]`, which follows it."""

    def __init__(self, weight: Tensor, encoded: Encoded, method: LqNets) -> None:
        from torch import from_numpy, nn

        format, view = encoded.format, encoded.view
        assert isinstance(format, Basis)
        self.format, self.view = format, view
        self.weight = nn.Parameter(weight.detach().clone())
        basis = encoded.parts["basis"].reshape(-1, format.bits).copy()
        if method.start == "paper":
            rows, _, *kernel = *(view.shape[axis] for axis in view.permutation), 1, 1
            scale = QUARTILE * np.sqrt(2 / max(rows * prod(kernel), 1)) / 2 ** (format.bits - 1)
            basis[:] = scale * 2.0 ** np.arange(format.bits)
        self.basis = from_numpy(basis)
        self.lengths = split(np.ones((view.rows, view.cols), np.int64), view, format.per).sum(axis=1)
        self.sums: list[Array] = []  # of the codes that were given last

    def __call__(self) -> Tensor:
        """Return the rounded weight."""
        from torch import from_numpy

        from featherweight.training.gradients import straight_through

        view, per = self.view, self.format.per
        units = split(view.matrix(self.weight.detach().numpy()), view, per)
        rounded, *self.sums = at_levels(units, self.basis.numpy(), self.lengths, low=-1)
        return straight_through(from_numpy(view.tensor(join(rounded, view, per))), self.weight)

    def after_step(self, step: int) -> None:
        """Move the basis towards that of the codes that were given."""
        if self.sums:
            self.basis = followed(self.basis, self.sums[0], self.sums[1], low=-1)

    def freeze(self) -> Encoded:
        """Return the rounded weight: its codes and its basis."""
        parts = {"basis": self.basis.numpy().reshape(self.format.parts(self.view)["basis"].shape).copy()}
        return self.format.encode(self.weight.detach().numpy(), view=self.view, parts=parts)


class FollowingLevels(RangeSurrogate):
    """The basis of an activation, `[bits]`, which follows what is rounded."""

    def __init__(self, quantizer: Affine, method: LqNets) -> None:
        from torch import arange, exp2

        paper = QUARTILE * 2 / ((1 << quantizer.bits) - 1)
        self.basis = (paper if method.start == "paper" else quantizer.scale) * exp2(
            arange(quantizer.bits).float()
        )
        self.clear()

    def clear(self) -> None:
        """Forget what was rounded."""
        self.mass, self.moment = np.zeros((2, 1, 1 << len(self.basis)))

    def __call__(self, x: Tensor) -> Tensor:
        """Return an activation at the nearest levels."""
        from torch import from_numpy

        from featherweight.training.gradients import with_gradient
        from featherweight.training.grids import dense_of, line_of

        dense = dense_of(x)
        line = line_of(dense)
        rounded, mass, moment = at_levels(line, self.basis.numpy()[None], np.array([line.size]), low=0)
        if not np.array_equal(rounded, line):  # what only moved since it was rounded teaches nothing
            self.mass += mass
            self.moment += moment
        value = from_numpy(rounded).as_strided(dense.shape, dense.stride())
        inside = x < self.freeze().range[1]
        return with_gradient(value, (x,), lambda gradient: (gradient * inside,))

    def after_step(self, step: int) -> None:
        """Move the basis towards that of the codes that were given since the last step."""
        if self.mass.any():
            self.basis = followed(self.basis[None], self.mass, self.moment, low=0)[0]
        self.clear()

    def freeze(self) -> BinaryCoded:
        """Return the quantizer as it is now."""
        return BinaryCoded(tuple(self.basis.tolist()))
