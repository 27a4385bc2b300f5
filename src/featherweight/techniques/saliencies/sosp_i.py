"""SOSP-I: the second order of every pair of channels, by the Gauss-Newton form; channels are then chosen greedily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Sampled, Scores

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class SospI(Sampled, frozen=True, tag="sosp_i"):
    """`sum |theta_s' g| + 1/2 sum theta_s' G theta_t` over the channels s, t removed, G the Gauss-Newton matrix.

    One backward pass a batch and output of the network, or a few along random ones; memory of all pairs of channels.

    References: Nonnenmacher, Pfeil, Steinwart, Reeb, SOSP: Efficiently capturing global correlations by
    second-order structured pruning, 2022, arXiv 2110.11395, section 3 (SOSP-I).

    Attributes:
        draws: backward passes a batch; None: one for each output, and G is exact.
    """

    draws: Annotated[int, Meta(ge=1)] | None = None

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the first orders and the matrix of pairs."""
        from featherweight.curvature.gauss_newton import pair_matrix
        from featherweight.curvature.hvp import gradients
        from featherweight.techniques.structured.channel_sums import per_channel

        channels = channels.scaled_once()
        batches = self.drawn(task, seed)
        total, samples = np.zeros(channels.count), 0
        for gradient, count in gradients(model, task, batches):
            change = {name: value * model.tensors[name].detach() for name, value in gradient.items()}
            total += per_channel(channels, change) * count
            samples += count
        return Scores(np.abs(total / samples), pair_matrix(model, task, batches, channels, self.draws, seed))
