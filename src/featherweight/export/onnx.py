"""The float graph of a network, once: ONNX without weights, and the table of which tensor stands where."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import onnx_ir as ir
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from featherweight.artifact.contents import Initialiser, StoredGraph
from featherweight.capture.program import Dynamic, Program, capture, eval_mode
from featherweight.capture.pytree import Nest
from featherweight.capture.refusal import refusal
from featherweight.capture.trace import canonical_names, path_of, size
from featherweight.errors import UnsupportedError
from featherweight.export.check import check
from featherweight.export.float_graph import check_size
from featherweight.export.initialisers import Marks, marked, match
from featherweight.export.simplify import rename, simplify
from featherweight.graph.graph import Edge
from featherweight.task import Inputs


def export(
    module: nn.Module, example: Inputs, *, dynamic: Dynamic = None, captured: Program | None = None
) -> StoredGraph:
    """Return the float graph of `module` in eval mode, checked against it; the module is left as it was.

    What ONNX Runtime computes with the module's tensors equals the module on the example, on random values
    and, where the batch is free, on other sizes of it, to 1e-5 of the largest output or eight times the error of
    float32 itself. Values of the graph are
    named after the edges of `featherweight.capture.trace`, inputs after the arguments of `module.forward`. The
    same module gives the same bytes in every process.

    Args:
        module: the network.
        example: one tensor, a tuple of positional arguments or a mapping of keyword arguments.
        dynamic: axes that may change in size by input name; by default axis 0 of every input where that
            works, and none where it does not.
        captured: the module, captured with these, if it was before.

    Raises:
        UnsupportedError: the network cannot be traced or written as ONNX, or the result is not the network's;
            names the layer and why. Or its weights are too large for a graph.
        TaskError: the network fails on its own example.
    """
    check_size(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    program = captured or capture(module, example, dynamic=dynamic)
    try:
        return stored_graph(module, program)
    except UnsupportedError:
        if dynamic is not None or not program.dynamic:
            raise
    return stored_graph(module, capture(module, example, dynamic={}))


def stored_graph(module: nn.Module, program: Program) -> StoredGraph:
    """Return the float graph of a captured module, checked against it; as `export`, without another try.

    Raises:
        UnsupportedError: it cannot be written as ONNX, or the result is not the network's; names the layer.
    """
    stored = _convert(module, program)
    check(stored, module, program)
    return stored


def _convert(module: nn.Module, program: Program) -> StoredGraph:
    """Export the program with marks in the place of its tensors, then take the marked initialisers out."""
    with eval_mode(module):
        exported, marks = _translate(module, program)
        model = exported.model
        table = match(model.graph, marks)
        edges = _edges(program, exported.exported_program)
        weights, edges = simplify(model, [entry.name for entry in table], edges)
        outputs = _plain_outputs(model.graph)
        inputs = zip(model.graph.inputs, program.example, strict=True)
        names = edges | {value.name or "": name for value, name in inputs}
        tensors = _distinct([entry.tensor for entry in table], set(names.values()))
        names |= {entry.name: name for entry, name in zip(table, tensors, strict=True)}
        rename(model, weights, names)
    initialisers = tuple(
        Initialiser(name, entry.tensor, entry.permutation, entry.shape)
        for name, entry in zip(tensors, table, strict=True)
    )
    proto = ir.serde.serialize_model(model)
    del proto.graph.value_info[:]
    _note_types(proto, weights)
    return StoredGraph(
        proto.SerializeToString(deterministic=True), initialisers, _renumbered(program.outputs, outputs)
    )


def _translate(module: nn.Module, program: Program) -> tuple[torch.onnx.ONNXProgram, Marks]:
    """Return the program as ONNX with a mark in the place of every tensor, and the marks by name."""
    state = program.exported.state_dict
    real, canonical = dict(state), canonical_names(module)
    marked_state, marks = marked(state, {f"module.{name}": first for name, first in canonical.items()})
    state.update(marked_state)
    try:
        exported = torch.onnx.export(program.exported, dynamo=True, optimize=False, verbose=False)
    except Exception as error:
        paths = {node.name: path_of(node) for node in program.exported.graph.nodes}
        raise refusal(module, error, "cannot be written as ONNX", paths) from error
    finally:
        state.update(real)
    assert exported is not None
    return exported, marks


def _edges(program: Program, translated: ExportedProgram | None) -> dict[str, Edge]:
    """Name of a value that was translated to ONNX, to its edge; values that only ONNX has are left out.

    Every translated node knows the captured one that it came from: the last of those that came from one, of its
    type, is its value.
    """
    assert translated is not None
    edges, captured = program.edges, program.exported.graph
    known: dict[Edge, tuple[str, str]] = {}
    for node in captured.nodes:  # an activation is the first of the values that are equal to it
        if node.op == "call_function" and node.name in edges:
            known.setdefault(edges[node.name], (_origin(node, 0), _type(node)))
    values = {(_origin(node, id(captured)), _type(node)): node.name for node in translated.graph.nodes}
    made = {edge: values[place] for edge, place in known.items() if place in values}
    return {value: edge for edge, value in made.items() if edge not in program.example}


def _origin(node: fx.Node, graph: int) -> str:
    """Return the name of the node that `node` came from in the graph of that `id` (0: its own), and which result.

    Of how many: an operator may be written as others, whose results are none of its own.
    """
    if node.target is operator.getitem:
        whole = node.args[0]
        assert isinstance(whole, fx.Node)
        return f"{_origin(whole, graph)}[{node.args[1]} of {len(whole.meta['val'])}]"
    if not graph:
        return node.name
    source = node.meta.get("from_node")
    while source and source[-1].graph_id != graph:
        source = source[-1].from_node
    return source[-1].name if source else node.name if node.op == "placeholder" else ""


def _type(node: fx.Node) -> str:
    value = node.meta.get("val")
    return f"{value.dtype}{[size(n) for n in value.shape]}" if isinstance(value, Tensor) else ""


def _plain_outputs(graph: ir.Graph) -> list[int]:
    """Make outputs distinct results of nodes; return the new position of each old one."""
    distinct: list[ir.Value] = list(dict.fromkeys(graph.outputs))
    positions = [distinct.index(value) for value in graph.outputs]
    graph.outputs.clear()
    for number, value in enumerate(distinct):
        if value.producer() is None:  # an input or a weight that the network returns as it is
            copy = ir.Value(name=f"output {number}", type=value.type, shape=value.shape)
            graph.append(ir.node("Identity", [value], outputs=[copy]))
            value = copy
        graph.outputs.append(value)
    return positions


def _distinct(names: Iterable[str], taken: set[str]) -> list[str]:
    """Names for the initialisers: their tensor's, with a mark behind it where that is taken."""
    found: list[str] = []
    for name in names:
        while name in taken:
            name += "'"
        taken.add(name)
        found.append(name)
    return found


def _renumbered(nest: Nest, positions: list[int]) -> Nest:
    if isinstance(nest, dict):
        return {key: _renumbered(part, positions) for key, part in nest.items()}
    if isinstance(nest, list):
        return [_renumbered(part, positions) for part in nest]
    return None if nest is None else positions[nest]


def _note_types(model: ModelProto, weights: Iterable[ir.Value]) -> None:
    """Leave a stub without data for each weight that is not float32, so that its type is known."""
    for value in weights:
        dtype = int(value.dtype or 0)
        if dtype != TensorProto.FLOAT:
            model.graph.initializer.append(TensorProto(name=value.name, data_type=dtype))
