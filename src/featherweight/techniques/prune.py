"""The step `prune`: channels that matter least are removed, and the network is smaller and faster for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.events import Note
from featherweight.formats import tag
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where
from featherweight.techniques.encode import finite
from featherweight.techniques.saliencies import AnySaliency, Scores, Taylor

if TYPE_CHECKING:
    from featherweight.formats.view import Array
    from featherweight.graph.channels import Channels
    from featherweight.model import Model

Count = Annotated[int, Meta(ge=1)]


class Prune(Step, frozen=True, kw_only=True, omit_defaults=True, tag="prune"):
    """Remove whole channels and heads, least salient first, over all layers, until a share of the cost is left.

    A saliency that tells what is lost is taken for what is saved: per multiply-accumulate, or per parameter. A channel
    is removed everywhere it runs: what makes it, its batch norms, what adds to it, what reads it. A head of attention
    goes from query, key, value and what reads the result. Layers are rebuilt smaller, so that every runtime is faster;
    encoded tensors of theirs are thawed. Several of these steps, each
    followed by `finetune`, prune little by little. A layer whose channels cannot go is noted.

    Attributes:
        keep: share of the cost that is left, of what the network costs before this step.
        of: what is counted: multiply-accumulates, parameters, or channels that can go.
        saliency: how much a channel matters. By default `taylor`, which any network can have; `sosp_i` led it where
            it fits in memory.
        where: which weights' output channels may go; see `featherweight.selectors`.
        least: channels, or heads, that stay in every group of coupled ones.
        multiple: of which the number of channels stays a multiple, as far as there are so many; not of heads.
        refit: inputs of the calibration split on which what stays of each layer takes over, by least squares; None:
            weights that stay are as they were.
    """

    keep: Annotated[float, Meta(gt=0, le=1)]
    of: Literal["macs", "parameters", "channels"] = "macs"
    saliency: AnySaliency = Taylor()
    where: Where = "weights"
    least: Count = 1
    multiple: Count = 1
    refit: Count | None = None

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """What its saliency needs; inputs, to refit."""
        needs = self.saliency.needs
        return "unlabelled" if self.refit and needs == "none" else needs

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with fewer channels."""
        from featherweight.techniques.surgery import difference, eligible, prunable, pruned, silenced
        from featherweight.training.gradients import isolated

        channels, fixed = eligible(model, task, self.where)
        channels, failed = prunable(model, channels, task)
        notes = [*fixed, *failed]
        if not channels.groups:
            none = f"not pruned to {self.keep:g} of its {self.of}: none of its channels can go"
            return model.with_notes([*notes, Note("skipped", "prune", none)] if self.keep < 1 else notes)
        with isolated():
            scores = self.saliency.scores(model, channels, task, context.seed)
        for values in (scores.linear, scores.pair):
            if values is not None:
                finite(values, f"scores of {tag(self.saliency)}")
        if scores.pair is None and not scores.linear.any():
            raise UnsupportedError(
                "all its scores are zero", where=f"prune.saliency {tag(self.saliency)}",
                hint="where a network agrees with itself the loss has no slope: sosp_i, sosp_h, or obd of gauss_newton",
            )  # fmt: skip
        cost: Callable[[Array], float] = np.sum if self.of == "channels" else getattr(channels, self.of)
        price: Array | float = 1.0
        if self.saliency.in_loss and self.of != "channels":
            # What each channel saves alone; one that saves nothing costs little.
            price = np.maximum([getattr(group, self.of) for group in channels.groups], 1)[channels.group_of]
        # A share that was rounded to float64 is still that share.
        limit = self.keep * cost(np.ones(channels.count, bool)) * (1 + 1e-12)
        multiple = np.array([1 if group.heads else self.multiple for group in channels.groups])
        kept = select(scores, channels, cost, limit, least=self.least, multiple=multiple, price=price)
        expected = silenced(model, channels, kept)
        if reason := difference(lambda: pruned(model, channels, kept), expected, task.example(), exact=True):
            raise UnsupportedError(f"cannot be pruned: {reason}", where=task.name)
        for group, stays in zip(channels.groups, channels.split(kept), strict=True):
            notes.append(Note("chose", group.name, f"keeps {int(stays.sum())} of {group.size} {group.kind}"))
        if self.refit:
            from featherweight.techniques.refit import refitted

            model = refitted(model, expected, task, self.refit, seed=context.seed, events=context.events)
        return pruned(model, channels, kept, notes)


