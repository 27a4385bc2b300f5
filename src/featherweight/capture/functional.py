"""A traced network as operators without mutation: by torch's second trace, or by hand where little is to be done."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decompositions
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.fx.traceback import NodeSource, NodeSourceAction

from featherweight.capture.trace import operator_name
from featherweight.graph.operators import operator as known

aten = torch.ops.aten
_CHECK = re.compile("_assert|_?sym_constrain")
# What the second trace leaves as it is. It takes as long as the first, and most networks are of nothing else.
PLAIN = {
    aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default, aten.linear.default,
    aten.relu.default, aten.hardtanh.default, aten.sigmoid.default, aten.silu.default, aten.hardswish.default,
    aten.hardsigmoid.default, aten.gelu.default, aten.add.Tensor, aten.mul.Tensor, aten.cat.default,
    aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim,
    aten.clone.default, aten.permute.default, aten.slice.Tensor, aten.pad.default,
}  # fmt: skip


@contextlib.contextmanager
def recurrent_at_once() -> Iterator[None]:
    """Let torch find the sizes of what an LSTM or GRU returns by one of its steps.

    It would take all steps, each with symbols: 31 s for 160 frames. The operator itself stays whole in the trace;
    where torch takes it apart (a proxy is active), nothing is changed.
    """
    every: Callable[..., Any] = decompositions._rnn_helper

    def helper(*arguments: Any) -> Any:
        others, layer = arguments[:-1], arguments[-1]

        def one(inputs: Tensor, *state: Any, **options: Any) -> Any:
            packed = "batch_sizes" in getattr(layer, "keywords", ())
            if packed or get_proxy_mode() or not isinstance(inputs, FakeTensor):
                return layer(inputs, *state, **options)
            first, last = layer(inputs[:1], *state, **options)
            return first.new_empty((inputs.shape[0], *first.shape[1:])), last

        return every(*others, one)

    decompositions._rnn_helper = helper
    try:
        yield
    finally:
        decompositions._rnn_helper = every


def functional(traced: ExportedProgram) -> ExportedProgram:
    """Return the same function of operators that write to none of their arguments, composed ones taken apart.

    What is traced may be changed by this.
    """
    without_checks(traced.graph)
    nodes = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    if all(node.target in PLAIN or _by_hand(node) for node in nodes):
        for node in nodes:
            if node.target not in PLAIN:
                _replace(traced, node, _REWRITES[node.target])
    else:
        traced = traced.run_decompositions({})
        without_checks(traced.graph)
    for node in traced.graph.find_nodes(op="call_function", target=aten.avg_pool2d.default):
        if len(node.args) > 6 and node.args[6] and not node.args[4]:
            _replace(traced, node, _sums)
    _merge(traced)
    traced.graph_module.recompile()
    return traced


def _replace(traced: ExportedProgram, node: fx.Node, rewrite: Callable[[fx.Graph, fx.Node], fx.Node]) -> None:
    with node.graph.inserting_before(node):
        made = rewrite(node.graph, node)
    _take_place(traced, node, made)


def _take_place(traced: ExportedProgram, node: fx.Node, other: fx.Node) -> None:
    """Let `other` be read wherever `node` was, which is erased."""
    node.replace_all_uses_with(other)
    traced.graph_signature.replace_all_uses(node.name, other.name)
    node.graph.erase_node(node)


def without_checks(graph: fx.Graph) -> None:
    """Erase assertions, which compute nothing: `x.float()` leaves one."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and _CHECK.match(operator_name(node.target)):
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _merge(traced: ExportedProgram) -> None:
    """Take out operators that compute what another does, or change nothing.

    ONNX would merge them later, and an activation that is gone there can have no quantizer. What is taken out keeps
    its place in the numbers of the graph's names: the node before it holds its operator under `merged`.
    """
    seen: dict[Any, fx.Node] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
            continue
        same = _unchanged(node) or seen.setdefault(_expression(node), node)
        returned = same.op == "placeholder" and any(user.op == "output" for user in node.users)
        if same is node or returned or not isinstance(node.meta.get("val"), Tensor | tuple | list):
            continue
        origin = node.args[0] if node.target is operator.getitem else node
        name = operator_name(origin.target)
        entry = [(same, name, node)] if isinstance(node.meta["val"], Tensor) else []
        node.prev.meta["merged"] = [*node.prev.meta.get("merged", ()), *entry, *node.meta.get("merged", ())]
        _take_place(traced, node, same)


