"""The step `widen`: chosen layers twice as wide, the network computing what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featherweight.events import Note
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.channels import Channels
    from featherweight.model import Model

Array = NDArray[Any]


class Widen(Step, frozen=True, tag="widen"):
    """Double the channels of the selected weights, with all that they are coupled to; the function is preserved.

    Each channel is copied; what reads it is shared out among the copies in parts drawn from the seed between a quarter
    and three quarters, so that the copies train apart. Made to be pruned again: widen what pruning left alone.

    References: Chen, Goodfellow, Shlens, Net2Net, 2016, arXiv 1511.05641, section 2.3 (Net2WiderNet).

    Attributes:
        where: which weights' output channels; see `featherweight.selectors`.
    """

    needs: ClassVar[Needs] = "none"
    where: Where

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the wider model."""
        from featherweight.techniques.surgery import difference, eligible, failing

        channels, notes = eligible(model, task, self.where)
        shares = channels.split(np.random.default_rng(context.seed).uniform(0.25, 0.75, channels.count))

        def made(numbers: Sequence[int]) -> Model:
            chosen = np.concatenate([shares[number] for number in numbers])
            return widened(model, channels.only(numbers), chosen)

        def trial(numbers: Sequence[int]) -> str:
            return difference(lambda: made(numbers), model, task.example())

        every = range(len(channels.groups))
        failed = failing(every, trial, task.name)
        for number, group in enumerate(channels.groups):
            kept = f"keeps its width: {failed.get(number)}"
            done = f"{group.size} channels became {2 * group.size}"
            notes.append(
                Note(*(("skipped", group.name, kept) if number in failed else ("chose", group.name, done)))
            )
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

    values: dict[str, Tensor] = {}
    for name, axis in channels.sizes(np.ones(channels.count, bool)):
        value = values.get(name, model.tensors[name].detach())
        owners, reads = owners_of(channels, name, axis, value.shape[axis])
        order, second = doubled(owners, channels.group_of)
        value = value.index_select(axis, torch.from_numpy(order))
        if reads:
            share = np.where(second, 1 - shares[owners[order]], shares[owners[order]])
            scale = torch.from_numpy(np.where(owners[order] < 0, 1.0, share)).to(value.dtype)
            value = value * scale.reshape([-1 if a == axis else 1 for a in range(value.dim())])
        values[name] = value
    return rebuilt(model, values)


def owners_of(channels: Channels, name: str, axis: int, size: int) -> tuple[Array, bool]:
    """Return the channel of each index of an axis, -1 where there is none, and whether the axis is summed over."""
    owners, start, reads = np.full(size, -1), 0, False
    for group in channels.groups:
        for member in group.members:
            if (member.tensor, member.axis) == (name, axis):
                owners[member.index] = start + np.arange(group.size)[:, None]
                reads = member.reads
        start += group.size
    return owners, reads


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
