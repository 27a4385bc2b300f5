"""From a network to its coupled channels: labels are followed, then gathered into groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from featherweight.graph.cost import Cost
from featherweight.graph.coupling.follower import Follower, shape_of
from featherweight.graph.coupling.labels import Labels, Slot
from featherweight.graph.coupling.outermost import inner_makers
from featherweight.graph.coupling.rules import rule_of
from featherweight.graph.groups import Channels, Group, Member
from featherweight.graph.macs import multiply_accumulates, operator_name
from featherweight.graph.program import Program, capture
from featherweight.graph.trace import named_arguments, placeholders
from featherweight.graph.views import canonical_names
from featherweight.structure import stock_kind
from featherweight.task import Inputs

Array = NDArray[Any]


def couple(module: nn.Module, example: Inputs) -> Channels:
    """Return the coupled channels of `module`, as far as its traced operators tell.

    Only tensors of plain layers of `torch.nn` that stand in one place change their shape, so that the result can be
    written as data. What the trace cannot show (a size written out in code) is for the caller to try.

    Raises:
        UnsupportedError: the network cannot be traced; names the layer and why.
        TaskError: the network fails on its own example.
    """
    program = capture(module, example, dynamic={})
    sources = placeholders(program.exported, tuple(program.example), canonical_names(module))
    follower = Follower(sources)
    for node in program.exported.graph.nodes:
        follower.visit(node, rule_of)
    labels = follower.labels
    reasons = unshapeable(module)
    for slot in labels.slots:
        if slot.tensor in reasons:
            labels.fix(slot.labels, reasons[slot.tensor])
    component, fixed = labels.components()
    groups = gathered(labels, component, fixed)
    inner = inner_makers(program.graph, groups)
    cost = cost_of(module, program, sources)
    return Channels(groups, stays(labels, component, fixed), cost, inner).measured()


def unshapeable(module: nn.Module) -> dict[str, str]:
    """Return the tensors that must keep their shape, with the reason."""
    state = module.state_dict(keep_vars=True)
    places = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    uses = Counter(id(tensor) for tensor in state.values())
    found = {}
    for path, owner in module.named_modules():
        own = {
            f"{path}.{k}" if path else k: t
            for k, t in owner.state_dict(keep_vars=True).items()
            if "." not in k
        }
        if not path or not stock_kind(owner):
            reason = f"{path or 'the network'} ({type(owner).__name__}) is no plain layer of torch.nn"
        elif places[id(owner)] > 1 or any(uses[id(tensor)] > 1 for tensor in own.values()):
            reason = f"{path} has a weight that is tied"
        elif any(t.is_floating_point() and t.dtype != torch.float32 for t in own.values()):
            reason = f"{path} is not float32"
        else:
            continue
        found.update(dict.fromkeys(own, reason))
    return found


def gathered(labels: Labels, component: Array, fixed: dict[int, str]) -> tuple[Group, ...]:
    """Return the components that can go, those that run through the same axes in one group."""
    numbers = np.setdiff1d(component, list(fixed))
    if not numbers.size:
        return ()
    read = _reads(labels)
    counts = np.stack([_count(component[slot.labels], numbers) for slot in labels.slots], axis=1)
    useful = counts[:, read].any(axis=1) & counts[:, ~read].any(axis=1)
    numbers, counts = numbers[useful], counts[useful]
    kind = np.unique(counts, axis=0, return_inverse=True)[1].reshape(-1)
    return tuple(_group(labels, component, numbers[kind == k], read) for k in dict.fromkeys(kind.tolist()))


def _count(of: Array, numbers: Array) -> Array:
    """How often each of `numbers` (sorted) stands in `of`."""
    found = np.searchsorted(numbers, of).clip(max=len(numbers) - 1)
    return np.bincount(found[numbers[found] == of], minlength=len(numbers))


def _reads(labels: Labels) -> Array:
    """Which slots are summed over."""
    summed = np.zeros(labels.count, bool)
    for axis in labels.read:
        summed[axis] = True
    return np.array([bool(summed[slot.labels].any()) for slot in labels.slots], bool)


def _group(labels: Labels, component: Array, numbers: Array, read: Array) -> Group:
    members = []
    for slot, reads in zip(labels.slots, read.tolist(), strict=True):
        of = component[slot.labels]
        places = np.flatnonzero(np.isin(of, numbers))
        if places.size:
            index = places[np.argsort(of[places], kind="stable")].reshape(len(numbers), -1)
            members.append(Member(slot.tensor, slot.axis, index, reads))
    name = next(member.tensor for member in members if not member.reads).rpartition(".")[0]
    return Group(name, tuple(members))


def stays(labels: Labels, component: Array, fixed: dict[int, str]) -> dict[str, str]:
    """Return the layers none of whose output channels can go, with the reason for the first."""
    read = _reads(labels)
    found = {}
    for slot, reads in zip(labels.slots, read.tolist(), strict=True):
        if not reads and slot.tensor.endswith(".weight") and _matrix(labels.slots, slot):
            numbers = component[slot.labels].tolist()
            if all(number in fixed for number in numbers):
                found[slot.tensor.rpartition(".")[0]] = fixed[numbers[0]]
    return found


def _matrix(slots: list[Slot], slot: Slot) -> bool:
    """Whether a tensor has another axis of more than one index than this: a weight, not a bias."""
    return any(other.tensor == slot.tensor and other.axis != slot.axis for other in slots) and slot.axis < 2


_WEIGHTED = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)


def cost_of(module: nn.Module, program: Program, sources: dict[str, tuple[str, ...] | str]) -> Cost:
    """Return what the captured network costs."""
    uses: list[tuple[str, int]] = []
    rest = 0
    for node in program.exported.graph.nodes:
        macs = multiply_accumulates(node) or 0 if node.op == "call_function" else 0
        weight = dict(named_arguments(node)).get("weight") if macs else None
        names = sources.get(weight.name, ()) if isinstance(weight, fx.Node) else ()
        if operator_name(node.target) in _WEIGHTED and isinstance(names, tuple) and len(names) == 1:
            numel = int(np.prod(shape_of(weight)))
            uses.append((names[0], macs // numel))
        else:
            rest += macs
    tensors = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    trained = tuple(dict.fromkeys(name for name, _ in module.named_parameters()))
    return Cost(tensors, trained, tuple(uses), rest)
