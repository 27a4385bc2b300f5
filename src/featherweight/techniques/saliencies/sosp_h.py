"""SOSP-H: the second order of removing a channel together with all others, by Hessian-vector products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Sampled, Scores

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class SospH(Sampled, frozen=True, tag="sosp_h"):
    """`|theta_s' g| + 1/2 |theta_s' (H theta_struc)|`, with `theta_struc` the sum of all channels that can go.

    The exact Hessian of the loss, in eval mode. One Hessian-vector product a batch, however many channels there are.

    References: Nonnenmacher, Pfeil, Steinwart, Reeb, SOSP: Efficiently capturing global correlations by
    second-order structured pruning, 2022, arXiv 2110.11395, section 3 (SOSP-H).
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the saliencies."""
        from featherweight.curvature.hvp import hessian_product
        from featherweight.techniques.structured.channel_sums import only_makers, per_channel

        channels = channels.scaled_once()
        theta = only_makers(channels, dict(model.module.named_parameters()))
        found = hessian_product(model, task, self.drawn(task, seed), theta)
        first = per_channel(channels, {name: value * found.gradient[name] for name, value in theta.items()})
        second = per_channel(channels, {name: value * found.product[name] for name, value in theta.items()})
        return Scores(np.abs(first) + np.abs(second) / 2)
