"""Saliencies of channels from the network's tensors alone: magnitude, FPGM, network slimming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from featherweight.errors import UnsupportedError
from featherweight.task import Task
from featherweight.techniques.saliencies.base import Array, Saliency, Scores, lamp, per_channel, rows

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels, Group
    from featherweight.model import Model


class Magnitude(Saliency, frozen=True, tag="magnitude"):
    """The L1 or L2 norm of the rows of weights that make a channel, over all coupled layers.

    References: Li, Kadav, Durdanovic, Samet, Graf, Pruning filters for efficient ConvNets, 2017, arXiv 1608.08710,
    section 3.1; Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, 2021, arXiv 2010.07611, eq. 4,
    which is of single weights: of channels it is an adaptation.

    Attributes:
        norm: 1 or 2.
        relative: to what, so that layers of different scale compare: to the `mean` of the group; or, squared, to the
            sum of squares of those that are no less (`lamp`), by which the last channel of a group scores 1.
    """

    norm: Literal[1, 2] = 2
    relative: Literal["mean", "lamp"] | None = "mean"

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the norms."""
        weights = {name: tensor for name, tensor in model.tensors.items() if tensor.dim() > 1}
        powers = per_channel(channels, {name: tensor.abs() ** self.norm for name, tensor in weights.items()})
        norms = powers ** (1 / self.norm)
        if self.relative == "lamp":
            return Scores(np.concatenate([lamp(group) for group in channels.split(norms)]))
        return Scores(norms if self.relative is None else relative_to_group(norms, channels))


def relative_to_group(values: Array, channels: Channels) -> Array:
    """Return each channel's value over the mean of its group; zeros stay zeros."""
    count = len(channels.groups)
    means = np.bincount(channels.group_of, values, count) / np.bincount(channels.group_of, minlength=count)
    return values / np.where(means > 0, means, 1)[channels.group_of]


class Fpgm(Saliency, frozen=True, tag="fpgm"):
    """The sum of distances of a filter to all others of its layer, over coupled layers, relative to their mean.

    Filters near the geometric median of their layer can be replaced by the others.

    References: He, Liu, Wang, Hu, Yang, Filter pruning via geometric median, 2019, arXiv 1811.00250, eq. 6.
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the sums of distances."""
        found = []
        for group in channels.groups:
            weights = [member for member in group.makers if model.tensors[member.tensor].dim() > 1]
            total = np.zeros(group.size)
            for member in weights:
                total += distances(rows(member, model.tensors[member.tensor].detach().double()))
            found.append(total)
        return Scores(relative_to_group(np.concatenate(found), channels))


def distances(filters: Array) -> Array:
    """Return the sum of Euclidean distances of each row to all rows.

    >>> distances(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])).tolist()
    [5.0, 10.0, 5.0]
    """
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(filters, filters).sum(axis=1))


class Slimming(Saliency, frozen=True, tag="slimming"):
    """The magnitude of a channel's scale in batch norm; the mean, where coupled layers have one each.

    The paper trains with an L1 penalty on the scales before, which this package does not do.

    References: Liu, Li, Shen, Huang, Yan, Zhang, Learning efficient convolutional networks through network slimming,
    2017, arXiv 1708.06519, section 3.
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the magnitudes.

        Raises:
            UnsupportedError: channels that can go have no batch norm.
        """
        return Scores(np.concatenate([scales(model, group) for group in channels.groups]))


def scales(model: Model, group: Group) -> Array:
    """Return the mean magnitude of the batch-norm scales of each channel of a group."""
    from featherweight.techniques.reestimate_batchnorm import batch_norms

    norms, found = batch_norms(model.module), []
    for member in group.makers:
        path, _, role = member.tensor.rpartition(".")
        if role == "weight" and path in norms:
            found.append(rows(member, model.tensors[member.tensor].detach().double().abs()).mean(axis=1))
    if not found:
        raise UnsupportedError(
            "no batch norm with a scale follows it", where=group.name,
            hint="prune before `fold`, or leave the layer out of `where`, or use `magnitude`",
        )  # fmt: skip
    return np.asarray(np.mean(found, axis=0))
