"""Is the exported graph the network? What ONNX Runtime computes with the module's tensors, against the module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from featherweight.artifact import StoredGraph
from featherweight.errors import UnsupportedError
from featherweight.graph.nest import Nest
from featherweight.graph.program import Program, still
from featherweight.graph.trace import edges_of, graph_of
from featherweight.graph.views import canonical_names
from featherweight.runtime import Session, build_onnx

Array = NDArray[Any]
Named = Mapping[str, Tensor]

TOLERANCE = 1e-5  # of the largest magnitude of an output


def check(stored: StoredGraph, module: nn.Module, program: Program) -> None:
    """Run the stored graph with the module's tensors on the example, and on other sizes and values.

    Raises:
        UnsupportedError: they differ; names the first layer that does.
    """
    tensors = _tensors(module)
    session = Session.of(stored, tensors)
    for inputs in _trials(program):
        sizes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        try:
            expected = program.run(inputs)
        except Exception as error:
            raise UnsupportedError(
                f"the network fails on inputs of other sizes: {error}", got=sizes
            ) from None
        output = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
        for where, wanted, got in _pairs(program.outputs, expected, output, "output"):
            if reason := difference(wanted, got):
                layer = _first_difference(stored, tensors, module, program, inputs)
                raise UnsupportedError(
                    f"the exported graph is not the network: {where} differs by {reason}",
                    where=layer,
                    got=sizes,
                )


def difference(expected: Tensor, got: Array) -> str:
    """Return how far `got` is from `expected`, or an empty string if it is within the tolerance.

    >>> difference(torch.ones(3), np.float32([1, 1, 1.1]))
    '0.1 of its largest value'
    """
    wanted = (
        expected.detach().float().numpy() if expected.dtype == torch.bfloat16 else expected.detach().numpy()
    )
    if wanted.shape != got.shape:
        return f"its shape {list(got.shape)}, expected {list(wanted.shape)}"
    if wanted.dtype.kind != "f":
        wrong = int((wanted != got).sum())
        return f"{wrong} of {wanted.size} values" if wrong else ""
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)) or not np.array_equal(
        a[~np.isfinite(a)], b[~np.isfinite(a)], equal_nan=True
    ):
        return "NaN or infinity in other places"
    finite = np.isfinite(a)
    scale = float(np.abs(a[finite]).max(initial=0.0))
    gap = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (scale or 1.0)
    return f"{gap:.2g} of its largest value" if gap > _tolerance(expected.dtype) else ""


def _tolerance(dtype: torch.dtype) -> float:
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps) if dtype != torch.float64 else TOLERANCE


def _tensors(module: nn.Module) -> dict[str, Array]:
    """The module's own tensors by canonical name, as a file gives them."""
    state = module.state_dict()
    tensors = {name: state[name].detach() for name in dict.fromkeys(canonical_names(module).values())}
    return {
        n: (t.float() if t.dtype == torch.bfloat16 else t).contiguous().numpy() for n, t in tensors.items()
    }


def _pairs(
    nest: Nest, expected: tuple[Tensor, ...], got: Any, where: str
) -> Iterator[tuple[str, Tensor, Array]]:
    if isinstance(nest, int):
        yield where, expected[nest], got
    elif nest is not None:
        for key in nest if isinstance(nest, dict) else range(len(nest)):
            yield from _pairs(nest[key], expected, got[key], f"{where}.{key}")


def _trials(program: Program) -> Iterator[Named]:
    """The example; random values in its place; and, where sizes are free, one more and one sample."""
    generator = torch.Generator().manual_seed(0)
    yield program.example
    yield {name: _noise(tensor, generator) for name, tensor in program.example.items()}
    if program.dynamic:
        symbols = _symbols(program)
        yield {name: _noise(_resized(t, symbols[name], +1), generator) for name, t in program.example.items()}
        yield {
            name: _noise(_resized(t, symbols[name], None), generator) for name, t in program.example.items()
        }


def _symbols(program: Program) -> dict[str, list[int]]:
    """The free axes of each input."""
    graph = program.exported.graph
    values = {node.name: node.meta["val"] for node in graph.nodes if node.op == "placeholder"}
    names = program.exported.graph_signature.user_inputs
    free = [
        [axis for axis, n in enumerate(values[str(name)].shape) if isinstance(n, torch.SymInt)]
        for name in names
    ]
    return dict(zip(program.example, free, strict=True))


def _resized(tensor: Tensor, axes: list[int], more: int | None) -> Tensor:
    """`tensor` with free axes one longer, or (None) with axis 0 of size 1, out of its own rows."""
    for axis in axes:
        count = tensor.shape[axis]
        wanted = count + more if more else (1 if axis == 0 else count)
        tensor = tensor.index_select(axis, torch.arange(wanted) % count)
    return tensor


def _noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers of the mean and spread of a float input; others, which may be indices, as they are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    spread = float(tensor.float().std(correction=0)) or 1.0
    values = torch.randn(tensor.shape, generator=generator) * spread + float(tensor.float().mean())
    return values.to(tensor.dtype)


def _first_difference(
    stored: StoredGraph, tensors: Mapping[str, Array], module: nn.Module, program: Program, inputs: Named
) -> str:
    """Name of the first layer whose output in the stored graph differs from the network's; the network's if unknown."""
    edges, graph = edges_of(module, program), graph_of(module, program)
    model = build_onnx(stored, tensors)
    made = {name for node in model.graph.node for name in node.output}
    recorder = _Recorder(program.exported.graph_module)
    with still(module):
        recorder.run(*_arguments(program, inputs))
    known = [(edges[name], value) for name, value in recorder.values.items() if edges.get(name) in made]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(edge) for edge, _ in known)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception:  # the whole graph ran: only this closer look is not to be had
        return type(module).__name__
    for (edge, value), result in zip(known, results, strict=True):
        if difference(value, result):
            node = graph.node(edge)
            return f"{node.module} ({node.op})" if node.module else node.op
    return type(module).__name__


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the first value of every name."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result
        return result


def _arguments(program: Program, inputs: Named) -> list[Any]:
    """The captured function's arguments: the network's tensors, its constants, its inputs."""
    state, constants, given = program.exported.state_dict, program.exported.constants, iter(inputs.values())
    found = []
    for spec in program.exported.graph_signature.input_specs:
        target = spec.target or ""
        found.append(
            next(given) if spec.kind == InputKind.USER_INPUT else state.get(target, constants.get(target))
        )
    return found
