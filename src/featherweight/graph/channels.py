"""Coupled channels of a network: which indices of which tensors go together, and what it costs without some.

`couple` follows labels through the graph, and gathers them into groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from featherweight.graph.channel_labels import Array, Labels
from featherweight.graph.channel_rules import Follower, Product
from featherweight.graph.graph import Edge, Graph
from featherweight.graph.operators import operator

Sizes = Mapping[tuple[str, int], int]  # of axes (tensor and number of axis) that change


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates and parameters as functions of the sizes of weights.

    A layer multiplies its whole weight once at every place it visits, so that its multiply-accumulates are
    places times size: of a convolution, grouped or not, the output's pixels; of a linear layer, a sample's rows.

    Attributes:
        shapes: of each parameter and buffer, by canonical name.
        trained: the parameters among them.
        uses: weight and number of places, for each use of a weight by a layer.
        products: of activations: multiply-accumulates, and axes of tensors to whose sizes they are proportional.
        rest: multiply-accumulates of everything else.
    """

    shapes: Mapping[str, tuple[int, ...]]
    trained: tuple[str, ...]
    uses: tuple[tuple[str, int], ...]
    rest: int = 0
    products: tuple[tuple[int, tuple[tuple[str, int], ...]], ...] = ()

    def numel(self, name: str, sizes: Sizes) -> int:
        """Return the number of elements of a tensor, some of whose axes have new sizes."""
        return prod(sizes.get((name, axis), size) for axis, size in enumerate(self.shapes[name]))

    def macs(self, sizes: Sizes) -> int:
        """Return the multiply-accumulates of a sample, where some axes have new sizes.

        >>> cost = Cost({"w": (4, 3)}, ("w",), (("w", 10),))
        >>> cost.macs({}), cost.macs({("w", 0): 2})
        (120, 60)
        """
        layers = sum(places * self.numel(name, sizes) for name, places in self.uses)
        return self.rest + layers + sum(self._product(macs, axes, sizes) for macs, axes in self.products)

    def _product(self, macs: int, axes: Sequence[tuple[str, int]], sizes: Sizes) -> int:
        """Return the multiply-accumulates of a product of activations, some of whose heads are gone."""
        for name, axis in axes:
            macs = macs * sizes.get((name, axis), self.shapes[name][axis]) // self.shapes[name][axis]
        return macs

    def parameters(self, sizes: Sizes) -> int:
        """Return the number of parameters, where some axes have new sizes."""
        return sum(self.numel(name, sizes) for name in self.trained)


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one tensor, where channels of a group stand.

    Attributes:
        tensor, axis: canonical name, and number of the axis.
        index: `[channels, n]`: the indices on that axis that belong to each channel; n is 1 but for a layer
            that reads a flattened image, a grouped convolution, or heads of attention.
        reads: whether the axis is summed over (a later layer's input). Otherwise these parameters make the
            channel: rows of weights, biases, scales and shifts.
    """

    tensor: str
    axis: int
    index: Array
    reads: bool


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that run through the same tensors; each stands or falls as a whole.

    Attributes:
        name: path of the first layer that makes them.
        members: every place where they stand.
        parameters, macs: what goes with one channel while all others stay; multiply-accumulates of a sample.
        heads: whether each is a head of attention: what makes query, key and value, and what reads the result.
        gates: the members along which one factor scales a channel, where these are not all that make it.
        cuts: edges and their axes that an axis of channels is cut into, where they go; with how many of each channel.
    """

    name: str
    members: tuple[Member, ...]
    parameters: int = 0
    macs: int = 0
    heads: bool = False
    gates: tuple[Member, ...] = ()
    cuts: tuple[tuple[Edge, int, int], ...] = ()

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.members[0].index)

    @property
    def kind(self) -> str:
        """What its channels are called."""
        return "heads" if self.heads else "channels"

    @property
    def makers(self) -> tuple[Member, ...]:
        """Members whose parameters make the channel: theta_s."""
        return self.gates or tuple(member for member in self.members if not member.reads)


