"""Nested inputs and outputs of a network as flat tensors, and how the nesting is written as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.errors import TaskError, UnsupportedError
from featherweight.task import Inputs, Output

# An index into the flat outputs, null, an array (tuple or list) or an object (dict, named tuple, dataclass).
Nest = Any


def flatten_inputs(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors of `inputs` in order, named after the arguments of `module.forward`.

    A tensor inside an argument is named after the way to it: `state_0`, `batch_mask`.

    Raises:
        TaskError: there is none, or two have one name.
    """
    arguments = inputs
    if not isinstance(inputs, Mapping):
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        arguments = dict(zip(_parameters(module, len(values)), values, strict=True))
    found = [pair for name, value in arguments.items() for pair in _tensors(str(name), value)]
    named = dict(found)
    if not named or len(named) < len(found):
        raise TaskError("the example inputs need tensors of distinct names", got=[name for name, _ in found])
    for name, tensor in named.items():
        if tensor.device.type != "cpu" or tensor.is_complex() or tensor.layout != torch.strided:
            what = "not a dense real tensor on the CPU"
            raise UnsupportedError(what, where=f"input {name}", got=tensor.dtype)
    return named


def _parameters(module: nn.Module, count: int) -> list[str]:
    """Return the names of the first `count` positional arguments of `module.forward`."""
    own: Mapping[str, str] | None = getattr(module, "identifiers", None)  # of a network from ONNX
    if own is not None and len(own) >= count:
        return list(own.values())[:count]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in positional][:count]
    return names + [f"input_{index}" for index in range(len(names), count)]


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield re.sub(r"\W", "_", name), value
    elif isinstance(value, Mapping | tuple | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(f"{name}_{key}", part)


def rebuild(inputs: Any, tensors: Iterator[Tensor]) -> Any:
    """Return `inputs` with its tensors replaced, in order, by `tensors`; everything else stays."""
    if isinstance(inputs, Tensor):
        return next(tensors)
    if isinstance(inputs, Mapping):
        return {key: rebuild(part, tensors) for key, part in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*[rebuild(part, tensors) for part in inputs])
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(rebuild(part, tensors) for part in inputs)
    return inputs


def flatten_outputs(output: Output) -> tuple[Nest, tuple[Tensor, ...]]:
    """Return how `output` is nested, and its tensors.

    >>> flatten_outputs({"a": torch.zeros(1), "b": (torch.ones(1), None)})[0]
    {'a': 0, 'b': [1, None]}

    Raises:
        UnsupportedError: there is no tensor, or something that is neither a tensor nor a nesting of tensors.
    """
    tensors: list[Tensor] = []
    nest = _nest(output, tensors, "output")
    if not tensors:
        raise UnsupportedError("the network returns no tensor", where="output", got=type(output).__name__)
    return nest, tuple(tensors)


def _nest(value: Any, tensors: list[Tensor], where: str) -> Nest:
    if isinstance(value, Tensor):
        if value.is_complex() or value.layout != torch.strided:
            raise UnsupportedError("not a dense real tensor", where=where, got=value.dtype)
        tensors.append(value)
        return len(tensors) - 1
    if value is None:
        return None
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _nest(part, tensors, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_nest(part, tensors, f"{where}.{index}") for index, part in enumerate(value)]
    kind = type(value).__name__
    cache = "cache" in f"{where}.{kind}".lower()
    raise UnsupportedError(
        "the network returns something else than tensors", where=where, got=kind,
        expected="tensors, None, or tuples, lists, dictionaries or dataclasses of them",
        hint="turn the cache off: network.config.use_cache = False in transformers" if cache else "",
    )  # fmt: skip
