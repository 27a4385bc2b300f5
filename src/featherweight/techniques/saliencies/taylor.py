"""Taylor: the first-order change of the loss when a channel is removed, squared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Sampled, Scores

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class Taylor(Sampled, frozen=True, tag="taylor"):
    """The squared product of parameters and their gradient, of each batch, averaged over batches.

    `structure` squares the sum over a channel's parameters, which is the derivative by a gate on the channel;
    `parameters` sums the squares. They rank differently. How large the batches are matters to both.

    References: Molchanov, Mallya, Tyree, Frosio, Kautz, Importance estimation for neural network pruning, 2019,
    arXiv 1906.10771, eq. 8.

    Attributes:
        reduction: what is squared.
    """

    reduction: Literal["structure", "parameters"] = "structure"

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the mean squares."""
        from featherweight.curvature.hvp import gradients
        from featherweight.techniques.structured.channel_sums import per_channel

        channels = channels.scaled_once()
        total, batches = np.zeros(channels.count), self.drawn(task, seed)
        for gradient, _ in gradients(model, task, batches):
            change = {name: value * model.tensors[name].detach() for name, value in gradient.items()}
            if self.reduction == "structure":
                total += per_channel(channels, change) ** 2
            else:
                total += per_channel(channels, {name: value.square() for name, value in change.items()})
        return Scores(total / len(batches))
