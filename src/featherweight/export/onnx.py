"""The float graph of a network, once: ONNX without weights, and the table of which tensor stands where.

Which initialiser is which tensor is found by content, never by name: before the export every tensor is filled with
random numbers of its own, its mark. An initialiser that holds a mark, transposed or reshaped, is that tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from msgspec import structs
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from featherweight.artifact.contents import Initialiser, StoredGraph
from featherweight.capture.onnx import OnnxNetwork
from featherweight.capture.program import Dynamic, Program, capture, eval_mode
from featherweight.capture.pytree import Nest
from featherweight.capture.refusal import refusal
from featherweight.capture.trace import canonical_names, origin, path_of, type_of
from featherweight.errors import UnsupportedError
from featherweight.export.check import check, samples_alone
from featherweight.export.float_graph import LARGE
from featherweight.export.signature import Named, Signature, sign
from featherweight.export.simplify import rename, simplify
from featherweight.graph.graph import Edge
from featherweight.task import Inputs

Array = NDArray[Any]
Marks = dict[str, Array]

FEW = 64  # elements that tell most arrays apart
STRIDES = (1, 13, 97, 1009)  # of the elements of the mark of a large tensor, without a common divisor


def export(
    module: nn.Module, example: Inputs, *, dynamic: Dynamic = None, captured: Program | None = None
) -> StoredGraph:
    """Return the float graph of `module` in eval mode, checked against it; the module is left as it was.

    What ONNX Runtime computes with the module's tensors equals the module on the example, on random values
    and, where the batch is free, on other sizes of it, to 1e-5 of the largest output or eight times the error of
    float32 itself. Values of the graph are named after the edges of `featherweight.capture.trace`, inputs after the
    arguments of `module.forward`. The same module gives the same bytes in every process.

    Args:
        module: the network.
        example: one tensor, a tuple of positional arguments or a mapping of keyword arguments.
        dynamic: axes that may change in size by input name; by default axis 0 of every input where that
            works, and none where it does not.
        captured: the module, captured with these, if it was before.

    Raises:
        UnsupportedError: the network cannot be traced or written as ONNX, or the result is not the network's;
            names the layer and why.
        TaskError: the network fails on its own example.
    """
    return export_and_why(module, example, dynamic=dynamic, captured=captured)[0]


def export_and_why(
    module: nn.Module, example: Inputs, *, dynamic: Dynamic = None, captured: Program | None = None
) -> tuple[StoredGraph, str]:
    """Return the float graph as `export` does, and why axes that may change are fixed in it, if any are.

    Where not all can stay free, those of samples do, if they can.
    """
    program = captured or capture(module, example, dynamic=dynamic)
    try:
        return stored_graph(module, program), program.fixed
    except UnsupportedError as error:
        if dynamic is not None or not program.dynamic:
            raise
        why = program.fixed or str(error).partition("\n")[0]
    with suppress(UnsupportedError):
        return stored_graph(module, capture(module, example, dynamic=samples_alone(program))), why
    return stored_graph(module, capture(module, example, dynamic={})), why


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
    initialisers = tuple(structs.replace(e, name=name) for name, e in zip(tensors, table, strict=True))
    proto = ir.serde.serialize_model(model)
    del proto.graph.value_info[:]
    _note_types(proto, weights)
    nest = _renumbered(program.outputs, outputs)
    if isinstance(module, OnnxNetwork):
        sign(proto, _signature(module, nest))
    content = proto.SerializeToString(deterministic=True)
    return StoredGraph(content, initialisers, nest)


def _signature(network: OnnxNetwork, nest: Nest) -> Signature:
    """Return what the file that a network was read from calls its inputs and outputs."""
    places = nest if isinstance(nest, dict) else {network.outputs[0].name: nest}
    inputs = (Named(value.name, network.identifiers[value.name], value.shape) for value in network.inputs)
    outputs = (Named(value.name, str(places[value.name]), value.shape) for value in network.outputs)
    return Signature(tuple(inputs), tuple(outputs))


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
    """Return the edge of each value that was translated to ONNX; values that only ONNX has are left out.

    Every translated node knows the captured one that it came from: the last of those that came from one, of its
    type, is its value.
    """
    assert translated is not None
    edges, captured = program.edges, program.exported.graph
    known: dict[Edge, tuple[str, str]] = {}
    for node in captured.nodes:  # an activation is the first of the values that are equal to it
        if node.op == "call_function" and node.name in edges:
            known.setdefault(edges[node.name], (_origin(node, captured), type_of(node)))
    values = {(_origin(node, captured), type_of(node)): node.name for node in translated.graph.nodes}
    made = {edge: values[place] for edge, place in known.items() if place in values}
    return {value: edge for edge, value in made.items() if edge not in program.example}


def _origin(node: fx.Node, graph: fx.Graph) -> str:
    """Return the name of the node of `graph` that `node` is or came from, and which of how many results it is.

    Of how many: an operator may be written as others, whose results are none of its own.
    """
    if node.target is operator.getitem:
        whole = node.args[0]
        assert isinstance(whole, fx.Node)
        return f"{_origin(whole, graph)}[{node.args[1]} of {len(whole.meta['val'])}]"
    if node.graph is graph:
        return node.name
    return origin(node, graph) or (node.name if node.op == "placeholder" else "")


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
    """Return names for the initialisers: their tensor's, with a prime behind it where that is taken."""
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


