"""The step `widen`: chosen layers twice as wide, the network computing what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from featherweight.model import Model


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
        from featherweight.techniques.structured.dry_run import difference, failing
        from featherweight.techniques.structured.eligible import eligible
        from featherweight.techniques.structured.surgery import widened

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
