"""Network slimming: the scales of batch norm say which channels matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featherweight.errors import UnsupportedError
from featherweight.task import Task
from featherweight.techniques.saliencies.base import Array, Saliency, Scores

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels, Group
    from featherweight.model import Model


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
    """Return the mean magnitude of the scales of each channel of a group."""
    from featherweight.techniques.reestimate_batchnorm import batch_norms
    from featherweight.techniques.structured.channel_sums import rows

    norms, found = batch_norms(model.module), []
    for member in group.makers:
        path, _, role = member.tensor.rpartition(".")
        if role == "weight" and path in norms:
            found.append(rows(member, model.tensors[member.tensor].detach().double().abs()).mean(axis=1))
    if not found:
        raise UnsupportedError(
            "no batch norm with a scale follows it",
            where=group.name,
            hint="prune before `fold`, or leave the layer out of `where`, or use `magnitude`",
        )
    return np.asarray(np.mean(found, axis=0))
