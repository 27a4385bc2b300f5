"""Layers that multiply a stored weight with patches of one activation, `y = W x + b`, and the moments of these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.formats.sweep import damped, shift
from featherweight.formats.view import Array
from featherweight.graph import Graph
from featherweight.graph.operators import operator

# Inputs of a layer, batch by batch: in the network as it was, and as it is after the changes so far.
Pairs = Iterable[tuple[Tensor, Tensor]]

MARGIN = -1  # the place of what is padded
OPTIONS = ("groups", "stride", "padding", "dilation")  # of a convolution


@dataclass(frozen=True)
class LinearOp:
    """The one place where a weight is used.

    Attributes:
        weight: canonical name of `[out, in]`, or `[out, in / groups, k...]`.
        bias: of `[out]`, or None.
        edge: what it produces.
        op: `linear`, `conv1d`, `conv2d` or `conv3d`.
        groups: blocks of channels that share nothing.
        stride: of a convolution; of each spatial axis, or of all.
        padding: likewise; or `same`, `valid`.
        dilation: likewise.
        source: the edge that it reads.
    """

    weight: str
    bias: str | None
    edge: str
    op: str
    groups: int = 1
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] | str = (0,)
    dilation: tuple[int, ...] = (1,)
    source: str = ""

    def output(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the layer makes of its `inputs` by a weight and a bias."""
        if self.op == "linear":
            return F.linear(inputs, weight, bias)
        options = self.stride, self.padding, self.dilation, self.groups
        made: Tensor = getattr(F, self.op)(inputs, weight, bias, *options)
        return made

    def patches(self, inputs: Tensor, kernel: tuple[int, ...], places: int | None = None) -> Patches:
        """Return the vectors that the rows of the weight meet.

        Args:
            inputs: `[..., in]` of a linear layer, `[n, in, ...]` of a convolution.
            kernel: the weight's shape without its first two axes.
            places: of each sample, about as many at most, evenly spaced; None: all.
        """
        if self.op == "linear":
            lines = thinned(inputs, range(1, inputs.dim() - 1), places).reshape(-1, inputs.shape[-1])
            return Patches(lines, torch.arange(len(lines))[:, None], 1)
        every = inputs.movedim(1, -1)  # a view where the channels are last in memory, as they mostly are
        position = torch.arange(prod(every.shape[:-1])).reshape(every.shape[:-1])
        position = F.pad(position, self._margins(kernel), value=MARGIN)
        starts = torch.arange(position.numel()).reshape(position.shape)
        taps = starts[0]
        sizes = zip(kernel, self._each(self.stride), self._each(self.dilation), strict=True)
        for axis, (k, s, d) in enumerate(sizes):
            span = d * (k - 1) + 1
            starts = starts.narrow(1 + axis, 0, starts.shape[1 + axis] - span + 1)
            starts = starts[(*[slice(None)] * (1 + axis), slice(None, None, s))]
            taps = taps[(*[slice(None)] * axis, slice(0, span, d))]
        starts = thinned(starts, range(1, starts.dim()), places)
        index = position.reshape(-1)[starts.reshape(-1, 1) + taps.reshape(1, -1)]
        return Patches(every.reshape(-1, every.shape[-1]), index, self.groups)

    def _margins(self, kernel: tuple[int, ...]) -> list[int]:
        """Zeros before and after each axis, the last axis first, as `pad` takes them."""
        if self.padding == "same":
            whole = [d * (k - 1) for k, d in zip(kernel, self._each(self.dilation), strict=True)]
            pairs = [(n // 2, n - n // 2) for n in whole]
        else:
            pairs = [(n, n) for n in self._each((0,) if self.padding == "valid" else self.padding)]
        return [n for pair in reversed(pairs) for n in pair]

    def _each(self, sizes: Any) -> tuple[int, ...]:
        """One number an axis: torch takes one for all."""
        return tuple(sizes) if len(sizes) > 1 else tuple(sizes) * (operator(self.op).axes or 0)


def linear_ops(graph: Graph) -> tuple[dict[str, LinearOp], dict[str, str]]:
    """Return the operation of each weight that has one, in order of execution, and why the others have none."""
    found: dict[str, LinearOp] = {}
    without: dict[str, str] = {}
    for node in graph.nodes:
        roles = node.roles
        name = roles.get("weight", "")
        if operator(node.op).integer == "layer" and name and len(node.inputs) == 1:
            if len(graph.readers(name)) > 1:
                without[name] = "it is used more than once"
            else:
                options: dict[str, Any] = {key: node.options[key] for key in OPTIONS if key in node.options}
                found[name] = LinearOp(
                    name, roles.get("bias"), node.name, node.op, source=node.inputs[0], **options
                )
    for node in graph.nodes:
        for name in node.tensors:
            if name not in found:
                without.setdefault(name, f"{node.op} does not multiply it with patches of an activation")
    return found, without


def thinned(values: Tensor, axes: range, most: int | None) -> Tensor:
    """Return about `most` evenly spaced places along `axes` of `values`, or all there are; None: all.

    >>> thinned(torch.arange(100).reshape(10, 10), range(2), 4).tolist()
    [[22, 27], [72, 77]]
    """
    count = prod(values.shape[axis] for axis in axes)
    if most is None or count <= most:
        return values
    step = ceil((count / most) ** (1 / len(axes)))
    for axis in axes:
        first = min(step, values.shape[axis]) // 2
        values = values[(*[slice(None)] * axis, slice(first, None, step))]
    return values


@dataclass(frozen=True, eq=False)
class Patches:
    """What the rows of a weight meet, each patch as places in a list of vectors: neighbours share most of theirs.

    Attributes:
        lines: the channels at every place, `[n, in]`.
        index: of the places that a patch is made of, in the order of the kernel's taps, `[count, taps]`; `MARGIN`:
            zeros.
        groups: blocks of channels that share nothing.
    """

    lines: Tensor
    index: Tensor
    groups: int

    def written_out(self) -> Tensor:
        """Return `[groups, count, taps * channels of a group]`."""
        found, outside = self.lines[self.index], self.index == MARGIN
        if outside.any():
            found[outside] = 0
        width = self.lines.shape[1] // self.groups
        return found.reshape(*self.index.shape, self.groups, width).permute(2, 0, 1, 3).flatten(2)

    def total(self) -> Tensor:
        """Return the sum of the patches, float64 `[groups, cols]`; the columns are the weight's, as of `product`."""
        padded = torch.cat([self.lines, self.lines.new_zeros(1, self.lines.shape[1])])
        index = torch.where(self.index == MARGIN, len(self.lines), self.index)
        taps = torch.stack(
            [padded[index[:, tap]].sum(0, dtype=torch.double) for tap in range(index.shape[1])]
        )
        return taps.reshape(len(taps), self.groups, -1).permute(1, 2, 0).flatten(1)

    def product(self, others: Patches) -> Tensor:
        """Return `sum x z'` over the patches x of these and z of others, `[groups, cols, cols]`.

        The columns are the weight's: channels, of each the taps.
        """
        taps, width = self.index.shape[1], self.lines.shape[1] // self.groups
        if width == 1 and taps > 1:  # each channel is a group: nothing need be written out
            from featherweight.curvature.linear_ops_loop import multiply_taps

            total = np.empty((self.groups, taps, taps), np.float32)
            x, z = (np.ascontiguousarray(lines.numpy(), np.float32) for lines in (self.lines, others.lines))
            multiply_taps(x, z if others is not self else z[:0], self.index.numpy(), total)
            return torch.from_numpy(total)
        left = self.written_out()
        right = left if others is self else others.written_out()
        by_taps: Tensor = torch.bmm(left.transpose(1, 2), right).reshape(-1, taps, width, taps, width)
        return by_taps.permute(0, 2, 1, 4, 3).reshape(-1, taps * width, taps * width)


def second_moment(
    layer: LinearOp, inputs: Tensor, kernel: tuple[int, ...], others: Tensor | None = None,
    *, places: int | None = None,
) -> Tensor:  # fmt: skip
    """Return `sum x x'` over all patches x of `inputs`, float64 `[groups, cols, cols]`.

    Args:
        layer: the layer.
        inputs: of the layer.
        kernel: the weight's shape without its first two axes.
        others: inputs of the same shape, whose patches z stand in for the second factor: `sum x z'`.
        places: of each sample; see `LinearOp.patches`.
    """
    # Patches take more room than what they are cut from, unless they are single or few: one sample at a time.
    size = len(inputs) if places is not None or all(k == 1 for k in kernel) else 1
    total: Tensor | None = None
    for start in range(0, len(inputs), size):
        x = layer.patches(inputs[start : start + size], kernel, places)
        z = x if others is None else layer.patches(others[start : start + size], kernel, places)
        total = added(total, x.product(z))
    return torch.zeros((), dtype=torch.double) if total is None else total


def added(total: Tensor | None, more: Tensor) -> Tensor:
    """Return the sum in float64, in the memory of `total`: of large matrices there is one copy."""
    return more.double() if total is None else total.add_(more)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over all patches x of a layer's inputs as they are, and x + d as they were in the float network.

    Attributes:
        hessian: `sum x x'`, float64 `[groups, cols, cols]`.
        drift: `sum d x'`, likewise; None: nothing drifted.
    """

    hessian: Array
    drift: Array | None

    def diagonal(self, rows: int, damping: float) -> Array:
        """Return what a squared error of each weight costs, `[rows, cols]`."""
        diagonal = np.einsum("gii->gi", self.hessian) + shift(self.hessian, damping)[:, None]
        return np.repeat(diagonal, rows // len(diagonal), axis=0)

    def target(self, weight: Array, damping: float) -> Array:
        """Return the matrix `[rows, cols]` whose outputs on the inputs as they are come nearest to the float ones.

        That is `W + W D (H + damping)^-1` with the drift D: the ridge regression of the float outputs `W (x + d)`
        on x that is drawn toward W. Squared errors of a quantized layer against the float outputs are those
        against this matrix, up to a constant.
        """
        if self.drift is None:
            return weight
        blocks = weight.reshape(len(self.hessian), -1, weight.shape[1])
        moved = np.linalg.solve(damped(self.hessian, damping), (blocks @ self.drift).transpose(0, 2, 1))
        shifted: Array = weight + moved.transpose(0, 2, 1).reshape(weight.shape)
        return shifted


def moments(
    layer: LinearOp, pairs: Pairs, kernel: tuple[int, ...], *, drift: bool, places: int | None = None
) -> Moments:
    """Return the moments of a layer's inputs, batch by batch.

    Args:
        layer: the layer.
        pairs: its inputs in the float network, and as they are.
        kernel: the weight's shape without its first two axes.
        drift: whether to sum the drift as well.
        places: of each sample to see, about; None: all.

    Returns:
        sums that are finite: of inputs too large for squares in float32, those of the inputs over the greatest, which
        is the same problem.

    Raises:
        UnsupportedError: the inputs hold NaN or infinity.
    """

    def summed(pairs: Pairs) -> Moments:
        hessian: Tensor | None = None
        moved: Tensor | None = None
        for before, now in pairs:
            hessian = added(hessian, second_moment(layer, now, kernel, places=places))
            if drift and before is not now:
                moved = added(moved, second_moment(layer, before - now, kernel, now, places=places))
        assert hessian is not None, "a prefix has inputs"
        return Moments(hessian.numpy(), None if moved is None else moved.numpy())

    found = summed(pairs)
    if not np.isfinite(found.hessian).all() or not (found.drift is None or np.isfinite(found.drift).all()):
        largest = max(float(part.abs().max()) for pair in pairs for part in pair)
        found = summed((a / largest, b / largest) for a, b in pairs)
    return found