def select(
    scores: Scores, channels: Channels, cost: Callable[[Array], float], limit: float,
    *, least: int = 1, multiple: int | Array = 1, price: Array | float = 1.0,
) -> Array:  # fmt: skip
    """Return which channels stay `[channels.count]`: the fewest removed, in order, that bring the cost to `limit`.

    The last of them may have been dear: those removed before it come back, the most salient first, while there is room.

    Args:
        scores: what removal is thought to cost.
        channels: coupled channels.
        cost: of the network with some channels; it never rises as channels go.
        limit: what it may cost.
        least: channels that every group keeps, so that no layer collapses.
        multiple: of which the number that stays in a group is a multiple, as far as there are so many; of each group.
        price: what removing each channel saves `[channels.count]`, 1 or more; those go first that lose least for it.

    Raises:
        ConfigError: the limit cannot be reached; says what can.
    """
    order = removal_order(scores, channels, least, price, multiple)
    lowest, whole = cost(without(order, channels, multiple)), cost(np.ones(channels.count, bool))
    if lowest > limit:
        raise ConfigError(
            "cannot be reached: other layers keep their channels, see the notes of a run that keeps more",
            where="prune.keep", got=f"{limit / whole:.6g}", expected=f"{rounded_up(lowest / whole):g} or more",
        )  # fmt: skip

    def fits(removed: Array) -> bool:
        return bool(cost(without(removed, channels, multiple)) <= limit)

    removed = order[: bisect_left(range(len(order)), True, key=lambda count: fits(order[:count]))]
    full: set[int] = set()  # groups of which one more is too dear, now and after others came back
    for channel in removed[::-1]:
        group, fewer = int(channels.group_of[channel]), removed[removed != channel]
        if group not in full and fits(fewer):
            removed = fewer
        else:
            full.add(group)
    return without(removed, channels, multiple)


def rounded_up(value: float) -> float:
    """Return the least number of 3 digits that is no less than `value`.

    >>> rounded_up(0.04385), rounded_up(0.5)
    (0.0439, 0.5)
    """
    if value <= 0:
        return 0.0
    unit = 10.0 ** (floor(log10(value)) - 2)
    return float(f"{ceil(value / unit * (1 - 1e-12)) * unit:.3g}")


def removal_order(
    scores: Scores, channels: Channels, least: int, price: Array | float = 1.0, multiple: int | Array = 1
) -> Array:
    """Return the channels in the order in which they go, without those that never do; see `select`."""
    sizes = np.array([group.size for group in channels.groups], int)
    room = np.maximum(sizes - -(-least // multiple) * multiple, 0)
    if scores.pair is not None:
        return greedy(scores.linear, scores.pair, price, channels.group_of, room)
    order: Array = np.argsort(for_its_price(scores.linear, price), kind="stable")
    gone: Array = order[ranks(order, channels) < room[channels.group_of[order]]]
    return gone


def greedy(
    linear: Array, pair: Array, price: Array | float = 1.0,
    group_of: Array | None = None, room: Array | None = None,
) -> Array:  # fmt: skip
    """Return channels in order, each the one that costs least for its price after those before it.

    Removing s after M costs `linear[s] + pair[s, s] / 2 + sum over M of pair[s, t]`.

    Args:
        linear: cost of each channel alone.
        pair: symmetric; what two cost together.
        price: what removing each channel saves.
        group_of: group of each channel; None: all are in one.
        room: how many of each group may go; None: all.

    >>> greedy(np.zeros(3), np.array([[1.0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 1.9]])).tolist()
    [0, 2, 1]
    """
    group_of = np.zeros(len(linear), int) if group_of is None else group_of
    left = np.bincount(group_of) if room is None else room.copy()
    increment = linear + np.diagonal(pair) / 2
    increment[left[group_of] == 0] = np.inf
    order = np.empty(left.sum(), int)
    for step in range(len(order)):
        order[step] = chosen = np.argmin(for_its_price(increment, price))
        increment = increment + pair[:, chosen]
        increment[chosen] = np.inf
        left[group_of[chosen]] -= 1
        if not left[group_of[chosen]]:
            increment[group_of == group_of[chosen]] = np.inf
    return order


def for_its_price(loss: Array, price: Array | float) -> Array:
    """Return losses by what is saved (1 or more); where nothing is lost, saving more is better.

    >>> for_its_price(np.array([6.0, -6.0]), 2.0).tolist()
    [3.0, -12.0]
    """
    found: Array = np.minimum(loss / price, loss * price)
    return found


def ranks(order: Array, channels: Channels) -> Array:
    """Return, of each channel in `order`, how many of its group come before it.

    A stable sort by group puts those of a group side by side, in order.
    """
    of = channels.group_of[order]
    beside = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[beside], of[beside])
    found = np.empty(len(order), int)
    found[beside] = np.arange(len(order)) - starts
    return found


def without(removed: Array, channels: Channels, multiple: int | Array = 1) -> Array:
    """Return which channels stay when `removed` go, but for the last of each group that make no whole multiple."""
    sizes = np.array([group.size for group in channels.groups], int)
    gone = np.bincount(channels.group_of[removed], minlength=len(sizes))
    stay = np.minimum(-(-(sizes - gone) // multiple) * multiple, sizes)
    kept = np.ones(channels.count, bool)
    kept[removed[ranks(removed, channels) < (sizes - stay)[channels.group_of[removed]]]] = False
    return kept
