"""A module as a flat function of tensors, as `torch.export` sees it: for the graph and for ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from featherweight.errors import FeatherweightError, TaskError, UnsupportedError
from featherweight.graph.functional import functional
from featherweight.graph.pytree import Nest, flatten_inputs, flatten_outputs, rebuild
from featherweight.graph.trace_errors import cause_of, refusal
from featherweight.structure import to_call
from featherweight.task import Inputs, call

# Which axes of which inputs may change in size; None: axis 0 of every input, where the network allows it.
Dynamic = Mapping[str, Sequence[int]] | None


@dataclass(frozen=True, eq=False)
class Program:
    """A module as a function of flat tensors to flat tensors.

    Attributes:
        exported: the function as aten operators, without mutation; a name of its state is a name of the
            module's behind `module.`.
        example: what it was captured with, by input name, in the order of the inputs.
        outputs: how the module's output is made of the flat ones.
        flat: the module itself, as the same flat function.
    """

    exported: ExportedProgram
    example: Mapping[str, Tensor]
    outputs: Nest
    flat: Flat

    def of(self, module: nn.Module) -> Program:
        """Return the same function with the tensors of `module`, a network of the same code."""
        return replace(self, flat=self.flat.of(module))

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what the module itself makes of flat inputs."""
        with eval_mode(self.flat.module):
            return tuple(self.flat(inputs))

    @cached_property
    def state(self) -> dict[str, Any]:
        """What the function reads beside its inputs, by the targets of its signature."""
        return {**self.exported.constants, **self.flat.state_dict(keep_vars=True)}

    @property
    def dynamic(self) -> bool:
        """Whether any input may change in size."""
        return bool(self.exported.range_constraints)


class Flat(nn.Module):
    """`module` as a function of named tensors; inputs are copied, as a network may write to them."""

    def __init__(self, module: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.module = module
        self._example = [example]  # in a list, so that no tensor of it is taken for a constant of the network

    def of(self, module: nn.Module) -> Flat:
        """Return the same of another module."""
        return Flat(module, self._example[0])

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the flat outputs."""
        output = call(
            self.module, rebuild(self._example[0], iter([tensor.clone() for tensor in inputs.values()]))
        )
        return flatten_outputs(output)[1]


def capture(module: nn.Module, example: Inputs, *, dynamic: Dynamic = None) -> Program:
    """Return `module`, in eval mode, as a flat function; the module is left as it was.

    Args:
        module: the network.
        example: one tensor, a tuple of positional arguments or a mapping of keyword arguments.
        dynamic: axes that may change in size by input name; by default axis 0 of every input where that
            works, and none where it does not.

    Raises:
        UnsupportedError: the network cannot be captured; names the layer and why.
        TaskError: the network fails on its own example.
    """
    named = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in flatten_inputs(module, example).items()
    }
    flat = Flat(module, example)
    with eval_mode(module):
        try:
            outputs, _ = flatten_outputs(
                call(to_call(module), rebuild(example, iter([t.clone() for t in named.values()])))
            )
        except FeatherweightError:
            raise
        except Exception as error:
            raise TaskError(
                f"the network fails on its own example: {cause_of(error)}", where=type(module).__name__
            ) from error
        exported, used = _export(flat, named, dynamic)
    return Program(exported, used, outputs, flat)


def _export(
    flat: Flat, named: Mapping[str, Tensor], dynamic: Dynamic
) -> tuple[ExportedProgram, Mapping[str, Tensor]]:
    """Try the dynamic shapes that were asked for; by default axis 0, and then none."""
    if dynamic is not None:
        return _functional(flat, named, _asked(named, dynamic)), named
    batched = {name: tensor for name, tensor in named.items() if tensor.dim()}
    axes: dict[str, Any] = {name: {0: Dim.AUTO} if name in batched else None for name in named}
    doubled = named
    if batched and all(
        tensor.shape[0] == 1 for tensor in batched.values()
    ):  # torch takes a size of 1 for fixed
        doubled = {name: torch.cat([t, t]) if name in batched else t for name, t in named.items()}
    try:
        exported = _functional(flat, doubled, axes)
        limits = exported.range_constraints.values()
        if _free(exported, axes) and all(limit.lower <= 2 and limit.upper > 2**31 for limit in limits):
            return exported, doubled
    except UnsupportedError:
        pass
    return _functional(flat, named, dict.fromkeys(named)), named


def _asked(named: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    for name, axes in dynamic.items():
        if name not in named or not all(0 <= axis < named[name].dim() for axis in axes):
            got = f"{name} {list(axes)}"
            expected = ", ".join(f"{name} of {t.dim()} axes" for name, t in named.items())
            raise TaskError("no such input or axis to be dynamic", got=got, expected=expected)
    return {name: dict.fromkeys(dynamic.get(name, ()), Dim.DYNAMIC) or None for name in named}


def _free(exported: ExportedProgram, axes: dict[str, Any]) -> bool:
    """Return whether every axis of an input that was to be free is."""
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    inputs = zip(axes.values(), exported.graph_signature.user_inputs, strict=True)
    return all(is_free(values[str(name)].shape[axis]) for free, name in inputs for axis in free or ())


def is_free(size: int | torch.SymInt) -> bool:
    """Return whether a size of a captured network may change; torch keeps symbols for some that it has fixed."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def _functional(flat: Flat, named: Mapping[str, Tensor], axes: dict[str, Any]) -> ExportedProgram:
    """Trace by running the code; where that fixes a size (`len(x)`, `int(x.shape[0])`), by reading it.

    Raises:
        UnsupportedError: neither can be done; says why the first cannot.
    """
    try:
        traced = torch.export.export(flat, (dict(named),), dynamic_shapes=(axes,), strict=False)
        failure = None
    except Exception as error:
        traced, failure = None, error
    if traced is None or not _free(traced, axes):
        with contextlib.suppress(Exception):
            read = torch.export.export(flat, (dict(named),), dynamic_shapes=(axes,), strict=True)
            traced = read if traced is None or _free(read, axes) else traced
    if traced is None:
        assert failure is not None
        raise refusal(flat.module, failure, "cannot be traced") from failure
    try:
        exported = functional(traced)
    except Exception as error:
        raise refusal(flat.module, error, "cannot be traced") from error
    if written := exported.graph_signature.buffers_to_mutate:
        buffer = next(iter(written.values())).removeprefix("module.")
        raise UnsupportedError("the network writes to its buffer while it runs", where=buffer)
    return exported


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Hold `module` in eval mode, without gradients or fused attention, torch silent; undone at the end."""
    training = [part for part in module.modules() if part.training]
    fast, disabled = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            logging.disable(logging.CRITICAL)
            module.eval()
            yield
        finally:
            logging.disable(disabled)
            torch.backends.mha.set_fastpath_enabled(fast)
            for part in training:
                part.training = True
