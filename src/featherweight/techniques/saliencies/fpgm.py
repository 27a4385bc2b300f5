"""FPGM: filters nearest to the geometric median of their layer are replaceable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Array, Saliency, Scores
from featherweight.techniques.saliencies.magnitude import relative_to_group

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class Fpgm(Saliency, frozen=True, tag="fpgm"):
    """The sum of distances of a filter to all others of its layer, over coupled layers, relative to their mean.

    References: He, Liu, Wang, Hu, Yang, Filter pruning via geometric median, 2019, arXiv 1811.00250, eq. 6.
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the sums of distances."""
        from featherweight.techniques.structured.channel_sums import rows

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
