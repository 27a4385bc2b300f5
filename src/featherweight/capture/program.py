"""A module as a flat function of tensors, as `torch.export` sees it: for the graph and for ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from featherweight.capture.functional import functional, recurrent_at_once, without_checks
from featherweight.capture.pytree import Nest, flatten_inputs, flatten_outputs, rebuild
from featherweight.capture.refusal import cause_of, refusal
from featherweight.capture.trace import Step, aligned, is_free, read, steps_of, with_edges
from featherweight.errors import FeatherweightError, TaskError, UnsupportedError
from featherweight.graph.graph import Edge, Graph
from featherweight.structure import with_own_buffers
from featherweight.task import Inputs, call

# Which axes of which inputs may change in size; None: axis 0 of every input, where the network allows it.
Dynamic = Mapping[str, Sequence[int]] | None


@dataclass(frozen=True, eq=False)
class Program:
    """A module as a function of flat tensors to flat tensors.

    Attributes:
        exported: the function as aten operators, without mutation but in training; a name of its state is a name
            of the module's behind `module.`.
        example: what it was captured with, by input name, in the order of the inputs.
        outputs: how the module's output is made of the flat ones.
        flat: the module itself, as the same flat function.
        graph: the function as data.
        edges: of `graph`, by the name of the value of `exported` that is this activation.
        steps: the operators as torch traced them, before they were made functional, in order.
        fixed: why axes that the network says are free have one size; empty where all are free that it says.
    """

    exported: ExportedProgram
    example: Mapping[str, Tensor]
    outputs: Nest
    flat: Flat
    graph: Graph
    edges: Mapping[str, Edge]
    steps: Sequence[Step]
    fixed: str = ""

    def of(self, module: nn.Module) -> Program:
        """Return the same function with the tensors of `module`, a network of the same code."""
        return replace(self, flat=Flat(module, self.flat.example))

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what the module itself makes of flat inputs."""
        with eval_mode(self.flat.module):
            return tuple(self.flat(inputs))

    def training(self, module: nn.Module) -> Program:
        """Return `module`, a network of the same code, in the modes that its parts are in: as it trains.

        It computes what the module itself does, operator by operator: batch norm writes its buffers, dropout
        draws. An activation that the network in eval mode has too keeps its edge; what only training computes
        has none.

        Raises:
            UnsupportedError: it cannot be captured; names the layer and why.
            TaskError: the network fails on its own example.
        """
        free = {node.name: dict.fromkeys(node.free, Dim.AUTO) or None for node in self.graph.nodes}
        axes = {name: free[name] for name in self.example}
        copy = with_own_buffers(module)  # batch norm writes them, and torch traces that
        with quiet(), torch.random.fork_rng(devices=[]):
            outputs = _outputs(module, self.flat.example, self.example)
            try:
                traced = _traced(Flat(copy, self.flat.example), self.example, axes)
            except Exception as error:
                raise refusal(copy, error, "cannot be traced in training mode") from error
        without_checks(traced.graph)
        steps = aligned(steps_of(traced.graph), self.steps)
        edges = {step.name: step.edge for step in steps if step.edge is not None}
        inputs = zip(traced.graph_signature.user_inputs, self.example, strict=True)
        edges |= {str(placeholder): name for placeholder, name in inputs}
        return replace(self.of(module), exported=traced, outputs=outputs, edges=edges, steps=steps)

    @cached_property
    def state(self) -> dict[str, Any]:
        """What the function reads beside its inputs, by the targets of its signature."""
        buffers = dict(self.flat.named_buffers(remove_duplicate=False))
        return {**self.exported.constants, **buffers, **self.flat.state_dict(keep_vars=True)}

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

    @property
    def example(self) -> Inputs:
        """Inputs, as nested as the module takes them."""
        return self._example[0]

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the flat outputs."""
        tensors = iter([tensor.clone() for tensor in inputs.values()])
        return flatten_outputs(call(self.module, rebuild(self.example, tensors)))[1]


def trace(module: nn.Module, example: Inputs, *, dynamic: Dynamic = None) -> Graph:
    """Return the graph of `module` in eval mode on `example`: see `capture`."""
    return capture(module, example, dynamic=dynamic).graph


def capture(module: nn.Module, example: Inputs, *, dynamic: Dynamic = None) -> Program:
    """Return `module`, in eval mode, as a flat function; the module is left as it was.

    Args:
        module: the network.
        example: one tensor, a tuple of positional arguments or a mapping of keyword arguments.
        dynamic: axes that may change in size by input name; by default those that the network says by a method
            `dynamic_shapes`, or by another `batch_axes`; of one that says nothing axis 0 of every input. Each where
            that works, and none where it does not.

    Raises:
        UnsupportedError: the network cannot be captured; names the layer and why.
        TaskError: the network fails on its own example.
    """
    given = flatten_inputs(module, example)
    named = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in given.items()}
    with eval_mode(module), torch.random.fork_rng(devices=[]):
        outputs = _outputs(module, example, named)
        return _export(Flat(module, example), named, outputs, dynamic)


def _outputs(module: nn.Module, example: Inputs, named: Mapping[str, Tensor]) -> Nest:
    """Return how a module's output is nested, as a copy of it computes it."""
    inputs = rebuild(example, iter([tensor.clone() for tensor in named.values()]))
    try:
        return flatten_outputs(call(with_own_buffers(module), inputs))[0]
    except FeatherweightError:
        raise
    except Exception as error:
        what = f"the network fails on its own example: {cause_of(error)}"
        raise TaskError(what, where=type(module).__name__) from error


