"""What the inputs and outputs of an exported model are called: as in the file that the network came from.

Within featherweight values are named after edges and arguments. The names of a network that was read from ONNX, which
need not be identifiers, and its names of free axes travel in the metadata of the stored graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
import onnx
from onnx import GraphProto, ModelProto, ValueInfoProto

from featherweight.artifact.container import error_context
from featherweight.errors import IntegrityError

KEY = "featherweight.signature"
Size = Annotated[int, msgspec.Meta(ge=0)]


class Named(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An input or output.

    Attributes:
        name: of it in the caller's file.
        value: of an input its name in the graph; of an output its place there, in decimals.
        shape: sizes; a name, or None, where the size is free.
    """

    name: str
    value: str
    shape: tuple[Size | str | None, ...]


class Signature(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Inputs and outputs in the order of the caller's file."""

    inputs: tuple[Named, ...]
    outputs: tuple[Named, ...]


def sign(model: ModelProto, signature: Signature) -> None:
    """Put a signature into the metadata of a graph that is to be stored."""
    model.metadata_props.add(key=KEY, value=msgspec.json.encode(signature).decode())


def signed(model: ModelProto, outputs: Any) -> ModelProto:
    """Return a complete model with the names of its signature, changed in place; without one outputs by their keys.

    Args:
        model: made of a stored graph.
        outputs: of the stored graph: how they are nested.

    Raises:
        IntegrityError: the signature does not fit the graph.
    """
    found = [entry for entry in model.metadata_props if entry.key == KEY]
    if found:
        with error_context("graph, signature"):
            signature = msgspec.json.decode(found[0].value, type=Signature)
        for entry in found:
            model.metadata_props.remove(entry)
        _check(model.graph, signature)
        _apply(model.graph, signature)
    elif isinstance(outputs, dict) and all(isinstance(place, int) for place in outputs.values()):
        _rename(model.graph, {model.graph.output[place].name: key for key, place in outputs.items()})
    return model


def _check(graph: GraphProto, signature: Signature) -> None:
    inputs, places = {value.name for value in graph.input}, {str(n) for n in range(len(graph.output))}
    names = Counter(entry.name for entry in (*signature.inputs, *signature.outputs))
    fits = (
        {entry.value for entry in signature.inputs} == inputs
        and len(signature.inputs) == len(inputs)
        and {entry.value for entry in signature.outputs} == places
        and max(names.values(), default=1) == 1
        and all(names)
    )
    if not fits:
        raise IntegrityError("the signature does not fit the stored graph", where="graph, signature")


def _apply(graph: GraphProto, signature: Signature) -> None:
    inputs = {value.name: value for value in graph.input}
    taken = [(inputs[entry.value], entry) for entry in signature.inputs]
    ordered = _ordered(value for value, _ in taken)
    made = list(graph.output)
    given: list[tuple[ValueInfoProto, Named]] = []
    used: set[str] = set()
    for entry in signature.outputs:
        value = made[int(entry.value)]
        if value.name in used:  # a value that the caller's file returns twice
            copy = ValueInfoProto()
            copy.CopyFrom(value)
            copy.name = f"{value.name}/{entry.name}"
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [copy.name]))
            value = copy
        used.add(value.name)
        given.append((value, entry))
    results = _ordered(value for value, _ in given)
    del graph.input[:], graph.output[:]
    graph.input.extend(ordered)
    graph.output.extend(results)
    for values, entries in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        for value, entry in zip(values, entries, strict=True):
            _axes(value, entry.shape)
    pairs = zip([*graph.input, *graph.output], (*signature.inputs, *signature.outputs), strict=True)
    _rename(graph, {value.name: entry.name for value, entry in pairs})


def _ordered(values: Iterable[ValueInfoProto]) -> list[ValueInfoProto]:
    """Return copies, which stay when the graph's own go."""
    found = []
    for value in values:
        copy = ValueInfoProto()
        copy.CopyFrom(value)
        found.append(copy)
    return found


def _axes(value: ValueInfoProto, shape: Sequence[int | str | None]) -> None:
    """Name the free axes of a value as the caller does; an axis that the graph fixes stays so."""
    axes = value.type.tensor_type.shape.dim
    if len(axes) != len(shape):
        return
    for axis, size in zip(axes, shape, strict=True):
        if isinstance(size, int):
            axis.dim_value = size
        elif not axis.HasField("dim_value"):
            axis.ClearField("dim_param")
            if size is not None:
                axis.dim_param = size


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename values, at any depth; others that have the new names give way."""
    names = {old: new for old, new in names.items() if old != new}
    known = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    known |= {name for node in _nodes(graph) for name in (*node.input, *node.output)}
    for new in list(names.values()):
        if new in known and new not in names:
            other = f"{new}'"
            while other in known or other in names.values():
                other += "'"
            names[new] = other
    for inner in _graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.name = names.get(value.name, value.name)
        for node in inner.node:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]


def _graphs(graph: GraphProto) -> list[GraphProto]:
    """Return a graph and those inside it."""
    inside = [
        inner
        for node in graph.node
        for attribute in node.attribute
        for part in (attribute.g, *attribute.graphs)
        if part.node
        for inner in _graphs(part)
    ]
    return [graph, *inside]


def _nodes(graph: GraphProto) -> list[Any]:
    return [node for inner in _graphs(graph) for node in inner.node]
