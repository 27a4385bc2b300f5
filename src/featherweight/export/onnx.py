"""The float graph of a network, once: ONNX without weights, and the table of which tensor stands where."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
import torch
from onnx import ModelProto, TensorProto
from torch import fx, nn

from featherweight.artifact.contents import Initialiser, StoredGraph
from featherweight.errors import UnsupportedError
from featherweight.export.check import check
from featherweight.export.initialisers import marked, match
from featherweight.export.simplify import rename, simplify
from featherweight.graph.nest import Nest
from featherweight.graph.program import Dynamic, Program, capture, still
from featherweight.graph.reasons import refusal
from featherweight.graph.trace import edges_of
from featherweight.graph.views import canonical_names
from featherweight.task import Inputs


def export(module: nn.Module, example: Inputs, *, dynamic: Dynamic = None) -> StoredGraph:
    """Return the float graph of `module` in eval mode, checked against it; the module is left as it was.

    What ONNX Runtime computes with the module's tensors equals the module on the example, and on other batch sizes
    and random values where the batch is dynamic, to 1e-5 of the largest output. Values of the graph are named after
    the edges of `featherweight.graph.trace`, inputs after the arguments of `module.forward`. The same module gives
    the same bytes in every process.

    Args:
        module: the network.
        example: one tensor, a tuple of positional arguments or a mapping of keyword arguments.
        dynamic: axes that may change in size by input name; by default axis 0 of every input where that works, and
            none where it does not.

    Raises:
        UnsupportedError: the network cannot be traced or written as ONNX, or the result is not the network's;
            names the layer and why.
        TaskError: the network fails on its own example.
    """
    program = capture(module, example, dynamic=dynamic)
    try:
        return _checked(module, program)
    except UnsupportedError:
        if dynamic is not None or not program.dynamic:
            raise
    return _checked(module, capture(module, example, dynamic={}))


def _checked(module: nn.Module, program: Program) -> StoredGraph:
    stored = _convert(module, program)
    check(stored, module, program)
    return stored


def _convert(module: nn.Module, program: Program) -> StoredGraph:
    """Export the program with marks in the place of its tensors, then take the marked initialisers out."""
    canonical = {f"module.{name}": f"module.{first}" for name, first in canonical_names(module).items()}
    state, marks = marked(program.exported.state_dict, canonical)
    real = dict(program.exported.state_dict)
    program.exported.state_dict.update(state)
    try:
        with still(module):
            exported = torch.onnx.export(program.exported, dynamo=True, optimize=False, verbose=False)
    except Exception as error:
        raise refusal(module, error, "cannot be written as ONNX") from None
    finally:
        program.exported.state_dict.update(real)
    assert exported is not None
    model = exported.model
    table = match(model.graph, marks)
    trusted = _trusted(program, exported.exported_program.graph)
    edges = {old: new for old, new in edges_of(module, program).items() if old in trusted}
    weights = simplify(model, [entry.name for entry in table])
    outputs = _plain_outputs(model.graph)
    names = {value.name or "": name for value, name in zip(model.graph.inputs, program.example, strict=True)}
    names |= {old: new for old, new in edges.items() if old not in names}
    tensors = _distinct([entry.tensor.removeprefix("module.") for entry in table], set(names.values()))
    names |= {entry.name: name for entry, name in zip(table, tensors, strict=True)}
    rename(model, weights, names)
    initialisers = tuple(
        Initialiser(name, entry.tensor.removeprefix("module."), entry.permutation, entry.shape)
        for name, entry in zip(tensors, table, strict=True)
    )
    proto = ir.serde.serialize_model(model)
    del proto.graph.value_info[:]
    _note_types(proto, weights)
    return StoredGraph(proto.SerializeToString(deterministic=True), initialisers, _renumbered(program.outputs, outputs))


def _trusted(program: Program, converted: fx.Graph) -> set[str]:
    """Names that mean the same value in the captured function and in what was translated to ONNX."""
    captured = {node.name: node for node in program.exported.graph.nodes}
    trusted: set[str] = set()
    for node in converted.nodes:
        same = captured.get(node.name)
        if same is None or same.op != node.op or same.target != node.target:
            continue
        if str((same.args, same.kwargs)) == str((node.args, node.kwargs)) and all(n.name in trusted for n in node.all_input_nodes):
            trusted.add(node.name)
    return trusted


def _plain_outputs(graph: ir.Graph) -> list[int]:
    """Make outputs distinct results of nodes; return the new position of each old one."""
    distinct: list[ir.Value] = list(dict.fromkeys(graph.outputs))
    positions = [distinct.index(value) for value in graph.outputs]
    graph.outputs.clear()
    for number, value in enumerate(distinct):
        if value.producer() is None:  # an input or a weight that the network returns as it is
            node = ir.node("Identity", [value], outputs=[ir.Value(name=f"output {number}", type=value.type)])
            graph.append(node)
            value = node.outputs[0]
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