def _expression(node: fx.Node) -> Any:
    """Return what `node` computes, equal for nodes that compute the same."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return node
    return str(node.target), repr(node.args), repr(node.kwargs)


def _unchanged(node: fx.Node) -> fx.Node | None:
    """Return the operand that `node` returns as it is, if it does."""
    operands = node.all_input_nodes
    if not known(operator_name(node.target)).still or not operands:
        return None
    source, made = operands[0].meta.get("val"), node.meta.get("val")
    if not isinstance(source, Tensor) or not isinstance(made, Tensor) or source.dtype != made.dtype:
        return None
    tensors = [operand for operand in operands if isinstance(operand.meta.get("val"), Tensor)]
    equal = [str(n) for n in source.shape] == [str(n) for n in made.shape]
    return operands[0] if equal and len(tensors) == 1 else None


def _by_hand(node: fx.Node) -> bool:
    """Return whether there is a rewrite that does what the second trace would do."""
    if node.target is aten.flatten.using_ints:
        source = node.args[0].meta["val"]  # type: ignore[union-attr]
        made, first = node.meta["val"], node.args[1] if len(node.args) > 1 else 0
        fixed = all(isinstance(size, int) for size in (*source.shape[1:], *made.shape[1:]))
        return bool(first) and fixed and made.dim() < source.dim()
    training = {aten.dropout.default: 2, aten.batch_norm.default: 5}  # where that argument stands
    place = training.get(node.target, len(node.args))  # type: ignore[call-overload]
    return node.args[place : place + 1] == (False,)


def _put(graph: fx.Graph, target: Any, args: tuple[Any, ...], like: fx.Node, value: Any) -> fx.Node:
    made = graph.call_function(target, args)
    origin = NodeSource(like, "featherweight", NodeSourceAction.REPLACE)
    made.meta = {**like.meta, "val": value, "from_node": [origin]}
    return made


def _view(graph: fx.Graph, node: fx.Node) -> fx.Node:
    source, value = node.args[0], node.meta["val"]
    assert isinstance(source, fx.Node)
    sizes = [
        size if isinstance(size, int) else _put(graph, aten.sym_size.int, (source, axis), source, size)
        for axis, size in enumerate(value.shape)
    ]
    return _put(graph, aten.view.default, (source, sizes), node, value)


def _clone(graph: fx.Graph, node: fx.Node) -> fx.Node:
    return _put(graph, aten.clone.default, (node.args[0],), node, node.meta["val"])


def _batch_norm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    inputs, weight, bias, mean, variance, _, momentum, eps, _ = node.args
    known, value = (inputs, weight, bias, mean, variance, momentum, eps), node.meta["val"]
    values = (value, value.new_empty(0), value.new_empty(0))
    every = _put(graph, aten._native_batch_norm_legit_no_training.default, known, node, values)
    return _put(graph, operator.getitem, (every, 0), node, value)


def _sums(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """An average with a divisor of its own is a plain one, zeros around it counted, times a constant."""
    source, kernel, stride, padding, *_, divisor = node.args
    sides = (kernel, kernel) if isinstance(kernel, int) else (*kernel, *kernel)[:2]  # type: ignore[misc]
    value = node.meta["val"]
    plain = (source, kernel, stride, padding)
    average = _put(graph, aten.avg_pool2d.default, plain, node, value)
    factor = sides[0] * sides[1] / divisor
    return _put(graph, aten.mul.Tensor, (average, factor), node, value)


_REWRITES: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node]] = {
    aten.flatten.using_ints: _view, aten.dropout.default: _clone, aten.batch_norm.default: _batch_norm,
}  # fmt: skip
