"""The float graph of a network, once: ONNX without weights, and the table of which tensor stands where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir
import torch
from onnx import ModelProto, TensorProto
from torch import nn

from featherweight.artifact.contents import Initialiser, StoredGraph
from featherweight.errors import UnsupportedError
from featherweight.export.check import check
from featherweight.export.initialisers import marked, match
from featherweight.export.simplify import rename, simplify
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
    edges = edges_of(module, program)
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
    _note_types(proto, weights)
    return StoredGraph(proto.SerializeToString(deterministic=True), initialisers, _renumbered(program.outputs, outputs))
