"""ONNX in: from a file a module of stock layers, whose forward computes the rest of the graph with functions of torch.

A node that is a layer becomes a module at a path made of the node's name; what computes shapes stays numbers, so
that a free axis stays free when the network is captured. Nothing below this knows that a network was ONNX.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.capture.onnx.values import Known, tensor
from featherweight.errors import FeatherweightError, UnsupportedError

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """An input or output of a network.

    Attributes:
        name: as the file has it.
        dtype: as numpy names it.
        shape: sizes; a name, or None, where the size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Step:
    """A node, to be computed.

    Attributes:
        name: of the node, for messages.
        op: of its operator.
        call: what computes it, of its inputs; behind the module, if there is one.
        inputs: names of values; an empty one is left out.
        outputs: names of the values that it writes.
        module: path of the layer that it is.
        last: values that nothing reads after it.
        branches: of an If, in the place of `call`: the one where the condition holds, and the other.
    """

    name: str
    op: str
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str = ""
    last: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Branch:
    """A graph inside an If: its steps, and the values that it returns."""

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


# Operators that leave numbers about as large as they are.
_KEEP = {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Flatten", "Cast", "Slice", "ReduceMean"}


class OnnxNetwork(nn.Module):
    """A network as an ONNX file has it, of stock layers.

    Attributes:
        inputs: what it takes, in the order of the file.
        outputs: what it returns, in the order of the file.
        notes: what was resolved, dropped or converted when it was read.
        identifiers: name of an input to the keyword that `forward` takes it by.
    """

    def __init__(self, inputs: Sequence[Value], outputs: Sequence[Value], notes: Sequence[str]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.notes = tuple(inputs), tuple(outputs), tuple(notes)
        self.identifiers = _identifiers([value.name for value in inputs])
        self._steps: tuple[Step, ...] = ()
        self._results: tuple[str, ...] = ()
        self._known: dict[str, Known] = {}
        self._tensors: dict[str, str] = {}
        self._settings: dict[str, Array] = {}

    def forward(self, *positional: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the output, or the outputs by name; takes inputs in order, or by `identifiers`."""
        values: dict[str, Any] = dict(self._known)
        values |= {name: self.get_parameter_or_buffer(path) for name, path in self._tensors.items()}
        given = dict(zip(self.identifiers.values(), positional, strict=False)) | named
        for value in self.inputs:
            held = given[self.identifiers[value.name]]
            values[value.name] = held.float() if held.dtype in (torch.float16, torch.bfloat16) else held
        self._run(self._steps, values)
        found = {}
        for value, name in zip(self.outputs, self._results, strict=True):
            made = _typed(tensor(values[name]), _torch_type(value.dtype))
            for setting, expected in self._settings.items():
                if made.is_floating_point():
                    same = (values[setting] == torch.from_numpy(expected)).all()
                    made = torch.where(same, made, torch.full_like(made, float("nan")))
            found[value.name] = made
        return found if len(found) > 1 else next(iter(found.values()))

    def get_parameter_or_buffer(self, path: str) -> Tensor:
        """Return a tensor of the network by its name."""
        owner, _, name = path.rpartition(".")
        found: Tensor = getattr(self.get_submodule(owner), name)
        return found

    def dynamic_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the axes of each input that the file leaves free, by keyword."""
        return {
            self.identifiers[value.name]: tuple(
                a for a, n in enumerate(value.shape) if not isinstance(n, int)
            )
            for value in self.inputs
        }

    def batch_axes(self) -> dict[str, tuple[int, ...]]:
        """Return the free axes that are called as the first free one, by keyword: those of the batch, as a rule.

        Without a name it is the free first axes; so it is of an input that has none of this name, for torch's exporter
        often calls the batch of each input otherwise.
        """
        free = [
            (value, axis)
            for value in self.inputs
            for axis, n in enumerate(value.shape)
            if not isinstance(n, int)
        ]
        batch = free[0][0].shape[free[0][1]] if free else None
        found: dict[str, tuple[int, ...]] = {self.identifiers[value.name]: () for value in self.inputs}
        for value, axis in free:
            if value.shape[axis] == batch and (batch is not None or axis == 0):
                found[self.identifiers[value.name]] += (axis,)
        for value, axis in free:
            if axis == 0 and not found[self.identifiers[value.name]]:
                found[self.identifiers[value.name]] = (0,)
        return found

    @property
    def shares(self) -> set[str]:
        """Outputs of a sigmoid, tanh or softmax: runtimes compute them to 1e-7 of 1, not of themselves."""
        makers = {name: step for step in self._steps for name in step.outputs}
        found = set()
        for value, name in zip(self.outputs, self._results, strict=True):
            step = makers.get(name)
            while step is not None and step.op in _KEEP:
                step = makers.get(step.inputs[0])
            if step is not None and step.op in ("Sigmoid", "Tanh", "Softmax", "HardSigmoid"):
                found.add(value.name)
        return found

    def _run(self, steps: Sequence[Step], values: dict[str, Any]) -> None:
        wide = any(parameter.dtype == torch.float64 for parameter in self.parameters())
        for step in steps:
            arguments = [values[name] if name else None for name in step.inputs]
            if step.branches:
                made: Any = self._taken(values, arguments[0], *step.branches)
            else:
                module = [self.get_submodule(step.module)] if step.module else []
                try:
                    made = step.call(*module, *arguments)
                except FeatherweightError as error:
                    where = f"node {step.name} ({step.op})"
                    raise UnsupportedError(error.what, where=where, hint=error.hint) from error
                except (NotImplementedError, IndexError, TypeError) as error:  # a type, or an index, of torch
                    where = f"node {step.name} ({step.op})"
                    raise UnsupportedError(f"torch cannot compute it: {error}", where=where) from error
            made = made if isinstance(made, tuple | list) else [made]
            if wide:
                made = [_widened(value) for value in made]
            values.update(zip(step.outputs, made, strict=False))
            for name in step.last:
                values.pop(name, None)

    def _taken(self, values: dict[str, Any], condition: Any, then: Branch, other: Branch) -> list[Any]:
        taken = condition.ints()[0] if isinstance(condition, Known) else bool(condition)
        branch = then if taken else other
        inner = dict(values)
        self._run(branch.steps, inner)
        return [inner[name] for name in branch.outputs]


def _widened(value: Any) -> Any:
    """Return a value of a network in float64: what its operators make of integers is of that type too."""
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _typed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an output in its type; a network in float64, to compare with, stays so."""
    return x if x.dtype == torch.float64 and dtype == torch.float32 else x.to(dtype)


def _torch_type(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found


def _identifiers(names: Sequence[str]) -> dict[str, str]:
    """Return a keyword of Python for each name.

    >>> _identifiers(["x:0", "if"])
    {'x:0': 'x_0', 'if': 'if_'}
    """
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
        plain = f"_{plain}" if plain[0].isdigit() else plain
        while plain in found.values() or keyword.iskeyword(plain) or plain in ("self", "positional"):
            plain += "_"
        found[name] = plain
    return found
