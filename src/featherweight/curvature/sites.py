"""Layers that multiply a stored weight with patches of one activation: `y = W x + b`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

    def patches(self, inputs: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """Return the vectors that the rows of the weight meet, `[groups, cols, count]`.

        Args:
            inputs: `[..., in]` of a linear layer, `[n, in, ...]` of a convolution.
            kernel: the weight's shape without its first two axes.
        """
        if self.op == "linear":
            return inputs.reshape(-1, inputs.shape[-1]).T[None]
        inputs = F.pad(inputs, self._margins(kernel))
        for axis, (k, s, d) in enumerate(
            zip(kernel, *map(self._each, (self.stride, self.dilation)), strict=True)
        ):
            inputs = inputs.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
        n, channels, dims = inputs.shape[0], inputs.shape[1], len(kernel)
        # [n, channels, places..., k...] to [groups, channels of a group, k..., n, places...]
        grouped = inputs.reshape(n, self.groups, channels // self.groups, *inputs.shape[2:])
        places, taps = range(3, 3 + dims), range(3 + dims, 3 + 2 * dims)
        return grouped.permute(1, 2, *taps, 0, *places).flatten(2 + dims).flatten(1, 1 + dims)

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


def second_moment(
    site: Site, inputs: Tensor, kernel: tuple[int, ...], others: Tensor | None = None
) -> Tensor:
    """Return `sum x x'` over all patches x of `inputs`, float64 `[groups, cols, cols]`.

    Args:
        site: the layer.
        inputs: of the layer.
        kernel: the weight's shape without its first two axes.
        others: inputs of the same shape, whose patches z stand in for the second factor: `sum x z'`.
    """
    # Patches take more room than what they are cut from, unless they are single places: one sample at a time.
    size = len(inputs) if all(k == 1 for k in kernel) else 1
    total = torch.zeros(())
    for start in range(0, len(inputs), size):
        x = site.patches(inputs[start : start + size], kernel)
        z = x if others is None else site.patches(others[start : start + size], kernel)
        total = total + torch.bmm(x, z.transpose(1, 2)).double()
    return total