def _traced(
    flat: Flat, named: Mapping[str, Tensor], axes: dict[str, Any], strict: bool = False
) -> ExportedProgram:
    return torch.export.export(flat, (dict(named),), dynamic_shapes=(axes,), strict=strict)


def _export(flat: Flat, named: Mapping[str, Tensor], outputs: Nest, dynamic: Dynamic) -> Program:
    """Try the dynamic shapes that were asked for; by default the network's own, then axis 0, and then none."""
    if dynamic is not None:
        return _functional(flat, _without_ones(flat, named, dynamic), outputs, _asked(named, dynamic))
    said = [getattr(flat.module, name, None) for name in ("dynamic_shapes", "batch_axes")]
    why = ""
    for own in (own for own in said if own is not None):
        try:
            longer = _without_ones(flat, named, own())
            return replace(_functional(flat, longer, outputs, _asked(named, own())), fixed=why)
        except UnsupportedError as error:
            why = why or str(error).partition("\n")[0]
    if any(said):
        return replace(_functional(flat, named, outputs, dict.fromkeys(named)), fixed=why)
    batched = {name: tensor for name, tensor in named.items() if tensor.dim()}
    axes: dict[str, Any] = {name: {0: Dim.AUTO} if name in batched else None for name in named}
    doubled = named
    if batched and all(tensor.shape[0] == 1 for tensor in batched.values()):  # which torch takes for fixed
        doubled = {name: torch.cat([t, t]) if name in batched else t for name, t in named.items()}
    try:
        program = _functional(flat, doubled, outputs, axes)
        limits = program.exported.range_constraints.values()
        if all(limit.lower <= 2 and limit.upper > 2**31 for limit in limits):
            return program
    except UnsupportedError:
        pass
    return _functional(flat, named, outputs, dict.fromkeys(named))


def _without_ones(
    flat: Flat, named: Mapping[str, Tensor], axes: Mapping[str, Sequence[int]]
) -> Mapping[str, Tensor]:
    """Return the example with two indices along free axes of one, which torch takes for fixed.

    Where the network does not run so, other free axes are one longer, those of equal size together, as few as it
    takes: a mask of all tokens grows with the new ones, beside the keys and values of those before.
    """
    free = {n: [a for a in axes.get(n, ()) if a < tensor.dim()] for n, tensor in named.items()}

    def grown(sizes: Sequence[int]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in named.items():
            longer = [a for a in free[name] if tensor.shape[a] == 1 or (a and tensor.shape[a] in sizes)]
            found[name] = resized(tensor, {axis: tensor.shape[axis] + 1 for axis in longer})
        return found

    if not any(tensor.shape[axis] == 1 for name, tensor in named.items() for axis in free[name]):
        return named
    sizes = sorted({t.shape[a] for name, t in named.items() for a in free[name] if a and t.shape[a] > 1})
    for some in (some for count in range(min(len(sizes), 3) + 1) for some in combinations(sizes, count)):
        with contextlib.suppress(Exception):
            flat(grown(some))
            return grown(some)
    return grown(())


def resized(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """Return `tensor` with axes of these sizes, out of its own rows."""
    for axis, n in sizes.items():
        tensor = tensor.index_select(axis, torch.arange(n) % tensor.shape[axis])
    return tensor


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


def _functional(flat: Flat, named: Mapping[str, Tensor], outputs: Nest, axes: dict[str, Any]) -> Program:
    """Trace by running the code; where that fixes a size (`len(x)`, `int(x.shape[0])`), by reading it."""
    traced: ExportedProgram | None = None
    failure: Exception | None = None
    try:
        traced = _traced(flat, named, axes)
    except Exception as error:
        failure = error
    if traced is None or not _free(traced, axes):
        with contextlib.suppress(Exception):
            again = _traced(flat, named, axes, strict=True)
            traced = again if traced is None or _free(again, axes) else traced
    if traced is None:
        assert failure is not None
        raise refusal(flat.module, failure, "cannot be traced") from failure
    if not _free(traced, axes):
        what = "fixes the size of an axis that is to be free"
        raise UnsupportedError(what, where=type(flat.module).__name__)
    steps = steps_of(traced.graph)
    try:
        exported = functional(traced)
    except Exception as error:
        raise refusal(flat.module, error, "cannot be traced") from error
    if written := exported.graph_signature.buffers_to_mutate:
        buffer = next(iter(written.values())).removeprefix("module.")
        raise UnsupportedError("the network writes to its buffer while it runs", where=buffer)
    graph, edges = read(flat.module, exported, tuple(named))
    steps = with_edges(steps, traced.graph, exported, edges)
    return Program(exported, named, outputs, flat, graph, edges, steps)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Torch silent, without fused attention, quick with recurrent layers; undone at the end."""
    fast, disabled = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    with (
        recurrent_at_once(),
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            logging.disable(logging.CRITICAL)
            yield
        finally:
            logging.disable(disabled)
            torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Hold `module` in eval mode, without gradients, `quiet`; undone at the end."""
    training = [part for part in module.modules() if part.training]
    with quiet(), torch.no_grad():
        try:
            module.eval()
            yield
        finally:
            for part in training:
                part.training = True
