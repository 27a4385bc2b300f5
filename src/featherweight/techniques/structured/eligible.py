"""Which channels a step may change: those of selected weights, as far as the traced network lets them go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherweight.errors import UnsupportedError
from featherweight.graph.channels import Channels, Cost
from featherweight.graph.coupling import couple
from featherweight.selectors import select
from featherweight.task import Task
from featherweight.techniques.base import Where

if TYPE_CHECKING:
    from featherweight.model import Model, Note


def eligible(model: Model, task: Task, where: Where) -> tuple[Channels, list[Note]]:
    """Return the groups all of whose weights are selected, and a note on each other selected weight.

    A network that cannot be traced has none, and a note says why.
    """
    from featherweight.model import Note

    names = select(model, where)
    try:
        graph = model.program(task.example()).graph
    except UnsupportedError as error:
        reason = f"keeps its channels: {error.what} ({error.where})"
        return Channels((), {}, Cost({}, (), ())), [Note("skipped", "network", reason)]
    channels = couple(graph)
    chosen: list[int] = []
    reasons: dict[str, str] = {}
    for number, group in enumerate(channels.groups):
        weights = [m.tensor for m in group.makers if model.tensors[m.tensor].dim() > 1]
        others = [name for name in weights if name not in names]
        if not others:
            chosen.append(number)
        reason = f"they are coupled to those of {', '.join(others[:3])}, which `where` leaves out"
        reasons |= dict.fromkeys(weights, reason if others else "")
    notes = []
    for name in names:
        layer, _, role = name.rpartition(".")
        reason = reasons.get(
            name, channels.fixed.get(layer) or graph.rigid.get(name) or "no layer reads them alone"
        )
        if reason and model.tensors[name].dim() > 1:
            place = layer if role == "weight" and layer else name
            notes.append(Note("skipped", place, f"keeps its channels: {reason}"))
    return channels.only(chosen), notes
