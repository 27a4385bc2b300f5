"""The exported graph made small: constants folded, no size computed in vain, nothing but what runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

_LARGEST_CONSTANT = 4096  # elements: what is larger is computed when the network runs
_MARK = "activation"
_CLEANING = (
    common.RemoveUnusedNodesPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.DeduplicateInitializersPass(),
    common.CommonSubexpressionEliminationPass(),
    common.RemoveUnusedNodesPass(),
)


def simplify(
    model: ir.Model, weights: Iterable[str], edges: Mapping[str, str]
) -> tuple[list[ir.Value], dict[str, str]]:
    """Simplify `model` in place; take the initialisers named by `weights` out of it, without their data.

    Args:
        model: changed.
        weights: names of initialisers.
        edges: value to the name of the activation that it is. Each activation stays a value of the graph.

    Returns:
        The values of those weights, which the nodes still read; and `edges` by the new names of its values.
    """
    values = [model.graph.initializers.pop(name) for name in weights]
    for value in values:
        value.const_value = None
    _order_loops(model.graph)
    inputs = len(model.graph.inputs)
    outputs, kept = len(model.graph.outputs), _kept(model.graph, edges)
    model.graph.inputs.extend(values)  # inputs while constants are folded, so that nothing of theirs is
    _drop_absent(model.graph)
    for _ in range(2):
        optimizer.fold_constants(
            model, input_size_limit=_LARGEST_CONSTANT, output_size_limit=_LARGEST_CONSTANT,
            onnx_shape_inference=False,
        )  # fmt: skip
        _infer_one_size(model.graph)
        _drop_zero_biases(model.graph)
        for clean in _CLEANING:
            clean(model)
    del model.graph.inputs[inputs:]
    found = list(model.graph.outputs)[outputs:]
    del model.graph.outputs[outputs:]
    return values, _named(model.graph, found, kept)


def _kept(graph: ir.Graph, edges: Mapping[str, str]) -> list[str]:
    """Make the first value of each activation an output, which no pass takes away, and its node like no other.

    Outputs keep their order, whatever becomes of their names.
    """
    kept: dict[str, ir.Value] = {}
    for node in graph:
        for value in node.outputs:
            if (edge := edges.get(value.name or "")) is not None and edge not in kept:
                kept[edge] = value
                node.attributes.add(ir.AttrString(_MARK, edge))
    graph.outputs.extend(kept.values())
    return list(kept)


def _named(graph: ir.Graph, values: Iterable[ir.Value], edges: Iterable[str]) -> dict[str, str]:
    """Return the activation of each value; where two became one, or one became an input, it is copied."""
    found = {value.name or "": value.name or "" for value in graph.inputs}
    for value, edge in zip(values, edges, strict=True):
        named = value
        if (value.name or "") in found:
            named = ir.Value(name=f"{edge} copied", type=value.type, shape=value.shape)
            copy, producer = ir.node("Identity", [value], outputs=[named]), value.producer()
            if producer is None:
                graph.insert_before(graph[0], copy)
            else:
                graph.insert_after(producer, copy)
        found[named.name or ""] = edge
    for node in graph:
        node.attributes.pop(_MARK, None)
    return found


def _drop_absent(graph: ir.Graph) -> None:
    """Take away what reshapes an argument that is not there: the axes of a mean over all of them."""
    for node in list(graph):
        if node.op_type == "Reshape" and node.inputs[0] is None:
            for reader, place in list(node.outputs[0].uses()):
                reader.replace_input_with(place, None)
            graph.remove(node, safe=True)


def _order_loops(graph: ir.Graph) -> None:
    """Put what loops carry in the order in which bodies compute it: the exporter orders it by hashes of strings."""
    for node in list(graph):
        body = node.attributes["body"].as_graph() if node.op_type == "Loop" else None
        if body is None:
            continue
        places = {value: place for place, inner in enumerate(body) for value in inner.outputs}
        carried = range(len(node.inputs) - 2)
        order = sorted(carried, key=lambda n: places.get(body.outputs[n + 1], -1))
        if order == list(carried):
            continue
        given, results = list(node.inputs[2:]), list(node.outputs)
        body.inputs[2:] = [body.inputs[n + 2] for n in order]
        body.outputs[1 : 1 + len(order)] = [body.outputs[n + 1] for n in order]
        moved = [results[n] for n in order] + results[len(order) :]
        made = [ir.Value(name=value.name, type=value.type, shape=value.shape) for value in moved]
        loop = ir.node(
            "Loop",
            [*node.inputs[:2], *(given[n] for n in order)],
            node.attributes,
            outputs=made,
            name=node.name,
        )
        graph.insert_after(node, loop)
        ir.convenience.replace_all_uses_with(moved, made, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _drop_zero_biases(graph: ir.Graph) -> None:
    """Take away the zeros that stand for a bias where the layer has none."""
    for node in graph:
        bias = node.inputs[2] if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3 else None
        zeros = ir.convenience.get_const_tensor(bias) if bias is not None else None
        if zeros is not None and not zeros.numpy().any():
            node.resize_inputs(2)


def _infer_one_size(graph: ir.Graph) -> None:
    """Where all sizes of a Reshape are known but one, let it infer that one (-1) and compute none."""
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[1] is None:
            continue
        join = node.inputs[1].producer()
        if join is None or join.op_type != "Concat":
            continue
        flat: list[int] = []
        for value in join.inputs:
            part = ir.convenience.get_const_tensor(value) if value is not None else None
            unknown = [-1 if _one_number(value) else 0]
            flat += unknown if part is None else part.numpy().reshape(-1).tolist()
        if flat.count(-1) == 1 and 0 not in flat:
            constant = ir.Value(
                name=f"{node.inputs[1].name}_sizes", const_value=ir.tensor(np.array(flat, np.int64)),
                type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(flat)]),
            )  # fmt: skip
            graph.register_initializer(constant)
            node.replace_input_with(1, constant)


def _one_number(value: ir.Value | None) -> bool:
    """Whether a shape operand is known to hold one number."""
    if value is None:
        return False
    if value.shape is not None and value.shape.is_static():
        return bool(value.shape.numpy() == (1,))
    producer = value.producer()
    sizes = producer.inputs[1] if producer is not None and producer.op_type == "Reshape" else None
    target = ir.convenience.get_const_tensor(sizes) if sizes is not None else None
    return target is not None and target.numpy().tolist() in ([-1], [1])


def rename(model: ir.Model, weights: Iterable[ir.Value], names: Mapping[str, str]) -> None:
    """Name values as `names` says and all others by numbers; drop what only people read.

    Args:
        model: changed in place.
        weights: values of the weights, which `simplify` took out of the graph.
        names: old name to new name; the first value of a new name has it.
    """
    graph, taken = model.graph, set(names.values())
    fresh = (name for name in map(str, itertools.count()) if name not in taken)
    constants = list(graph.initializers.values())
    graph.initializers.clear()  # they are kept under their names
    results = [value for node in graph for value in node.outputs]
    given: set[str] = set()
    for value in [*graph.inputs, *weights, *constants, *results, *_inside(graph)]:
        name = names.get(value.name or "", "")
        value.name = name if name and name not in given else next(fresh)
        given.add(value.name)
    for value in constants:
        assert value.const_value is not None
        value.const_value.name = value.name
        graph.register_initializer(value)
    symbols: dict[str, str] = {}
    for value in graph.inputs:
        assert value.shape is not None
        sizes = [
            n if isinstance(n, int) else symbols.setdefault(str(n), f"n{len(symbols)}") for n in value.shape
        ]
        value.shape = ir.Shape(sizes)
    for value in graph.outputs:
        known = value.shape if value.shape is not None else ()
        value.shape = ir.Shape([n if isinstance(n, int) else symbols.get(str(n)) for n in known])
    for node in graph:
        node.name = None
        _drop_defaults(node)
    common.ClearMetadataAndDocStringPass()(model)
    graph.name, model.producer_name, model.producer_version = "g", None, None


def _inside(graph: ir.Graph) -> list[ir.Value]:
    """Return the values of the graphs inside a graph: bodies of loops and branches."""
    held = (attribute for node in graph.all_nodes() for attribute in node.attributes.values())
    inner = [attribute.as_graph() for attribute in held if attribute.type == ir.AttributeType.GRAPH]
    return [value for g in inner for value in [*g.inputs, *(v for node in g for v in node.outputs)]]


def _drop_defaults(node: ir.Node) -> None:
    """Take away the attributes that say what holds without them."""
    kind = node.op_type, node.domain
    declared = onnx.defs.get_schema(*kind).attributes if onnx.defs.has(*kind) else {}
    for name, attribute in list(node.attributes.items()):
        default = declared[name].default_value if name in declared else onnx.AttributeProto()
        equal = default.type and ir.serde.deserialize_attribute(default).value == attribute.value
        neutral = {"strides": 1, "dilations": 1, "pads": 0}.get(name)
        if equal or (neutral is not None and set(attribute.value) == {neutral}):
            del node.attributes[name]
