"""Distillation by features: what a network computes on its edges is compared with what a teacher computes there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from featherweight.activations import Edge
from featherweight.errors import ConfigError
from featherweight.task import Needs
from featherweight.training.losses.base import Goal, Loss
from featherweight.training.losses.teachers import AfterStep, InFile, Original
from featherweight.training.methods.base import Group, Trained

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.capture.program import Program
    from featherweight.graph.graph import Graph
    from featherweight.model import Model
    from featherweight.task import Batch, Output, Task

Name = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True)
class Place:
    """An edge of a network and the one that a teacher has there.

    Attributes:
        ours: of the network that trains.
        theirs: of the teacher.
        axes: along which axis the channels of each stand.
        shapes: of each on the example, `[n, channels, places]`.
    """

    ours: Edge
    theirs: Edge
    axes: tuple[int, int]
    shapes: tuple[tuple[int, int, int], tuple[int, int, int]]

    def of(self, ours: Mapping[Edge, Tensor], theirs: Mapping[Edge, Tensor]) -> tuple[Tensor, Tensor]:
        """Return both activations as `[n, channels, places]`."""
        found = (ours[self.ours].movedim(self.axes[0], 1), theirs[self.theirs].movedim(self.axes[1], 1))
        first, second = (x.float().reshape(*x.shape[:2], -1) for x in found)
        return first, second


class OfFeatures(Loss, frozen=True, kw_only=True):
    """A loss that compares features with a teacher's. A subclass writes `apart`, and what it `fits`.

    Attributes:
        at: edges to compare; `block`: where blocks end; a list of edges, which the teacher has too; or edges of the
            network and of another teacher beside them.
        teacher: the network to learn from: `original`, `step` or `file`. By default `original`.
        weight: factor of the loss.
    """

    needs: ClassVar[Needs] = "unlabelled"
    at: (
        Literal["block"] | Annotated[list[Name], Meta(min_length=1)] | Annotated[dict[Name, Name], Meta(min_length=1)]
    ) = "block"  # fmt: skip
    teacher: Original | AfterStep | InFile | None = None
    weight: Annotated[float, Meta(gt=0)] = 1.0

    def of(self, model: Model, task: Task, original: Model, steps: Sequence[Model], seed: int = 0) -> Goal:
        """Return the loss for one training.

        Raises:
            ConfigError: there is no such edge, or activations that cannot be compared; names it.
        """
        from featherweight.training.watched import Watched

        teacher, compared = self.compared(model, task, original, steps)
        watched = Watched(teacher.program(task.example()), {place.theirs for place in compared})
        parts = self.parts(compared, seed)

        def value(output: Output, batch: Batch, features: Mapping[Edge, Tensor]) -> Tensor:
            taught = watched(task.inputs(batch))[1]
            return self.weighed(compared, features, taught, parts)

        return Goal(value, frozenset(place.ours for place in compared), parts)

    def compared(
        self, model: Model, task: Task, original: Model, steps: Sequence[Model]
    ) -> tuple[Model, list[Place]]:
        """Return the teacher, and where both are compared."""
        teacher = (self.teacher or Original()).model(task, original, steps)
        own, theirs = (network.program(task.example()) for network in (model, teacher))
        found = places_of(self.edges(model, own, theirs), own, theirs)
        for place in found:
            self.fits(place)
            if place.shapes[0][2] != place.shapes[1][2]:
                raise ConfigError(
                    "the teacher's activation has another size", where=place.ours,
                    got=f"{place.shapes[0][2]} places, {place.shapes[1][2]} of {place.theirs} of the teacher",
                )  # fmt: skip
        return teacher, found

    def edges(self, model: Model, own: Program, theirs: Program) -> dict[Edge, Edge]:
        """Return the edges of the network, and of the teacher."""
        from featherweight.graph.stages import stages_of
        from featherweight.training.reconstruction import blocks_of, counterpart

        if isinstance(self.at, dict):
            return self.at
        if self.at == "block":
            stages = stages_of(own.graph, "block", blocks_of(model.module))
            chosen = [edge for stage in stages[:-1] for edge in stage.targets]
        else:
            chosen = self.at
        if not chosen:
            hint = "name edges: at = [...]"
            raise ConfigError(
                "the network has no blocks to compare", where=f"{self.__struct_config__.tag}.at", hint=hint
            )
        return {edge: counterpart(edge, own, theirs) for edge in chosen}

    def weighed(
        self, places: Sequence[Place], ours: Mapping[Edge, Tensor], theirs: Mapping[Edge, Tensor],
        parts: Mapping[str, Trained],
    ) -> Tensor:  # fmt: skip
        """Return the sum over all places, times the weight."""
        apart = [self.apart(*place.of(ours, theirs), parts.get(place.ours)) for place in places]
        found: Tensor = sum(apart[1:], apart[0]) * self.weight
        return found

    def apart(self, ours: Tensor, theirs: Tensor, part: Any) -> Tensor:
        """Return how far the activations of a place are apart, both `[n, channels, places]`."""
        raise NotImplementedError

    def fits(self, place: Place) -> None:
        """Refuse a place whose activations cannot be compared."""

    def parts(self, places: Sequence[Place], seed: int) -> dict[str, Trained]:
        """Return what trains for the loss alone, by edge."""
        return {}


class Hints(OfFeatures, frozen=True, kw_only=True, tag="hints"):
    """FitNets: a regressor of a layer predicts the teacher's from it: `1/2 ||u_h(x) - r(v_g(x))||^2`.

    The mean over samples and elements stands for the norm; the weight takes the factor. The regressor `r` is a 1x1
    convolution with a bias, of any number of channels to any other; it trains beside and is dropped.

    References: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio, FitNets: hints for thin deep nets, 2015,
    arXiv 1412.6550.
    """

    def apart(self, ours: Tensor, theirs: Tensor, part: Any) -> Tensor:
        """Return half the mean squared error of the regressor."""
        predicted: Tensor = part(ours)
        return (theirs - predicted).square().mean() / 2

    def parts(self, places: Sequence[Place], seed: int) -> dict[str, Trained]:
        """Return the regressors."""
        from featherweight.data.indexed import number

        return {
            place.ours: Regressor(place.shapes[0][1], place.shapes[1][1], number(seed, index))
            for index, place in enumerate(places)
        }


class Attention(OfFeatures, frozen=True, kw_only=True, tag="attention"):
    """Attention transfer: maps of where channels are large, `beta / 2 sum_j ||Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2`.

    `Q` is the sum of squares over channels at each place. The mean over samples and places stands for the norm, as the
    authors have it: their beta is 1000 over the number of both.

    References: Zagoruyko, Komodakis, Paying more attention to attention, 2017, arXiv 1612.03928.
    """

    weight: Annotated[float, Meta(gt=0)] = 1000.0

    def apart(self, ours: Tensor, theirs: Tensor, part: Any) -> Tensor:
        """Return half the mean squared difference of the maps."""
        return maps_apart(ours, theirs) / (2 * ours.shape[2])

    def fits(self, place: Place) -> None:
        """Refuse activations of one place, whose map is one number."""
        several(place)


class Features(OfFeatures, frozen=True, kw_only=True, tag="features"):
    """The mean squared error of activations over the variance of the teacher's, the mean over channels."""

    def apart(self, ours: Tensor, theirs: Tensor, part: Any) -> Tensor:
        """Return the error."""
        from featherweight.task.outputs import distance

        return distance(ours, theirs)

    def fits(self, place: Place) -> None:
        """Refuse another number of channels."""
        ours, theirs = (shape[1] for shape in place.shapes)
        if ours != theirs:
            raise ConfigError(
                "the teacher has another number of channels", where=place.ours, got=ours, expected=theirs,
                hint='loss = "hints" learns a regressor between them; "attention" sums over channels',
            )  # fmt: skip