def marked(state: Mapping[str, Tensor], canonical: Mapping[str, str]) -> tuple[dict[str, Tensor], Marks]:
    """Return a state of the same names, shapes, types and ties, every tensor random, and the marks by name.

    `canonical`: name to the canonical name of its tensor; a tensor that is not in it is left as it is.
    """
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in canonical and canonical[name] not in tensors:
            tensors[canonical[name]] = _random(tensor, generator)
    marks = {name: _bits(tensor) for name, tensor in tensors.items()}
    return {name: tensors.get(canonical.get(name, ""), tensor) for name, tensor in state.items()}, marks


def _random(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return random numbers of the tensor's shape and type: positive, so that a variance stays one.

    A large tensor takes far fewer numbers than it has elements: see `_strides`.
    """
    if tensor.nbytes >= LARGE and tensor.dtype == torch.float32 and 1 < tensor.dim() <= len(STRIDES):
        strides = _strides(tensor.shape)
        count = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True))
        mark = torch.rand(count, generator=generator).add_(0.5).as_strided(tensor.shape, strides)
        return nn.Parameter(mark, requires_grad=False) if isinstance(tensor, nn.Parameter) else mark
    if tensor.dtype.is_floating_point:
        wide = torch.float32 if tensor.dtype == torch.float32 else torch.float64  # twice the memory
        mark = torch.rand(tensor.shape, generator=generator, dtype=wide).add_(0.5)
    else:
        top = 2 if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max
        mark = torch.randint(0, top, tensor.shape, generator=generator)
    mark = mark.to(tensor.dtype)
    return nn.Parameter(mark, requires_grad=False) if isinstance(tensor, nn.Parameter) else mark


def _strides(shape: Sequence[int]) -> list[int]:
    """Return strides of the axes of a mark whose elements overlap: the longer the axis, the less.

    They differ, so that another order of axes longer than 1 holds other numbers.
    """
    strides = dict(zip(sorted(range(len(shape)), key=lambda axis: -shape[axis]), STRIDES, strict=False))
    return [strides[axis] for axis in range(len(shape))]


def _bits(tensor: Tensor) -> Array:
    """Return a tensor as an array; bfloat16, which numpy lacks, as its 16 bits."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()


def match(graph: ir.Graph, marks: Marks) -> tuple[Initialiser, ...]:
    """Return the initialisers of `graph` that are tensors of the network; the others are constants."""
    found = []
    for name, value in graph.initializers.items():
        if value.const_value is None:
            continue
        array = value.const_value.numpy()
        if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
            array = array.view(np.int16)
        found += [entry for entry in [_matched(name, array, marks)] if entry is not None]
    return tuple(found)


def _matched(name: str, array: Array, marks: Marks) -> Initialiser | None:
    for tensor, mark in marks.items():
        if mark.size != array.size or mark.dtype != array.dtype or not array.size:
            continue
        # Few bits may be equal by chance. The first element stays the first under every permutation.
        few = mark.nbytes < 4 or mark.dtype == bool
        if (few and not name.endswith(tensor)) or (not few and mark.flat[0] != array.flat[0]):
            continue
        own = tuple(range(mark.ndim))
        for order in permutations(own) if mark.ndim <= 6 else [own]:  # the given one first
            moved = mark.transpose(order)
            if _same_flat(moved, array):
                shape = () if moved.shape == array.shape else array.shape
                return Initialiser(name, tensor, () if order == own else order, shape)
    return None


def _same_flat(a: Array, b: Array) -> bool:
    """Return whether arrays of one size hold the same numbers in row-major order; of one shape, without copies."""
    if a.shape != b.shape and np.array_equal(a.flat[:FEW], b.flat[:FEW]):
        a, b = a.reshape(-1), b.reshape(-1)
    return np.array_equal(a, b)
