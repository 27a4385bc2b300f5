"""From a graph to its coupled channels: labels are followed, then gathered into groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod

import numpy as np

from featherweight.graph.channel_rules import Follower
from featherweight.graph.channels import Array, Channels, Cost, Group, Member
from featherweight.graph.graph import Edge, Graph
from featherweight.graph.labels import Labels
from featherweight.graph.operators import operator


def couple(graph: Graph) -> Channels:
    """Return the coupled channels of a network, as far as its graph tells.

    Only tensors of plain layers of `torch.nn` that stand in one place change their shape, so that the result can be
    written as data. What the trace cannot show (a size written out in code) is for the caller to try.
    """
    labels = Follower(graph).labels
    for slot in labels.slots:
        if slot.tensor in graph.rigid:
            labels.fix(slot.labels, graph.rigid[slot.tensor])
    component, fixed = labels.components()
    groups = gathered(labels, component, fixed)
    inner = inner_makers(graph, groups)
    return Channels(groups, stays(labels, component, fixed), cost_of(graph), inner).measured()


def cost_of(graph: Graph) -> Cost:
    """Return what the network costs."""
    uses: list[tuple[str, int]] = []
    rest = 0
    for node in graph.nodes:
        weight = node.roles.get("weight")
        if weight and operator(node.op).axes is not None:
            uses.append((weight, (node.macs or 0) // prod(graph.views[weight].shape)))
        else:
            rest += node.macs or 0
    shapes = {name: view.shape for name, view in graph.views.items()}
    return Cost(shapes, graph.parameters, tuple(uses), rest)


def gathered(labels: Labels, component: Array, fixed: dict[int, str]) -> tuple[Group, ...]:
    """Return the components that can go, those that run through the same axes in one group."""
    numbers = np.setdiff1d(component, list(fixed))
    if not numbers.size:
        return ()
    read = _reads(labels)
    counts = np.stack([_count(component[slot.labels], numbers) for slot in labels.slots], axis=1)
    useful = counts[:, read].any(axis=1) & counts[:, ~read].any(axis=1)
    numbers, counts = numbers[useful], counts[useful]
    kind = np.unique(counts, axis=0, return_inverse=True)[1].reshape(-1)
    return tuple(
        _group(labels, component, numbers[kind == k], read, np.flatnonzero(counts[kind == k][0]))
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


def _group(labels: Labels, component: Array, numbers: Array, read: Array, slots: Array) -> Group:
    """Return the group of these components, which stand in these slots."""
    members = []
    for place in slots.tolist():
        slot, of = labels.slots[place], component[labels.slots[place].labels]
        places = np.flatnonzero(np.isin(of, numbers))
        index = places[np.argsort(of[places], kind="stable")].reshape(len(numbers), -1)
        members.append(Member(slot.tensor, slot.axis, index, bool(read[place])))
    name = next(member.tensor for member in members if not member.reads).rpartition(".")[0]
    return Group(name, tuple(members))


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
