"""The step `prune`: channels that matter least are removed, and the network is smaller and faster for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import UnsupportedError
from featherweight.formats import tag
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where
from featherweight.techniques.saliencies import AnySaliency, Taylor

if TYPE_CHECKING:
    from collections.abc import Callable

    from featherweight.graph.channels import Channels
    from featherweight.model import Model, Note
    from featherweight.techniques.structured.select import Array

Count = Annotated[int, Meta(ge=1)]


class Prune(Step, frozen=True, kw_only=True, omit_defaults=True, tag="prune"):
    """Remove whole channels, least salient first, over all layers together, until a share of the cost is left.

    A saliency that tells what is lost is taken for what is saved: per multiply-accumulate, or per parameter. A channel
    is removed everywhere it runs: what makes it, its batch norms, what adds to it, what reads it. Layers are rebuilt
    smaller, so that every runtime is faster; encoded tensors of theirs are thawed. Several of these steps, each
    followed by `finetune`, prune little by little. A layer whose channels cannot go is noted.

    Attributes:
        keep: share of the cost that is left, of what the network costs before this step.
        of: what is counted: multiply-accumulates, parameters, or channels that can go.
        saliency: how much a channel matters. By default `taylor`, which any network can have; `sosp_i` led it where
            it fits in memory.
        where: which weights' output channels may go; see `featherweight.selectors`.
        least: channels that stay in every group of coupled channels.
        multiple: of which their number stays a multiple, as far as there are so many.
    """

    keep: Annotated[float, Meta(gt=0, le=1)]
    of: Literal["macs", "parameters", "channels"] = "macs"
    saliency: AnySaliency = Taylor()
    where: Where = "weights"
    least: Count = 1
    multiple: Count = 1

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """What its saliency needs."""
        return self.saliency.needs

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with fewer channels."""
        from featherweight.model import Note
        from featherweight.techniques.structured.dry_run import mismatch, prunable
        from featherweight.techniques.structured.eligible import eligible
        from featherweight.techniques.structured.select import Guard, select
        from featherweight.techniques.structured.surgery import pruned
        from featherweight.techniques.tensors import finite
        from featherweight.training.loop import isolated

        channels, fixed = eligible(model, task, self.where)
        channels, failed = prunable(model, channels, task.example())
        notes = [*fixed, *failed]
        if not channels.groups:
            none = f"not pruned to {self.keep:g} of its {self.of}: none of its channels can go"
            return model.with_notes([*notes, Note("skipped", "prune", none)] if self.keep < 1 else notes)
        with isolated():
            scores = self.saliency.scores(model, channels, task, context.seed)
        for values in (scores.linear, *([] if scores.pair is None else [scores.pair])):
            finite(values, f"scores of {tag(self.saliency)}")
        cost = self.cost(channels)
        whole = cost(np.ones(channels.count, bool))
        price = self.price(channels) if self.saliency.in_loss else 1.0
        limit = self.keep * whole * (1 + 1e-12)  # a share that was rounded to float64 is still that share
        kept = select(scores, channels, cost, limit, Guard(self.least, self.multiple), price)
        if reason := mismatch(model, channels, kept, task.example()):
            raise UnsupportedError(f"cannot be pruned: {reason}", where=task.name)
        return pruned(model, channels, kept, [*notes, *chosen(channels, kept)])

    def cost(self, channels: Channels) -> Callable[[Array], float]:
        """Return the cost that `of` names, of the channels that stay."""
        counted = {
            "macs": channels.macs,
            "parameters": channels.parameters,
            "channels": lambda kept: kept.sum(),
        }
        return counted[self.of]

    def price(self, channels: Channels) -> Array:
        """Return what each channel saves alone, of the cost that `of` names; one that saves nothing costs little."""
        counted = {
            "macs": [group.macs for group in channels.groups],
            "parameters": [group.parameters for group in channels.groups],
            "channels": [1 for _ in channels.groups],
        }
        return np.maximum(counted[self.of], 1)[channels.group_of]


def chosen(channels: Channels, kept: Array) -> list[Note]:
    """Return how many channels each group keeps."""
    from featherweight.model import Note

    return [
        Note("chose", group.name, f"keeps {int(stays.sum())} of {group.size} channels")
        for group, stays in zip(channels.groups, channels.split(kept), strict=True)
    ]