@dataclass(frozen=True, eq=False)
class Channels:
    """Every channel of a network that can go, and why the others cannot.

    A *kept* array `[count]` of bool says which channels stay, group after group.

    Attributes:
        groups: coupled channels.
        fixed: layers none of whose output channels can go, with the reason.
        cost: what the network costs.
        inner: tensors that make channels which others make again before they are read: a layer before a batch norm.
    """

    groups: tuple[Group, ...]
    fixed: Mapping[str, str]
    cost: Cost
    inner: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """Number of channels, in all groups together: the number of structures."""
        return sum(group.size for group in self.groups)

    @cached_property
    def group_of(self) -> Array:
        """Group of each channel `[count]`."""
        return np.repeat(np.arange(len(self.groups)), [group.size for group in self.groups])

    def split(self, values: Array) -> list[Array]:
        """Return `values: [count, ...]` group by group."""
        return np.split(values, np.cumsum([group.size for group in self.groups])[:-1]) if self.groups else []

    def only(self, chosen: Sequence[int]) -> Channels:
        """Return the same with these groups alone."""
        return replace(self, groups=tuple(self.groups[number] for number in chosen))

    def scaled_once(self) -> Channels:
        """Return the same with those makers alone whose derivative is that of one factor on the channel.

        A weight and the batch norm that follows it both scale the channel. Removing it takes one of them to zero; along
        both, every order of the loss counts the channel more than once. So those are left out that are `inner`. What
        makes queries and keys scales no head: a factor on the columns that read its output does.
        """
        gates = [
            tuple(
                m for m in g.members if (m.reads if g.heads else not m.reads and m.tensor not in self.inner)
            )
            for g in self.groups
        ]
        groups = zip(self.groups, gates, strict=True)
        return replace(self, groups=tuple(replace(group, gates=own) for group, own in groups))

    def sizes(self, kept: Array) -> dict[tuple[str, int], int]:
        """Return the sizes of axes (tensor and number of axis) that change."""
        gone: Counter[tuple[str, int]] = Counter()
        for group, stays in zip(self.groups, self.split(kept), strict=True):
            for member in group.members:
                gone[member.tensor, member.axis] += int((~stays).sum()) * member.index.shape[1]
        return {(name, axis): self.cost.shapes[name][axis] - n for (name, axis), n in gone.items()}

    def macs(self, kept: Array) -> int:
        """Return the multiply-accumulates of a sample of the network with these channels."""
        return self.cost.macs(self.sizes(kept))

    def parameters(self, kept: Array) -> int:
        """Return the number of parameters of the network with these channels."""
        return self.cost.parameters(self.sizes(kept))

    def measured(self) -> Channels:
        """Return the same, with what one channel of each group costs."""
        everything = np.ones(self.count, bool)
        macs, parameters, groups, start = self.macs(everything), self.parameters(everything), [], 0
        for group in self.groups:
            kept = everything.copy()
            kept[start] = False
            start += group.size
            saved = macs - self.macs(kept), parameters - self.parameters(kept)
            groups.append(replace(group, macs=saved[0], parameters=saved[1]))
        return replace(self, groups=tuple(groups))


def couple(graph: Graph) -> Channels:
    """Return the coupled channels of a network, as far as its graph tells.

    Only tensors of plain layers of `torch.nn` that stand in one place change their shape, so that the result can be
    written as data. What the trace cannot show (a size written out in code) is for the caller to try.
    """
    follower = Follower(graph)
    labels = follower.labels
    for slot in labels.slots:
        if slot.tensor in graph.rigid:
            labels.fix(slot.labels, f"{slot.tensor} stays: {graph.rigid[slot.tensor]}")
    component, fixed = labels.components()
    heads = [component[axis] for product in follower.products for axis in product.heads]
    groups = gathered(labels, component, fixed, np.unique(np.concatenate([*heads, np.zeros(0, int)])))
    inner = inner_makers(graph, groups)
    cost = cost_of(graph, products_of(labels, component, fixed, follower.products))
    return Channels(groups, stays(labels, component, fixed), cost, inner).measured()


