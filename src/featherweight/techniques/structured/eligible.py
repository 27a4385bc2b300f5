"""Which channels a step may change: those of selected weights, as far as the traced network lets them go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherweight.errors import UnsupportedError
from featherweight.graph.cost import Cost
from featherweight.graph.coupling import couple
from featherweight.graph.groups import Channels
from featherweight.selectors import select
from featherweight.task import Task
from featherweight.techniques.base import Where

if TYPE_CHECKING:
    from featherweight.model import Model, Note


def eligible(model: Model, task: Task, where: Where) -> tuple[Channels, list[Note]]:
    """Return the groups all of whose weights are selected, and notes on selected layers without one.

    A network that cannot be traced has none, and a note says why.
    """
    from featherweight.model import Note

    names = set(select(model, where))
    try:
        channels = couple(model.module, task.example())
    except UnsupportedError as error:
        reason = f"keeps its channels: {error.what} ({error.where})"
        return Channels((), {}, Cost({}, (), ())), [Note("skipped", "network", reason)]
    chosen = [
        number
        for number, group in enumerate(channels.groups)
        if all(m.tensor in names for m in group.makers if model.tensors[m.tensor].dim() > 1)
    ]
    fixed = [
        Note("skipped", layer, f"keeps its channels: {reason}")
        for layer, reason in channels.fixed.items()
        if f"{layer}.weight" in names
    ]
    return channels.only(chosen), fixed
