"""Saliencies from derivatives of the loss on labelled samples: Taylor, Fisher, OBD, SOSP-H and SOSP-I."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from featherweight.task import Batch, Needs, Task
from featherweight.techniques.saliencies.base import Saliency, Scores, only_makers, per_channel

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.channels import Channels
    from featherweight.model import Model


class Sampled(Saliency, frozen=True):
    """A saliency from the loss on labelled samples.

    Attributes:
        samples: how many to see, at least; whole batches are taken.
        split: where they come from.
    """

    needs: ClassVar[Needs] = "labelled"
    in_loss: ClassVar[bool] = True
    samples: Annotated[int, Meta(ge=1)] = 1000
    split: Literal["train", "calibration"] = "train"

    def drawn(self, task: Task, seed: int) -> list[Batch]:
        """Return the batches to see."""
        from featherweight.task.sampling import drawn

        return list(drawn(task, self.split, samples=self.samples, seed=seed))


def changes(model: Model, task: Task, batches: Iterable[Batch]) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Yield each parameter times the gradient of a batch's mean loss, and the number of samples."""
    from featherweight.curvature.hvp import gradients

    for gradient, count in gradients(model, task, batches):
        yield {name: value * model.tensors[name].detach() for name, value in gradient.items()}, count


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
        channels = channels.scaled_once()
        total, batches = np.zeros(channels.count), self.drawn(task, seed)
        for change, _ in changes(model, task, batches):
            if self.reduction == "structure":
                total += per_channel(channels, change) ** 2
            else:
                total += per_channel(channels, {name: value.square() for name, value in change.items()})
        return Scores(total / len(batches))


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
        return Scores(per_channel(channels, self.of_parameters(model, task, seed)))

    def of_parameters(self, model: Model, task: Task, seed: int) -> dict[str, Tensor]:
        """Return what the loss loses by each parameter alone."""
        from featherweight.curvature.gauss_newton import fisher_diagonal, gauss_newton_diagonal

        diagonal = fisher_diagonal if self.diagonal == "fisher" else gauss_newton_diagonal
        h = diagonal(model, task, self.drawn(task, seed))
        return {name: value * model.tensors[name].detach().square() / 2 for name, value in h.items()}


class SospH(Sampled, frozen=True, tag="sosp_h"):
    """`|theta_s' g| + 1/2 |theta_s' (H theta_struc)|`, with `theta_struc` the sum of all channels that can go.

    The exact Hessian of the loss, in eval mode. One Hessian-vector product a batch, however many channels there are.

    References: Nonnenmacher, Pfeil, Steinwart, Reeb, SOSP: Efficiently capturing global correlations by
    second-order structured pruning, 2022, arXiv 2110.11395, section 3 (SOSP-H).
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the saliencies."""
        from featherweight.curvature.hvp import hessian_product

        channels = channels.scaled_once()
        theta = only_makers(channels, dict(model.module.named_parameters()))
        found = hessian_product(model, task, self.drawn(task, seed), theta)
        along = [{name: value * by[name] for name, value in theta.items()} for by in found]
        first, second = (np.abs(per_channel(channels, values)) for values in along)
        return Scores(first + second / 2)


class SospI(Sampled, frozen=True, tag="sosp_i"):
    """`sum |theta_s' g| + 1/2 sum theta_s' G theta_t` over the channels s, t removed, G the Gauss-Newton matrix.

    One backward pass a batch and output of the network, or a few along random ones; memory of all pairs of channels.
    Channels are then chosen greedily.

    References: Nonnenmacher, Pfeil, Steinwart, Reeb, SOSP: Efficiently capturing global correlations by
    second-order structured pruning, 2022, arXiv 2110.11395, section 3 (SOSP-I).

    Attributes:
        draws: backward passes a batch; None: one for each output, and G is exact.
    """

    draws: Annotated[int, Meta(ge=1)] | None = None

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the first orders and the matrix of pairs."""
        from featherweight.curvature.gauss_newton import pair_matrix

        channels = channels.scaled_once()
        batches = self.drawn(task, seed)
        total, samples = np.zeros(channels.count), 0
        for change, count in changes(model, task, batches):
            total += per_channel(channels, change) * count
            samples += count
        return Scores(np.abs(total / samples), pair_matrix(model, task, batches, channels, self.draws, seed))
