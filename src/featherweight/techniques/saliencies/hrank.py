"""HRank: channels whose feature maps are of low rank carry little."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec
import numpy as np

from featherweight.errors import UnsupportedError
from featherweight.graph.operators import operator
from featherweight.task import Needs, Task
from featherweight.techniques.saliencies.base import Array, Saliency, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph import Graph
    from featherweight.graph.channels import Channels
    from featherweight.model import Model

# By edge, where the maps of channels are on it `[channels, n]`, by the number of their group.
Places = dict[str, dict[int, Array]]


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
    samples: Annotated[int, msgspec.Meta(ge=1)] = 128
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
        return Scores(gathered(channels, places, totals) / len(batches))


def maps(graph: Graph, channels: Channels) -> Places:
    """Return where the maps of channels are.

    Raises:
        UnsupportedError: channels that can go are no images.
    """
    shapes = {node.name: node.shape for node in graph.nodes}
    found: Places = {}
    for number, group in enumerate(channels.groups):
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


def gathered(channels: Channels, places: Places, totals: Mapping[str, Array]) -> Array:
    """Return the mean over its maps of what each channel `[channels.count]` has."""
    found: list[list[Array]] = [[] for _ in channels.groups]
    for edge, groups in places.items():
        for number, index in groups.items():
            found[number].append(totals[edge][index].mean(axis=1))
    return np.concatenate([np.mean(own, axis=0) for own in found])
