"""Fisher pruning: the squared derivative of each sample's loss by a gate on a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Sampled, Scores

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class Fisher(Sampled, frozen=True, tag="fisher"):
    """`1/2 g^2` averaged over samples, g the derivative of a sample's loss by a factor on the channel's output.

    The second order of the loss by the empirical Fisher matrix, parameters of a channel together: `taylor` of batches
    of one, `sosp_i` of one channel with the Fisher matrix for Gauss-Newton. One backward pass a batch.

    References: Theis, Korshunova, Tejani, Huszar, Faster gaze prediction with dense networks and Fisher pruning, 2018,
    arXiv 1801.05787.
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the mean squares."""
        from featherweight.curvature.gauss_newton import gate_gradients

        channels = channels.scaled_once()
        total, samples = np.zeros(channels.count), 0
        for found in gate_gradients(model, task, self.drawn(task, seed), channels):
            total += found.square().sum(0).numpy()
            samples += len(found)
        return Scores(total / samples / 2)
