"""Steps that change the channels and not what the network computes: `reorder` by likeness, `widen` to twice as many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featherweight.events import Note
from featherweight.task import Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.formats.view import Array
    from featherweight.graph.channels import Channels, Group
    from featherweight.model import Model


class Reorder(Step, frozen=True, kw_only=True, omit_defaults=True, tag="reorder"):
    """Put channels that are alike side by side, for formats whose blocks span rows and columns (`astc`).

    Channels change places everywhere they run: in what makes them, their batch norms, what adds to them, what
    reads them; so nothing about the order is stored. Each is followed by the one left over whose weights, in all
    these tensors together, have the greatest cosine with its own. Encoded tensors of theirs are thawed. A layer
    whose channels must stay is noted.

    Attributes:
        where: which weights' output channels; see `featherweight.selectors`.
    """

    where: Where = "weights"

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with its channels in another order."""
        from featherweight.techniques.surgery import difference, eligible

        channels, notes = eligible(model, task, self.where)
        before = model
        for group in channels.groups:
            moved = permuted(model, group, chain(features(model, group)))
            if reason := difference(lambda moved=moved: moved, before, task.example()):  # type: ignore[misc]
                notes.append(Note("skipped", group.name, f"keeps its order: {reason}"))
            else:
                model = moved
                notes.append(Note("chose", group.name, f"{group.size} {group.kind} in another order"))
        return model.with_notes(notes)


def features(model: Model, group: Group) -> Array:
    """Return the weights of each channel, `[channels, n]`, those of each tensor divided by their root mean square."""
    found = []
    for member in group.members:
        tensor = model.tensors[member.tensor].detach()
        if tensor.dim() > 1:
            values = tensor.movedim(member.axis, 0).double().numpy()[member.index].reshape(group.size, -1)
            found.append(values / max(float(np.sqrt(np.square(values).mean())), 1e-30))
    return np.concatenate(found, axis=1) if found else np.zeros((group.size, 1))


def chain(rows: Array) -> Array:
    """Return an order of `rows: [n, features]`: from the longest on, always the one left of greatest cosine.

    >>> chain(np.array([[3.0, 0], [0, 1], [2, 0.1], [1, 1]])).tolist()
    [0, 2, 3, 1]
    """
    lengths = np.linalg.norm(rows, axis=1)
    unit = rows / np.maximum(lengths, 1e-30)[:, None]
    cosines = unit @ unit.T
    order = [int(lengths.argmax())]
    while len(order) < len(rows):
        cosines[:, order[-1]] = -np.inf
        order.append(int(cosines[order[-1]].argmax()))
    return np.array(order)


def permuted(model: Model, group: Group, order: Array) -> Model:
    """Return the model in which channel `order[k]` of a group stands at place k."""
    import torch

    values: dict[str, Tensor] = {}
    for member in group.members:
        tensor = values.get(member.tensor, model.tensors[member.tensor].detach())
        index = np.arange(tensor.shape[member.axis])
        index[member.index.reshape(-1)] = member.index[order].reshape(-1)
        values[member.tensor] = tensor.index_select(member.axis, torch.from_numpy(index))
    return model.with_tensors(values)


class Widen(Step, frozen=True, tag="widen"):
    """Double the channels of the selected weights, with all that they are coupled to; the function is preserved.

    Each channel is copied; what reads it is shared out among the copies in parts drawn from the seed between a quarter
    and three quarters, so that the copies train apart. Made to be pruned again: widen what pruning left alone.

    References: Chen, Goodfellow, Shlens, Net2Net, 2016, arXiv 1511.05641, section 2.3 (Net2WiderNet).

    Attributes:
        where: which weights' output channels; see `featherweight.selectors`.
    """

    where: Where

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the wider model."""
        from featherweight.techniques.surgery import eligible, failing

        channels, notes = eligible(model, task, self.where)
        shares = channels.split(np.random.default_rng(context.seed).uniform(0.25, 0.75, channels.count))

        def made(numbers: Sequence[int]) -> Model:
            chosen = np.concatenate([shares[number] for number in numbers])
            return widened(model, channels.only(numbers), chosen)

        every = range(len(channels.groups))
        failed = failing(every, made, lambda _: model, task)
        for number, group in enumerate(channels.groups):
            if number in failed:
                notes.append(Note("skipped", group.name, f"keeps its width: {failed[number]}"))
            else:
                notes.append(Note("chose", group.name, f"{group.size} {group.kind} became {2 * group.size}"))
        wide = [number for number in every if number not in failed]
        return (made(wide) if wide else model).with_notes(notes)


def widened(model: Model, channels: Channels, shares: Array) -> Model:
    """Return the model with every channel of `channels` twice; it computes the same.

    What makes a channel is copied; what reads it is shared out among the two copies.

    Args:
        model: the network.
        channels: the groups to widen.
        shares: part of each channel that the first copy is read with `[channels.count]`; the second has the rest.
    """
    import torch

    from featherweight.techniques.surgery import rebuilt

    places: dict[tuple[str, int], Array] = {}  # the channel of each index of an axis, -1 where there is none
    summed: dict[tuple[str, int], bool] = {}
    for group, numbers in zip(channels.groups, channels.split(np.arange(channels.count)), strict=True):
        for member in group.members:
            place, size = (member.tensor, member.axis), model.tensors[member.tensor].shape[member.axis]
            places.setdefault(place, np.full(size, -1))[member.index] = numbers[:, None]
            summed[place] = member.reads
    values: dict[str, Tensor] = {}
    for (name, axis), owners in places.items():
        order, second = doubled(owners, channels.group_of)
        value = values.get(name, model.tensors[name].detach()).index_select(axis, torch.from_numpy(order))
        if summed[name, axis]:
            share = np.where(second, 1 - shares[owners[order]], shares[owners[order]])
            scale = torch.from_numpy(np.where(owners[order] < 0, 1.0, share)).to(value.dtype)
            value = value * scale.reshape([-1 if a == axis else 1 for a in range(value.dim())])
        values[name] = value
    return rebuilt(model, values)


def doubled(owners: Array, group_of: Array) -> tuple[Array, Array]:
    """Return the order of indices with every run of one group's channels twice, and which are second copies.

    A run ends where the group changes or its channels start again.

    >>> order, second = doubled(np.array([-1, 0, 0, 1, 1, -1]), np.array([0, 0]))
    >>> order.tolist()
    [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    """
    groups = np.where(owners < 0, -1, group_of[owners])
    breaks = np.flatnonzero((np.diff(groups) != 0) | (np.diff(owners) < 0)) + 1
    runs = np.split(np.arange(len(owners)), breaks)
    twice = [owners[run[0]] >= 0 for run in runs]
    pieces = [np.concatenate([run, run]) if two else run for run, two in zip(runs, twice, strict=True)]
    second = [np.arange(len(piece)) >= len(run) for piece, run in zip(pieces, runs, strict=True)]
    return np.concatenate(pieces), np.concatenate(second)
