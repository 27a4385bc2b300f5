"""What a saliency is: a frozen value that scores every channel of a network; sums over channels; masks of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from featherweight.checked import Options
from featherweight.formats.view import Array
from featherweight.task import Needs, Task
from featherweight.techniques.encode import finite

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.channels import Channels, Member
    from featherweight.model import Model

# [n, m]: of every m neighbours in a row at most n are not zero.
Pattern = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Scores:
    """What removing channels is thought to cost; least first to go.

    Attributes:
        linear: cost of each channel alone `[channels]`.
        pair: symmetric `[channels, channels]`; removing a set M costs the sum of `linear` over M and half the sum
            of `pair` over M x M. None: costs add up.
    """

    linear: Array
    pair: Array | None = None


class Saliency(Options, frozen=True, tag_field="saliency", omit_defaults=True):
    """How much a channel matters. A pure function of model, data and seed; in eval mode.

    A channel is all parameters that make it: rows of weights, biases, scales and shifts of batch norm.

    Attributes:
        in_loss: whether scores tell what is lost; then those go first that lose least for what they save.
    """

    needs: ClassVar[Needs] = "none"
    in_loss: ClassVar[bool] = False

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the scores of all channels."""
        raise NotImplementedError


def per_channel(channels: Channels, values: Mapping[str, Tensor]) -> Array:
    """Return the sum of `values` over the parameters that make each channel `[channels.count]`, in float64.

    `values` has a tensor of its shape for each parameter; what is missing counts as zero.
    """
    sums = []
    for group in channels.groups:
        total = np.zeros(group.size)
        for member in group.makers:
            if member.tensor in values:
                total += rows(member, values[member.tensor].detach().double()).sum(axis=1)
        sums.append(total)
    return np.concatenate(sums) if sums else np.zeros(0)


def rows(member: Member, value: Tensor) -> Array:
    """Return what a tensor holds of each channel `[channels, ...]`, flattened."""
    found: Array = value.movedim(member.axis, 0).reshape(value.shape[member.axis], -1).numpy()
    return found[member.index].reshape(len(member.index), -1)


def only_makers(channels: Channels, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `values` with zeros wherever a parameter makes no channel; parameters that make none are left out."""
    import torch

    found: dict[str, Tensor] = {}
    for group in channels.groups:
        for member in group.makers:
            if member.tensor in values:
                value = values[member.tensor].detach()
                index = torch.from_numpy(member.index.reshape(-1))
                kept = found.setdefault(member.tensor, torch.zeros_like(value))
                kept.index_copy_(member.axis, index, value.index_select(member.axis, index))
    return found


def matrix(model: Model, name: str) -> Array:
    """Return a tensor as the matrix of its view, float32 `[rows, cols]`.

    Raises:
        UnsupportedError: it holds NaN or infinity.
    """
    return model.views[name].matrix(finite(model.tensors[name].detach().float().numpy(), name))


def masked(model: Model, name: str, gone: Array) -> Tensor:
    """Return a tensor with zeros where `gone: [rows, cols]` of its matrix is true."""
    from torch import from_numpy

    return model.tensors[name].detach().masked_fill(from_numpy(model.views[name].tensor(gone)), 0.0)


def chosen(saliency: Array, sparsity: float, pattern: Pattern | None) -> Array:
    """Return where the `sparsity` share of least `saliency: [rows, cols]` is; or what is outside the pattern."""
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
    """Return where the `sparsity` share of least saliency of all tensors is; `relative`: of least LAMP scores."""
    flat = [(lamp(values) if relative else values).reshape(-1) for values in saliency.values()]
    masks = np.split(least(np.concatenate(flat), sparsity), np.cumsum([part.size for part in flat])[:-1])
    return {name: mask.reshape(saliency[name].shape) for name, mask in zip(saliency, masks, strict=True)}


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
