"""Is the exported graph the network? What ONNX Runtime computes with its tensors, against the module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.artifact import StoredGraph
from featherweight.capture.execution import Execution
from featherweight.capture.program import Program, resized
from featherweight.capture.pytree import Nest
from featherweight.capture.refusal import cause_of
from featherweight.capture.rounding import OFF, TOLERANCE, in_float64, rounding
from featherweight.capture.trace import canonical_names
from featherweight.engines import onnxruntime_session, said
from featherweight.errors import UnsupportedError
from featherweight.export.float_graph import fed_onnx, serialized
from featherweight.graph.graph import Edge, Graph, Node
from featherweight.graph.operators import operator

Array = NDArray[Any]
Named = Mapping[str, Tensor]
MORE = (1, 2, 4, 8, 16, 32)  # by which free axes behind the first are made longer
FEW = 3  # sizes of such axes that are made longer by amounts of their own


def check(stored: StoredGraph, module: nn.Module, program: Program) -> None:
    """Run the stored graph with the module's tensors on the example, and on other sizes and values.

    Where the network computes NaN of values that were made up, it says nothing of the graph.

    Raises:
        UnsupportedError: they differ; names the first layer that does.
    """
    tensors = arrays(module)
    with _naming_the_layer(
        stored, module, program, "cannot run the graph"
    ):  # nothing keeps the model beside it
        model, fed = fed_onnx(stored, tensors)
        session = onnxruntime_session(serialized(model), 1)
        del model
    shares = {place for place, edge in enumerate(program.graph.outputs) if _is_share(program.graph, edge)}
    for inputs in _trials(program):
        sizes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        try:
            expected = program.run(inputs)
        except Exception as error:
            reason = cause_of(error)
            raise UnsupportedError(f"the network fails on other sizes: {reason}", got=sizes) from error
        with _naming_the_layer(stored, module, program, "stopped"):
            output = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()} | fed)
        for where, place, array in _pairs(program.outputs, stored.outputs, output, "output"):
            wanted, least = expected[place], 1.0 if place in shares else 0.0
            got = array if inputs is program.example else undefined_alike(wanted, array)
            if difference(wanted, got, least=least) and (
                reason := difference(wanted, got, bound(program, inputs, expected), least)
            ):
                raise UnsupportedError(
                    f"the exported graph is not the network: {where} differs by {reason}",
                    where=first_difference(stored, tensors, module, program, inputs), got=sizes,
                )  # fmt: skip


def undefined_alike(expected: Tensor, got: Array) -> Array:
    """Return what the graph computes, with NaN wherever the network computes NaN (the mean of no rows, for instance).

    >>> undefined_alike(torch.tensor([1.0, float("nan")]), np.float32([1, 0]))
    array([ 1., nan], dtype=float32)
    """
    if got.dtype.kind != "f" or got.shape != tuple(expected.shape):
        return got
    return np.where(expected.isnan().numpy(), got.dtype.type(np.nan), got)


def bound(program: Program, inputs: Named, computed: tuple[Tensor, ...]) -> float:
    """Return how far from `computed`, the network's outputs, right ones may be: a share of the largest of each.

    Another order of the same float32 operations errs as much as this one: see `rounding`. Without oneDNN in the place
    of float64, where the network's code fixes its types.
    """
    wide = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    try:
        exact = in_float64(program.flat.module, lambda module: program.of(module).run(wide))
    except Exception:  # its code may do anything with types
        with torch.backends.mkldnn.flags(enabled=False):
            exact = program.run(inputs)
    return rounding(computed, exact)


@contextmanager
def _naming_the_layer(stored: StoredGraph, module: nn.Module, program: Program, does: str) -> Iterator[None]:
    """Say of which layer the operator is that ONNX Runtime refuses."""
    try:
        yield
    except Exception as error:
        where = refusing_layer(stored, module, program, said(error))
        raise UnsupportedError(f"ONNX Runtime {does}: {said(error)}", where=where) from error


def arrays(module: nn.Module) -> dict[str, Array]:
    """Return the module's own tensors by canonical name, as a file gives them."""
    state = module.state_dict()
    names = dict.fromkeys(canonical_names(module).values())
    return {name: _numpy(state[name].contiguous()) for name in names}


def _numpy(tensor: Tensor) -> Array:
    """Return a tensor as an array; bfloat16, which numpy lacks, as float32."""
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return array


def _pairs(ours: Nest, theirs: Any, got: list[Array], where: str) -> Iterator[tuple[str, int, Array]]:
    if isinstance(ours, int):
        yield where, ours, got[theirs]
    elif ours is not None:
        for key in ours if isinstance(ours, dict) else range(len(ours)):
            yield from _pairs(ours[key], theirs[key], got, f"{where}.{key}")


def _is_share(graph: Graph, edge: Edge) -> bool:
    """Return whether an output is one of sigmoid, tanh or softmax, which runtimes compute to 1e-7 of 1."""
    node = graph.node(edge)
    while (chosen := node.op == "where") or operator(node.op).integer in ("move", "average"):
        if len(node.inputs) <= chosen:
            break
        node = graph.node(node.inputs[int(chosen)])
    return operator(node.op).gate == 2


def _trials(program: Program) -> Iterator[Named]:
    """Yield the example; random values in its place; and, where sizes are free, one sample more, and one alone."""
    generator = torch.Generator().manual_seed(0)
    yield program.example
    yield {name: _noise(tensor, generator) for name, tensor in program.example.items()}
    if program.dynamic:
        yield {name: _noise(tensor, generator) for name, tensor in _longer(program).items()}
        free = _free(program)
        one = {
            n: resized(t, {a: 1 for a, first in free[n].items() if first}) for n, t in program.example.items()
        }
        yield {name: _noise(tensor, generator) for name, tensor in one.items()}