def cost_of(graph: Graph, products: Sequence[tuple[int, tuple[tuple[str, int], ...]]]) -> Cost:
    """Return what the network costs; `products`: see `Cost`."""
    uses: list[tuple[str, int]] = []
    rest = 0
    for node in graph.nodes:
        weight = node.roles.get("weight")
        if weight and operator(node.op).axes is not None:
            uses.append((weight, (node.macs or 0) // prod(graph.views[weight].shape)))
        else:
            rest += node.macs or 0
    shapes = {name: view.shape for name, view in graph.views.items()}
    rest -= sum(macs for macs, _ in products)
    return Cost(shapes, graph.parameters, tuple(uses), rest, tuple(products))


def products_of(
    labels: Labels, component: Array, fixed: dict[int, str], products: Sequence[Product]
) -> list[tuple[int, tuple[tuple[str, int], ...]]]:
    """Return the products of activations that cost less when channels go: see `Cost`."""
    places: dict[tuple[int, ...], tuple[str, int]] = {}
    for slot in labels.slots:
        places.setdefault(tuple(np.unique(component[slot.labels]).tolist()), (slot.tensor, slot.axis))
    found = []
    for product in products:
        axes = [np.unique(component[axis]).tolist() for axis in product.sizes]
        axes = [axis for axis in axes if not any(number in fixed for number in axis)]
        known = tuple(places[tuple(axis)] for axis in axes if tuple(axis) in places)
        if known:
            found.append((product.macs, known))
    return found


def gathered(labels: Labels, component: Array, fixed: dict[int, str], heads: Array) -> tuple[Group, ...]:
    """Return the components that can go, those that run through the same axes in one group; `heads`: which are such."""
    numbers = np.setdiff1d(component, list(fixed))
    if not numbers.size:
        return ()
    read = _reads(labels)
    counts = np.stack([_count(component[slot.labels], numbers) for slot in labels.slots], axis=1)
    useful = counts[:, read].any(axis=1) & counts[:, ~read].any(axis=1)
    numbers, counts = numbers[useful], counts[useful]
    kind = np.unique(counts, axis=0, return_inverse=True)[1].reshape(-1)
    return tuple(
        _group(labels, component, numbers[kind == k], read, np.flatnonzero(counts[kind == k][0]), heads)
        for k in dict.fromkeys(kind.tolist())
    )


def _count(of: Array, numbers: Array) -> Array:
    """Return how often each of `numbers` (sorted) stands in `of`."""
    found = np.searchsorted(numbers, of).clip(max=len(numbers) - 1)
    return np.bincount(found[numbers[found] == of], minlength=len(numbers))


def _reads(labels: Labels) -> Array:
    """Return which slots are summed over."""
    summed = np.zeros(labels.count, bool)
    for axis in labels.read:
        summed[axis] = True
    return np.array([bool(summed[slot.labels].any()) for slot in labels.slots], bool)


def _group(
    labels: Labels, component: Array, numbers: Array, read: Array, slots: Array, heads: Array
) -> Group:
    """Return the group of these components, which stand in these slots."""
    members = []
    for place in slots.tolist():
        slot, of = labels.slots[place], component[labels.slots[place].labels]
        places = np.flatnonzero(np.isin(of, numbers))
        index = places[np.argsort(of[places], kind="stable")].reshape(len(numbers), -1)
        members.append(Member(slot.tensor, slot.axis, index, bool(read[place])))
    name = next(member.tensor for member in members if not member.reads).rpartition(".")[0]
    return Group(
        name,
        tuple(members),
        heads=bool(np.isin(numbers, heads).any()),
        cuts=_cuts(labels, component, numbers),
    )


def _cuts(labels: Labels, component: Array, numbers: Array) -> tuple[tuple[Edge, int, int], ...]:
    """Return where axes are cut into several, one of which loses the indices of these components."""
    found = []
    for cut in labels.cuts:
        for axis, part in zip(cut.place[1], cut.parts, strict=False):
            if part is not None and np.isin(component[part], numbers).all():
                found.append((cut.place[0], axis, len(part) // len(numbers)))
    return tuple(found)


def stays(labels: Labels, component: Array, fixed: dict[int, str]) -> dict[str, str]:
    """Return the layers none of whose output channels can go, with the reason for the first."""
    axes = Counter(slot.tensor for slot in labels.slots)
    found = {}
    for slot, reads in zip(labels.slots, _reads(labels).tolist(), strict=True):
        matrix = slot.axis < 2 and axes[slot.tensor] > 1
        if matrix and not reads and slot.tensor.endswith(".weight"):
            numbers = component[slot.labels].tolist()
            if all(number in fixed for number in numbers):
                found[slot.tensor.rpartition(".")[0]] = fixed[numbers[0]]
    return found


def inner_makers(graph: Graph, groups: Sequence[Group]) -> frozenset[str]:
    """Return the tensors that make channels, of which others make the same again before anything reads them.

    A convolution before a batch norm or a depthwise convolution, whatever stands between; slopes of a PReLU; the gate
    of a product. Scaling them together with the others would scale the channel twice.
    """
    gates: dict[Edge, int] = {}
    for node in graph.nodes:
        before = gates[node.inputs[0]] if len(node.inputs) == 1 and "weight" not in node.roles else 0
        gates[node.name] = max(operator(node.op).gate, before)
    inner: set[str] = set()
    outer: set[str] = set()
    for group in groups:
        made = {member.tensor for member in group.makers}
        read = {member.tensor for member in group.members if member.reads}
        last = _last_makers(graph, gates, made)
        reading = {node.inputs[0] for name in read for node in graph.readers(name) if node.inputs}
        found = frozenset[str]().union(*(last[edge] for edge in reading))
        outer |= found
        inner |= made - found if found else set()
    return frozenset(inner - outer)


def _last_makers(graph: Graph, gates: dict[Edge, int], made: set[str]) -> dict[Edge, frozenset[str]]:
    """Return the tensors of the last layers before each edge that make channels; of a product those of no gate."""
    known: dict[Edge, frozenset[str]] = {}
    for node in graph.nodes:
        weight = node.roles.get("weight")
        makers = [known[edge] for edge in node.inputs if known[edge]]
        if weight is not None and node.op != "prelu":
            makers = [frozenset(made.intersection(node.tensors))] if weight in made else []
        elif node.op == "mul" and makers:
            makers = [known[min((edge for edge in node.inputs if known[edge]), key=gates.__getitem__)]]
        known[node.name] = frozenset[str]().union(*makers)
    return known
