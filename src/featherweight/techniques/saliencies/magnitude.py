"""Magnitude: the norm of the weights that make a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Array, Saliency, Scores

if TYPE_CHECKING:
    from featherweight.graph.groups import Channels
    from featherweight.model import Model


class Magnitude(Saliency, frozen=True, tag="magnitude"):
    """The L1 or L2 norm of the rows of weights that make a channel, over all coupled layers.

    References: Li, Kadav, Durdanovic, Samet, Graf, Pruning filters for efficient ConvNets, 2017, arXiv 1608.08710,
    section 3.1.

    Attributes:
        norm: 1 or 2.
        relative: divide by the mean of the group, so that layers of different scale compare.
    """

    norm: Literal[1, 2] = 2
    relative: bool = True

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the norms."""
        from featherweight.techniques.structured.theta import per_channel

        weights = {name: tensor for name, tensor in model.tensors.items() if tensor.dim() > 1}
        powers = per_channel(channels, {name: tensor.abs() ** self.norm for name, tensor in weights.items()})
        norms = powers ** (1 / self.norm)
        return Scores(relative_to_group(norms, channels) if self.relative else norms)


def relative_to_group(values: Array, channels: Channels) -> Array:
    """Return each channel's value over the mean of its group; zeros stay zeros."""
    count = len(channels.groups)
    means = np.bincount(channels.group_of, values, count) / np.bincount(channels.group_of, minlength=count)
    return values / np.where(means > 0, means, 1)[channels.group_of]
