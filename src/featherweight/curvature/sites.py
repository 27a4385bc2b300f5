"""Layers that multiply a stored weight with patches of one activation: `y = W x + b`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.graph import Graph, Node

DIMENSIONS = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}


@dataclass(frozen=True)
class Site:
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
    """

    weight: str
    bias: str | None
    edge: str
    op: str
    groups: int = 1
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] | str = (0,)
    dilation: tuple[int, ...] = (1,)

    def output(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the layer makes of its `inputs` by a weight and a bias."""
        if self.op == "linear":
            return F.linear(inputs, weight, bias)
        convolution = getattr(F, self.op)
        made: Tensor = convolution(
            inputs, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        return made

    def patches(self, inputs: Tensor, kernel: tuple[int, ...], places: int | None = None) -> Tensor:
        """Return the vectors that the rows of the weight meet, `[groups, cols, count]`.

        Args:
            inputs: `[..., in]` of a linear layer, `[n, in, ...]` of a convolution.
            kernel: the weight's shape without its first two axes.
            places: of each sample, about as many at most, evenly spaced; None: all.
        """
        if self.op == "linear":
            return thinned(inputs, range(1, inputs.dim() - 1), places).reshape(-1, inputs.shape[-1]).T[None]
        if any(margins := self._margins(kernel)):
            inputs = F.pad(inputs, margins)
        for axis, (k, s, d) in enumerate(
            zip(kernel, *map(self._each, (self.stride, self.dilation)), strict=True)
        ):
            inputs = inputs.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
        n, channels, dims = inputs.shape[0], inputs.shape[1], len(kernel)
        inputs = thinned(inputs, range(2, 2 + dims), places)
        # [n, channels, places..., k...] to [groups, channels of a group, k..., n, places...]
        grouped = inputs.reshape(n, self.groups, channels // self.groups, *inputs.shape[2:])
        spatial, taps = range(3, 3 + dims), range(3 + dims, 3 + 2 * dims)
        return grouped.permute(1, 2, *taps, 0, *spatial).flatten(2 + dims).flatten(1, 1 + dims)

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
        return tuple(sizes) if len(sizes) > 1 else tuple(sizes) * DIMENSIONS[self.op]


def sites(graph: Graph) -> tuple[dict[str, Site], dict[str, str]]:
    """Return the site of each weight that has one, in order of execution, and why the others have none."""
    found: dict[str, Site] = {}
    without: dict[str, str] = {}
    for node in graph.nodes:
        roles = dict(node.roles)
        name = roles.get("weight", "")
        if node.op in DIMENSIONS and name and len(node.inputs) == 1:
            if len(graph.readers(name)) > 1:
                without[name] = "it is used more than once"
            else:
                found[name] = _site(node, roles)
    for node in graph.nodes:
        for name in node.tensors:
            if name not in found:
                without.setdefault(name, f"{node.op} does not multiply it with patches of an activation")
    return found, without


def _site(node: Node, roles: Mapping[str, str]) -> Site:
    arguments = dict(node.arguments)
    options: dict[str, Any] = {
        name: arguments[name] for name in ("groups", "stride", "padding", "dilation") if name in arguments
    }
    return Site(roles["weight"], roles.get("bias"), node.name, node.op, **options)


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


def second_moment(
    site: Site,
    inputs: Tensor,
    kernel: tuple[int, ...],
    others: Tensor | None = None,
    *,
    places: int | None = None,
) -> Tensor:
    """Return `sum x x'` over all patches x of `inputs`, float64 `[groups, cols, cols]`.

    Args:
        site: the layer.
        inputs: of the layer.
        kernel: the weight's shape without its first two axes.
        others: inputs of the same shape, whose patches z stand in for the second factor: `sum x z'`.
        places: of each sample; see `Site.patches`.
    """
    # Patches take more room than what they are cut from, unless they are single or few: one sample at a time.
    size = len(inputs) if places is not None or all(k == 1 for k in kernel) else 1
    total = torch.zeros(())
    for start in range(0, len(inputs), size):
        x = site.patches(inputs[start : start + size], kernel, places)
        z = x if others is None else site.patches(others[start : start + size], kernel, places)
        total = total + torch.bmm(x, z.transpose(1, 2)).double()
    return total