class Guidance(OfFeatures, frozen=True, kw_only=True, tag="guidance"):
    """Mutual guidance: the teacher trains too, `L(ours) + L(theirs) + weight * sum_j ||phi(ours) - phi(theirs)||^2`.

    `L` is the task's loss, and phi here the map of `attention` over its norm: gradients of the difference reach both
    networks. The teacher begins as it is named, sees the same batches in training mode, and is dropped.

    References: Zhuang, Shen, Tan, Liu, Reid, Towards effective low-bitwidth convolutional neural networks, 2018,
    arXiv 1711.00205: guided training with a full-precision network.
    """

    needs: ClassVar[Needs] = "labelled"

    def of(self, model: Model, task: Task, original: Model, steps: Sequence[Model], seed: int = 0) -> Goal:
        """Return the loss for one training; errors as of other losses of features."""
        from featherweight.training.watched import Companion

        teacher, compared = self.compared(model, task, original, steps)
        companion = Companion(teacher, task, {place.theirs for place in compared})

        def value(output: Output, batch: Batch, features: Mapping[Edge, Tensor]) -> Tensor:
            other, theirs = companion(task.inputs(batch))
            guided = self.weighed(compared, features, theirs, {})
            return task.loss(output, batch) + task.loss(other, batch) + guided

        return Goal(value, frozenset(place.ours for place in compared), {"teacher": companion})

    def apart(self, ours: Tensor, theirs: Tensor, part: Any) -> Tensor:
        """Return the squared difference of the maps, the mean over samples."""
        return maps_apart(ours, theirs)

    def fits(self, place: Place) -> None:
        """Refuse activations of one place, whose map is one number."""
        several(place)


