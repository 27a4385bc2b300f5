"""Optimal Brain Damage: the diagonal of the curvature, of a weight or summed over a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from featherweight.task import Task
from featherweight.techniques.saliencies.base import Sampled, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class Obd(Sampled, frozen=True, tag="obd"):
    """`1/2 h theta^2` summed over the parameters of a channel, h the diagonal of the curvature of the loss.

    `sparsify` takes it too, of single weights.

    `fisher` takes one backward pass a sample, `gauss_newton` one a sample and output.

    References: LeCun, Denker, Solla, Optimal brain damage, 1989, eq. 5.

    Attributes:
        diagonal: the empirical Fisher information, or the Gauss-Newton diagonal that the paper's recursion computes.
    """

    diagonal: Literal["fisher", "gauss_newton"] = "fisher"

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the sums."""
        from featherweight.techniques.structured.channel_sums import per_channel

        return Scores(per_channel(channels, self.of_parameters(model, task, seed)))

    def of_parameters(self, model: Model, task: Task, seed: int) -> dict[str, Tensor]:
        """Return what the loss loses by each parameter alone."""
        from featherweight.curvature.diagonal import fisher_diagonal, gauss_newton_diagonal

        diagonal = fisher_diagonal if self.diagonal == "fisher" else gauss_newton_diagonal
        h = diagonal(model, task, self.drawn(task, seed))
        return {name: value * model.tensors[name].detach().square() / 2 for name, value in h.items()}
