"""The step `reorder`: alike channels become neighbours, the network computing what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featherweight.events import Note
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.channels import Group
    from featherweight.model import Model

Array = NDArray[Any]


class Reorder(Step, frozen=True, kw_only=True, omit_defaults=True, tag="reorder"):
    """Put channels that are alike side by side, for formats whose blocks span rows and columns (`astc`).

    Channels change places everywhere they run: in what makes them, their batch norms, what adds to them, what
    reads them; so nothing about the order is stored. Each is followed by the one left over whose weights, in all
    these tensors together, have the greatest cosine with its own. Encoded tensors of theirs are thawed. A layer
    whose channels must stay is noted.

    Attributes:
        where: which weights' output channels; see `featherweight.selectors`.
    """

    needs: ClassVar[Needs] = "none"
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
                notes.append(Note("chose", group.name, f"{group.size} channels in another order"))
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
