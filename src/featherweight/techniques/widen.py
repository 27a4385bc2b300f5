"""The step `widen`: chosen layers twice as wide, the network computing what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from featherweight.graph.groups import Channels
    from featherweight.model import Model, Note
    from featherweight.task import Inputs
    from featherweight.techniques.structured.widening import Array


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
        from featherweight.model import Note
        from featherweight.techniques.structured.eligible import eligible
        from featherweight.techniques.structured.widening import widened

        channels, notes = eligible(model, task, self.where)
        shares = np.random.default_rng(context.seed).uniform(0.25, 0.75, channels.count)
        channels, shares, failed = preserving(model, channels, shares, task.example())
        done = [
            Note("chose", group.name, f"{group.size} channels became {2 * group.size}")
            for group in channels.groups
        ]
        model = widened(model, channels, shares) if channels.groups else model
        return model.with_notes([*notes, *failed, *done])


def preserving(
    model: Model, channels: Channels, shares: Array, example: Inputs
) -> tuple[Channels, Array, list[Note]]:
    """Return the groups, with their shares, that the network can be widened by, and notes on the others."""
    from featherweight.model import Note

    if not channels.groups or not change(model, channels, shares, example):
        return channels, shares, []
    parts = channels.split(shares)
    reasons = [change(model, channels.only([n]), part, example) for n, part in enumerate(parts)]
    kept = [number for number, reason in enumerate(reasons) if not reason]
    notes = [
        Note("skipped", group.name, f"keeps its width: {reason}")
        for group, reason in zip(channels.groups, reasons, strict=True)
        if reason
    ]
    return channels.only(kept), np.concatenate([np.zeros(0), *(parts[number] for number in kept)]), notes


def change(model: Model, channels: Channels, shares: Array, example: Inputs) -> str:
    """Return how the wider network differs from the model on `example`, or an empty string."""
    from featherweight.techniques.structured.dry_run import difference
    from featherweight.techniques.structured.widening import widened

    return difference(lambda: widened(model, channels, shares), model, example)