def _longer(program: Program) -> Named:
    """Return the example with one sample more, and other free axes as much longer as the network takes it.

    A network that halves sizes and doubles them again takes multiples of 2, 4, 8 ... alone. Of one with a cache, a
    mask grows with the new tokens and those before: axes of equal size grow together, and all if it can be.
    """
    free, example = _free(program), program.example
    others = {
        n: {a: example[n].shape[a] for a, first in axes.items() if not first} for n, axes in free.items()
    }
    sizes = sorted({size for axes in others.values() for size in axes.values()})

    def grown(more: Mapping[int, int]) -> Named:
        longer = {
            n: {a: t.shape[a] + (1 if first else more[t.shape[a]]) for a, first in free[n].items()}
            for n, t in example.items()
        }
        return {name: resized(tensor, longer[name]) for name, tensor in example.items()}

    tried = [dict.fromkeys(sizes, more) for more in MORE]
    if 1 < len(sizes) <= FEW:
        each = product((1, 2, 0), repeat=len(sizes))
        tried += [
            dict(zip(sizes, more, strict=True)) for more in sorted(each, key=lambda more: more.count(0))
        ]
    for more in tried:
        with suppress(Exception):
            inputs = grown(more)
            program.run(inputs)
            return inputs
    return grown(tried[0])


def samples_alone(program: Program) -> dict[str, tuple[int, ...]]:
    """Return the axes of each input that count samples, which may be free where no other can."""
    return {
        name: tuple(axis for axis, first in axes.items() if first) for name, axes in _free(program).items()
    }


def _free(program: Program) -> dict[str, dict[int, bool]]:
    """Return the free axes of each input, and whether they count samples: what axis 0 of an input does."""
    values = {node.name: node.meta.get("val") for node in program.exported.graph.find_nodes(op="placeholder")}
    inputs = dict(zip(program.example, program.exported.graph_signature.user_inputs, strict=True))
    symbols = {
        name: {axis: str(values[str(inputs[name])].shape[axis]) for axis in program.graph.node(name).free}
        for name in program.example
    }
    first = {axes[0] for axes in symbols.values() if 0 in axes}
    return {name: {axis: n in first for axis, n in axes.items()} for name, axes in symbols.items()}


def _noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal numbers of the mean and spread of a float input; others, which may be indices, as they are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    spread = float(tensor.float().std(correction=0)) or 1.0
    values = torch.randn(tensor.shape, generator=generator) * spread + float(tensor.float().mean())
    return values.to(tensor.dtype)


def difference(expected: Tensor, got: Array, tolerance: float = TOLERANCE, least: float = 0.0) -> str:
    """Return how far what the graph computes is from what the network does, or an empty string within the tolerance.

    Args:
        expected: the network's output.
        got: the graph's.
        tolerance: of the largest magnitude of the output.
        least: of which it is taken to be at least.

    >>> difference(torch.ones(3), np.float32([1, 1, 1.1]))
    '0.1 of its largest value'
    """
    wanted = _numpy(expected)
    if wanted.shape != got.shape:
        return f"its shape {list(got.shape)}, expected {list(wanted.shape)}"
    if wanted.dtype.kind != "f":
        wrong = int((wanted != got).sum())
        return f"{wrong} of {wanted.size} values" if wrong else ""
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(np.where(finite, 0, a), np.where(np.isfinite(b), 0, b), equal_nan=True):
        return "NaN or infinity in other places"
    scale = max(float(np.abs(a[finite]).max(initial=0.0)), least)
    gap = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (scale or 1.0)
    within = gap <= max(tolerance, OFF * torch.finfo(expected.dtype).eps)
    return "" if within else f"{gap:.2g} of its largest value"


def first_difference(
    stored: StoredGraph, tensors: Mapping[str, Array], module: nn.Module, program: Program, inputs: Named
) -> str:
    """Return the first layer whose output differs from the network's, or the network's own name."""
    model, fed = fed_onnx(stored, tensors)
    made = {name for node in model.graph.node for name in node.output}
    known: list[tuple[Edge, Tensor]] = []

    def record(edge: Edge, value: Tensor) -> Tensor:
        if edge in made:
            known.append((edge, value))
        return value

    Execution(program, record)(inputs)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(edge) for edge, _ in known)
    try:
        session = onnxruntime_session(serialized(model), 1)
        results = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()} | fed)
    except Exception:  # the whole graph ran: only this closer look is not to be had
        return type(module).__name__
    for (edge, value), result in zip(known, results, strict=True):
        if difference(value, result):
            return _said(program.graph.node(edge))
    return type(module).__name__


def refusing_layer(stored: StoredGraph, module: nn.Module, program: Program, message: str) -> str:
    """Return the layer with the ONNX operator that `message` names, or the network's own name."""
    nodes = list(onnx.ModelProto.FromString(stored.onnx).graph.node)
    made = {node.name: node for node in program.graph.nodes}
    named = [n for n, node in enumerate(nodes) if re.search(rf"\b{node.op_type}\b", message)]
    reached = set(nodes[named[0]].output) if named else set()
    for node in nodes[named[0] :] if named else ():
        edges = [made[name] for name in node.output if name in made and name in reached]
        if edges:
            return _said(edges[0])
        if reached & set(node.input):
            reached.update(node.output)
    return type(module).__name__


def _said(node: Node) -> str:
    return f"{node.module} ({node.op})" if node.module else node.op