class Regressor(Trained):
    """A 1x1 convolution of activations `[n, inputs, places]` to `[n, outputs, places]`."""

    def __init__(self, inputs: int, outputs: int, seed: int) -> None:
        import torch
        from torch import nn

        generator = torch.Generator().manual_seed(seed)
        start = torch.rand((outputs, inputs), generator=generator).mul_(2).sub_(1) / inputs**0.5
        self.weight, self.bias = nn.Parameter(start), nn.Parameter(torch.zeros(outputs, 1))

    def __call__(self, x: Tensor) -> Tensor:
        """Return what it predicts."""
        return self.weight @ x + self.bias

    def groups(self) -> list[Group]:
        """Return its weight, and its bias without decay."""
        return [Group([self.weight]), Group([self.bias], decays=False)]


def maps_apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return `||Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2`, the mean over samples, of `[n, channels, places]`.

    >>> import torch
    >>> x = torch.tensor([[[3.0, 0.0]]])
    >>> float(maps_apart(x, 2 * x)), float(maps_apart(x, x.flip(2)))
    (0.0, 2.0)
    """
    from torch.nn.functional import normalize

    first, second = (normalize(x.square().sum(1), dim=1) for x in (ours, theirs))
    return (first - second).square().sum(1).mean()


def several(place: Place) -> None:
    """Refuse activations of one place."""
    if place.shapes[0][2] < 2:
        hint = "compare where activations still have places: before they are pooled and flattened"
        raise ConfigError("has one place, of which there is no map of attention", where=place.ours, hint=hint)


def places_of(edges: Mapping[Edge, Edge], own: Program, theirs: Program) -> list[Place]:
    """Return where two networks are compared.

    Raises:
        ConfigError: one has no such edge.
    """
    found = []
    for pair in edges.items():
        for edge, program, whose in zip(pair, (own, theirs), ("network", "teacher"), strict=True):
            if all(node.name != edge for node in program.graph.nodes):
                raise ConfigError(f"the {whose} has no such activation", where=edge)
        axes = [channels(program.graph, edge) for edge, program in zip(pair, (own, theirs), strict=True)]
        shapes = []
        for edge, program, axis in zip(pair, (own, theirs), axes, strict=True):
            n, *rest = program.graph.node(edge).shape
            if not rest:
                raise ConfigError("has no channels", where=edge, got=(n,), expected="[n, channels, ...]")
            count = rest.pop(axis - 1 if axis > 0 else axis)
            shapes.append((n, count, prod(rest)))
        found.append(Place(*pair, (axes[0], axes[1]), (shapes[0], shapes[1])))
    return found


def channels(graph: Graph, edge: Edge) -> int:
    """Return the axis of an activation along which its channels stand: 1 behind convolutions, the last behind others.

    The layer or norm that counts is the last before it whose result has as many axes.
    """
    wanted, ndim = {edge}, len(graph.node(edge).shape)
    for node in reversed(graph.nodes):
        if node.name not in wanted:
            continue
        if node.tensors and len(node.shape) == ndim:
            first = node.op.startswith(("conv", "batch_norm", "group_norm", "instance_norm"))
            return 1 if first or ndim < 3 else -1
        wanted |= {*node.inputs}
    return -1 if ndim == 3 else 1
