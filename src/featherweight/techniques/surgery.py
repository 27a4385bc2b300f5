"""Changes to a network's layers and channels, and the one check that a changed network computes what it should."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from featherweight.capture.program import eval_mode
from featherweight.capture.pytree import flatten_inputs, flatten_outputs, rebuild
from featherweight.errors import TaskError, UnsupportedError
from featherweight.events import Note
from featherweight.formats.view import Array
from featherweight.graph.channels import Channels, Cost, Group, Member, couple
from featherweight.graph.graph import Graph
from featherweight.model import Model
from featherweight.selectors import select
from featherweight.structure import LayerSpec, copied, resized, to_call
from featherweight.task import Inputs, Task, call
from featherweight.task.samples import seeded
from featherweight.techniques.base import Where

Part = TypeVar("Part", bound=Hashable)
Make = Callable[[Sequence[Part]], Model]  # makes a model of some parts of a change

# Of the output's scale. A network that computes something else is beyond the first but where its branches say
# little, rounding below the second but in deep networks; between them float64 tells one from the other.
TOLERANCE, ROUNDING = 1e-3, 1e-5


def failing(
    parts: Iterable[Part], make: Make[Part], expected: Make[Part], task: Task, *, exact: bool = False
) -> dict[Part, str]:
    """Return the parts of a change that the network cannot take, with the reason: tried together, then one by one.

    Args:
        parts: what is to change: layers, or groups of channels.
        make: the network with some of them changed.
        expected: a network that computes what that one should.
        task: gives the example on which they are compared.
        exact: whether they compute the same but for the order of sums.

    Raises:
        UnsupportedError: the others work one by one, not together.
    """

    def trial(some: Sequence[Part]) -> str:
        return difference(lambda: make(some), expected(some), task.example(), exact=exact)

    parts = tuple(parts)
    if not parts or not trial(parts):
        return {}
    failed = {part: reason for part in parts if (reason := trial([part]))}
    rest = [part for part in parts if part not in failed]
    if rest and (reason := trial(rest)):
        raise UnsupportedError(f"its layers cannot change together: {reason}", where=task.name)
    return failed


def difference(make: Callable[[], Model], expected: Model, example: Inputs, *, exact: bool = False) -> str:
    """Return how the network that `make` makes differs on `example` from one that computes what it should, or nothing.

    What `make` raises is a difference. `exact`: they have the same weights and differ in the order of sums alone.
    """
    try:
        model = make()
        found = computed(model, example)
    except Exception as error:  # the network is anyone's code
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        return f"the changed network fails: {type(error).__name__}: {reason}"
    wanted = computed(expected, example)
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape:
            return f"an output would have the shape {tuple(a.shape)}, not {tuple(b.shape)}"
    same = equal(found, wanted, TOLERANCE)
    if same and exact and not equal(found, wanted, ROUNDING):
        try:
            same = equal(computed_double(model, example), computed_double(expected, example), ROUNDING / 100)
        except Exception:  # a network may hold numbers of float32 that meet no others
            same = True
    return "" if same else "the changed network does not compute the same"


def equal(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> bool:
    """Return whether tensors of the same shapes are equal, within a share of the scale of each."""
    for a, b in zip(found, wanted, strict=True):
        a, b = (t if t.is_floating_point() else t.double() for t in (a, b))
        finite = b[b.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 0.0
        if not torch.allclose(a, b, rtol=0, atol=tolerance * max(scale, 1e-6)):
            return False
    return True


def computed_double(model: Model, example: Inputs) -> tuple[Tensor, ...]:
    """Return the outputs of a model in float64."""
    tensors = flatten_inputs(model.module, example).values()
    inputs = rebuild(example, iter([t.double() if t.is_floating_point() else t for t in tensors]))
    return computed(Model(copied(model.module, {}).double()), inputs)


def computed(model: Model, example: Inputs) -> tuple[Tensor, ...]:
    """Return the outputs of a model on `example`, flat; scores that are masked may be infinite.

    Raises:
        TaskError: one holds NaN.
    """
    module = to_call(model.module)
    with eval_mode(module), seeded(0):  # some networks draw random numbers
        outputs = flatten_outputs(call(module, example))[1]
    if any(bool(output.isnan().any()) for output in outputs):
        raise TaskError("the network's output holds NaN", where="the task's example")
    return outputs


def eligible(model: Model, task: Task, where: Where) -> tuple[Channels, list[Note]]:
    """Return the groups all of whose weights are selected, and a note on each other selected weight.

    A network that cannot be traced has none, and a note says why.
    """
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
        fixed = channels.fixed.get(layer) or graph.rigid.get(name) or "no layer reads them alone"
        reason = reasons.get(name, fixed)
        if reason and model.tensors[name].dim() > 1:
            place = layer if role == "weight" and layer else name
            notes.append(Note("skipped", place, f"keeps its channels: {reason}"))
    return channels.only(chosen), notes


def pruned(model: Model, channels: Channels, kept: Array, notes: Iterable[Note] = ()) -> Model:
    """Return the model without the channels that are not `kept: [channels.count]`, their layers rebuilt smaller."""
    values = {}
    for name, groups in _touched(channels, kept).items():
        value = model.tensors[name].detach()
        for axis in range(value.dim()):
            gone = [member.index[~stays].reshape(-1) for member, stays in groups if member.axis == axis]
            if gone:
                index = np.setdiff1d(np.arange(value.shape[axis]), np.concatenate(gone))
                value = value.index_select(axis, torch.from_numpy(index))
        values[name] = value
    return rebuilt(model, values, notes)


def silenced(model: Model, channels: Channels, kept: Array) -> Model:
    """Return the model with every parameter of the channels that are not kept at zero: the slow oracle of `pruned`."""
    trained = {name for name, _ in model.module.named_parameters()}
    values = {}
    for name, groups in _touched(channels, kept).items():
        value = model.tensors[name].detach().clone()
        for member, stays in groups:
            value.index_fill_(member.axis, torch.from_numpy(member.index[~stays].reshape(-1)), 0.0)
        values[name] = value
    return model.with_tensors({name: value for name, value in values.items() if name in trained})


def rebuilt(model: Model, values: dict[str, Tensor], notes: Iterable[Note] = ()) -> Model:
    """Return the model with these tensors, of whatever shape; their layers rebuilt to fit."""
    paths = dict.fromkeys(name.rpartition(".")[0] for name in values)
    layers: dict[str, LayerSpec] = {}
    whole: dict[str, Tensor] = {}
    for path in paths:
        names = [name for name in model.tensors if name.rpartition(".")[0] == path]
        new = {name: values.get(name, model.tensors[name].detach()) for name in names}
        shape = new.get(f"{path}.weight", new.get(f"{path}.running_mean"))
        if shape is not None:
            layers[path] = resized(model.module.get_submodule(path), shape.shape)
        whole |= new
    return model.with_structure(layers, whole, notes)


def _touched(channels: Channels, kept: Array) -> dict[str, list[tuple[Member, Array]]]:
    """Where channels go, by tensor: the member, and which of its channels stay."""
    found: dict[str, list[tuple[Member, Array]]] = {}
    for group, stays in zip(channels.groups, channels.split(kept), strict=True):
        for member in group.members if not stays.all() else ():
            found.setdefault(member.tensor, []).append((member, stays))
    return found


HINT = (
    " (a forward that holds the number of heads, or the width of all, cannot do with fewer:"
    " write -1 for the number in view and reshape, and chunk for split)"
)


def miscounted(group: Group, graph: Graph, before: Graph) -> str:
    """Return where a network that lost one channel of a group divides the rest into other ones, or nothing.

    Channels regrouped in heads of another size can compute nearly the same, so that only their number tells.
    """
    names = {node.name for node in graph.nodes}
    for edge, axis, each in group.cuts if group.size > 1 else ():
        wanted = before.node(edge).shape[axis] - each
        found = graph.node(edge).shape[axis] if edge in names else wanted
        if found != wanted:
            node = before.node(edge)
            return f"with one fewer, {node.op} in {node.module or 'the network'} makes {found} of them, not {wanted}"
    return ""


def prunable(model: Model, channels: Channels, task: Task) -> tuple[Channels, list[Note]]:
    """Return the groups that can be pruned, and notes on the others: each loses a channel, as a trial.

    Raises:
        UnsupportedError: they can go one by one, not together.
    """

    def without_last(numbers: Sequence[int]) -> tuple[Model, Channels, Array]:
        some = channels.only(numbers)
        kept = [np.arange(group.size) < max(group.size - 1, 1) for group in some.groups]
        return model, some, np.concatenate(kept)

    groups, every = channels.groups, range(len(channels.groups))

    def made(numbers: Sequence[int]) -> Model:
        return pruned(*without_last(numbers))

    failed = failing(every, made, lambda n: silenced(*without_last(n)), task, exact=True)
    rest = [n for n in every if n not in failed and groups[n].cuts]
    if rest:
        before, graph = (m.program(task.example()).graph for m in (model, made(rest)))
        failed |= {n: reason for n in rest if (reason := miscounted(groups[n], graph, before))}
    notes = [
        Note("skipped", groups[n].name, f"keeps its {groups[n].kind}: {why}{HINT if groups[n].cuts else ''}")
        for n, why in failed.items()
    ]
    return channels.only([number for number in every if number not in failed]), notes
