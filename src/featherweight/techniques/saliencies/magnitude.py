"""Magnitude: the norm of the weights that make a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from featherweight.task import Task
from featherweight.techniques.masks import lamp
from featherweight.techniques.saliencies.base import Array, Saliency, Scores

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
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
        from featherweight.techniques.structured.channel_sums import per_channel

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
