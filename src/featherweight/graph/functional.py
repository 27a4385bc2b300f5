"""A traced network as operators without mutation: by torch's second trace, or by hand where little is to be done."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.traceback import NodeSource, NodeSourceAction

aten = torch.ops.aten
# What the second trace leaves as it is. It takes as long as the first, and most networks are of nothing else.
PLAIN = {
    aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default, aten.linear.default,
    aten.relu.default, aten.hardtanh.default, aten.sigmoid.default, aten.silu.default, aten.hardswish.default,
    aten.hardsigmoid.default, aten.gelu.default, aten.add.Tensor, aten.mul.Tensor, aten.cat.default,
    aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim,
    aten.clone.default, aten.permute.default, aten.slice.Tensor, aten.pad.default,
}  # fmt: skip


def functional(traced: ExportedProgram) -> ExportedProgram:
    """Return the same function of operators that write to none of their arguments, composed ones taken apart.

    What is traced may be changed by this.
    """
    nodes = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    if not all(node.target in PLAIN or _by_hand(node) for node in nodes):
        again: ExportedProgram = traced.run_decompositions({})
        return again
    for node in nodes:
        if node.target not in PLAIN:
            with traced.graph.inserting_before(node):
                made = _REWRITES[node.target](traced.graph, node)
            node.replace_all_uses_with(made)
            traced.graph.erase_node(node)
    traced.graph_module.recompile()
    return traced


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


_REWRITES: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node]] = {
    aten.flatten.using_ints: _view,
    aten.dropout.default: _clone,
    aten.batch_norm.default: _batch_norm,
}
