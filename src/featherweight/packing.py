"""A model as the contents of a file, and back: the one bridge between what is decided and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from torch import Tensor

from featherweight.artifact import Artifact, Contents, Raw, StoredGraph
from featherweight.artifact.artifact import LazyEncoded
from featherweight.artifact.module import TYPES, tensor_of
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.export import unknown_edges
from featherweight.formats import Encoded
from featherweight.model import Model, Note, flat_bytes
from featherweight.task import Task
from featherweight.task.protocol import network_of


def pack(model: Model, graph: StoredGraph | None = None, facts: Mapping[str, Any] | None = None) -> Contents:
    """Return `model` as the contents of a file, with the graph that runs it and facts about its making.

    Raises:
        UnsupportedError: a tensor has a type that a file cannot hold.
        IntegrityError: a quantizer is on no value of the graph.
    """
    if graph is not None and (unknown := unknown_edges(graph, model.activations)):
        raise IntegrityError("a quantizer on no value of the graph", where="activations", got=unknown[0])
    tensors = {name: model.weights.get(name) or _raw(name, t) for name, t in model.tensors.items()}
    notes = [msgspec.to_builtins(note) for note in model.notes]
    return Contents(
        tensors=tensors, aliases=model.aliases, structure=model.structure, graph=graph,
        activations=model.activations, facts={**(facts or {}), "notes": notes},
    )  # fmt: skip


def pack_changes(model: Model, before: Model, facts: Mapping[str, Any] | None = None) -> Contents:
    """Return as the contents of a file what `model` has that `before` has not; all of it, if their structures differ.

    Tensors are the same where models share them.
    """
    if model.structure != before.structure or model.tensors.keys() != before.tensors.keys():
        return pack(model, facts={**(facts or {}), "whole": True})
    kept = {
        name for name, tensor in model.tensors.items()
        if tensor is before.tensors[name] and model.weights.get(name) is before.weights.get(name)
    }  # fmt: skip
    whole = pack(model, facts=facts)
    tensors = {name: tensor for name, tensor in whole.tensors.items() if name not in kept}
    aliases = {alias: name for alias, name in whole.aliases.items() if name in tensors}
    return replace(whole, tensors=tensors, aliases=aliases)


def unpack_changes(artifact: Artifact, before: Model, task: Task) -> Model:
    """Return the model of which `pack_changes` wrote what `before` has not."""
    if artifact.facts.get("whole"):
        return unpack(artifact, task)
    encoded = {name: lazy.open() for name, lazy in artifact.lazy.items() if isinstance(lazy, LazyEncoded)}
    raw = (pair for pair in artifact.lazy.items() if pair[0] not in encoded)
    made = before.with_tensors((name, tensor_of(lazy)) for name, lazy in raw).with_encoded(encoded)
    notes = msgspec.convert(artifact.facts.get("notes", []), type=tuple[Note, ...])
    return replace(made, activations=dict(artifact.activations), notes=notes)


def unpack(artifact: Artifact, task: Task) -> Model:
    """Return the model that `pack` wrote, around a new network of the task."""
    module = artifact.into(network_of(task))
    weights = {name: entry for name, entry in artifact.tensors.items() if isinstance(entry, Encoded)}
    notes = msgspec.convert(artifact.facts.get("notes", []), type=tuple[Note, ...])
    return Model(module, dict(artifact.structure), weights, dict(artifact.activations), notes)


def _raw(name: str, tensor: Tensor) -> Raw:
    names = {kind: code for code, kind in TYPES.items()}
    if tensor.dtype not in names:
        raise UnsupportedError("a file cannot hold this type", where=name, got=str(tensor.dtype))
    return Raw(names[tensor.dtype], tuple(tensor.shape), flat_bytes(tensor).numpy().data)
