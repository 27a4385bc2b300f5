"""Saliencies of channels without derivatives: magnitude, FPGM, network slimming, and the ranks of HRank."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import UnsupportedError
from featherweight.formats.view import Array
from featherweight.graph.operators import operator
from featherweight.task import Needs, Task
from featherweight.techniques.saliencies.base import Saliency, Scores, lamp, per_channel, rows

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph import Graph
    from featherweight.graph.channels import Channels
    from featherweight.model import Model

# By edge, where the maps of channels are on it `[channels, n]`, by the number of their group.
Places = dict[str, dict[int, Array]]


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


class Fpgm(Saliency, frozen=True, tag="fpgm"):
    """The sum of distances of a filter to all others of its layer, over coupled layers, relative to their mean.

    Filters near the geometric median of their layer can be replaced by the others.

    References: He, Liu, Wang, Hu, Yang, Filter pruning via geometric median, 2019, arXiv 1811.00250, eq. 6.
    """

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the sums of distances."""
        found = []
        for group in channels.groups:
            weights = {m: model.tensors[m.tensor].detach() for m in group.makers}
            filters = [rows(m, weight.double()) for m, weight in weights.items() if weight.dim() > 1]
            found.append(sum(map(distances, filters), np.zeros(group.size)))
        return Scores(relative_to_group(np.concatenate(found), channels))


def distances(filters: Array) -> Array:
    """Return the sum of Euclidean distances of each row to all rows.

    >>> distances(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])).tolist()
    [5.0, 10.0, 5.0]
    """
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(filters, filters).sum(axis=1))


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
        from featherweight.techniques.corrections import batch_norms

        scales, means = {f"{path}.weight" for path in batch_norms(model.module)}, []
        for group in channels.groups:
            makers = {m: model.tensors[m.tensor].detach() for m in group.makers if m.tensor in scales}
            if not makers:
                raise UnsupportedError(
                    "no batch norm with a scale follows it", where=group.name,
                    hint="prune before `fold`, or leave the layer out of `where`, or use `magnitude`",
                )  # fmt: skip
            found = [rows(m, scale.double().abs()).mean(axis=1) for m, scale in makers.items()]
            means.append(np.mean(found, axis=0))
        return Scores(np.concatenate(means))


class Hrank(Saliency, frozen=True, tag="hrank"):
    """The mean rank of a channel's feature map, after batch norm and activation, over its side.

    Where coupled layers have a map each, the mean over them. The paper sets each layer's share of channels by hand;
    here ranks are over the greatest there can be, the shorter side of a map, so that layers compare.

    References: Lin et al., HRank: Filter pruning using high-rank feature map, 2020, arXiv 2002.10179, section 3.

    Attributes:
        samples: how many to see, at least; whole batches are taken.
        split: where they come from.
    """

    needs: ClassVar[Needs] = "unlabelled"
    samples: Annotated[int, Meta(ge=1)] = 128
    split: Literal["train", "calibration"] = "calibration"

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the mean ranks.

        Raises:
            UnsupportedError: channels that can go are no images.
            TaskError: a feature map holds NaN or infinity; names the batch.
        """
        from featherweight.capture.execution import Execution
        from featherweight.capture.pytree import flatten_inputs
        from featherweight.task.sampling import check_finite, drawn

        program = model.program(task.example())
        places = maps(program.graph, channels)
        totals: dict[str, Array] = {}

        def visit(number: int, edge: str, value: Tensor) -> Tensor:
            if edge in places:
                inputs = task.inputs(batches[number])
                check_finite([value], "feature maps", where=task.name, batch=number, inputs=inputs)
                totals[edge] = totals.get(edge, 0) + ranks(value).mean(0).numpy()
            return value

        batches = list(drawn(task, self.split, samples=self.samples, seed=seed))
        for number, batch in enumerate(batches):
            Execution(program, partial(visit, number))(flatten_inputs(model.module, task.inputs(batch)))
        found: list[list[Array]] = [[] for _ in channels.groups]  # of each group, on each of its edges
        for edge, groups in places.items():
            for group, index in groups.items():
                found[group].append(totals[edge][index].mean(axis=1))
        return Scores(np.concatenate([np.mean(own, axis=0) for own in found]) / len(batches))


def maps(graph: Graph, channels: Channels) -> Places:
    """Return where the maps of channels are.

    Raises:
        UnsupportedError: channels that can go are no images.
    """
    shapes = {node.name: node.shape for node in graph.nodes}
    found: Places = {}
    for number, group in enumerate(channels.groups):
        if group.heads:
            raise UnsupportedError(
                "its channels are heads of attention, which have no feature map", where=group.name,
                hint="leave the layer out of `where`",
            )  # fmt: skip
        for member in group.makers:
            for node in graph.readers(member.tensor) if member.tensor.endswith(".weight") else ():
                edge = activated(graph, node.name)
                if len(shapes[edge]) != 4:
                    raise UnsupportedError(
                        "its channels are no images, which have a rank", where=group.name,
                        got=list(shapes[edge]), hint="leave the layer out of `where`",
                    )  # fmt: skip
                found.setdefault(edge, {})[number] = member.index
    return found


def activated(graph: Graph, edge: str) -> str:
    """Return what batch norm and an activation make of `edge`, where nothing else reads it."""
    while True:
        readers = graph.consumers(edge)
        if len(readers) != 1 or not (readers[0].op == "batch_norm" or operator(readers[0].op).activation):
            return edge
        edge = readers[0].name


def ranks(maps: Tensor) -> Tensor:
    """Return the rank of each of `maps: [n, channels, h, w]` over the shorter of its sides, `[n, channels]`.

    >>> import torch
    >>> ranks(torch.stack([torch.eye(4), torch.ones(4, 4)])[None]).tolist()
    [[1.0, 0.25]]
    """
    import torch

    found: Tensor = torch.linalg.matrix_rank(maps.float()).double()
    return found / min(maps.shape[2:])
