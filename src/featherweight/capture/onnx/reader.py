"""From the nodes of a flat ONNX graph to the steps and layers of a network."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from featherweight.capture.onnx.file import opened, reading
from featherweight.capture.onnx.layers import Layer, Weights, attributes_of, layer_of
from featherweight.capture.onnx.moves import identity
from featherweight.capture.onnx.names import paths_of
from featherweight.capture.onnx.network import Branch, OnnxNetwork, Step, Value
from featherweight.capture.onnx.operators import CONTRIBUTED, CUT, OPERATORS, refused
from featherweight.capture.onnx.patterns import normalise
from featherweight.capture.onnx.values import DTYPES, constant, is_small
from featherweight.errors import UnsupportedError

Array = NDArray[Any]

MOST_NAMED = 5  # operators in one message
# What multiplies or looks up a constant: a weight. What is only added or scaled by (anchors, masks) is none.
MULTIPLIED = {
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Einsum", "FusedMatMul", "TransposeMatMul",
}  # fmt: skip


def read_network(path: Path, *, settings: Mapping[str, Array] = {}) -> OnnxNetwork:
    """Return the network in an ONNX file.

    Args:
        path: the file; weights that it keeps in files beside it are read too.
        settings: values of inputs that hold for all samples, by name: an input without an axis of samples. Branches
            that depend on them are taken; the network still has the input, and returns NaN where it is another.

    Raises:
        OSError: it cannot be read.
        IntegrityError: it is no ONNX file, or a broken one.
        UnsupportedError: operators that are unknown, or cannot be said in torch; names nodes and operators.
        ConfigError: a setting that fits none of its inputs.
    """
    path = Path(path)
    model, notes = opened(path, settings)
    try:
        with reading(path):
            normalise(model, notes)
            return _Reader(model, notes, settings).network
    except UnsupportedError as error:
        if error.hint and CUT in error.hint and (call := cut_of(path)):
            raise UnsupportedError(error.what, where=error.where, hint=f"{error.hint}: {call}") from None
        raise


def cut_of(path: Path) -> str:
    """Return the call that cuts a file before the operators to leave out; empty where nothing would be left."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in stored]
    behind, made, ends = set[str](), set[str](), dict[str, None]()
    for node in graph.node:
        if CUT in refused(node.op_type) or behind & {*node.input}:
            behind |= {*node.output}
            ends |= dict.fromkeys(name for name in node.input if name in made)
        elif node.op_type != "Constant" and any(name in made or name in inputs for name in node.input):
            made |= {*node.output}
    ends |= dict.fromkeys(value.name for value in graph.output if value.name in made)
    return (
        f"onnx.utils.extract_model({path.name!r}, 'cut.onnx', {inputs}, {[*ends]})" if behind and ends else ""
    )


@dataclass
class _Reader:
    """Makes a network of a flat model."""

    model: ir.Model
    notes: list[str]
    settings: Mapping[str, Array]
    weights: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.opsets = {domain or "": version for domain, version in self.model.opset_imports.items()}
        self.opsets.setdefault("", self.opsets.get("ai.onnx", 0))
        nodes = list(graph.all_nodes())
        if reasons := [reason for node in nodes if (reason := self._refusal(node))]:
            said = [f"{text} of node {name}" for name, text, _ in reasons[:MOST_NAMED]]
            more = f" and {len(reasons) - MOST_NAMED} more" if len(reasons) > MOST_NAMED else ""
            hint = next((hint for _, _, hint in reasons if hint), "")
            what = f"operators that cannot be read: {', '.join(said)}{more}"
            raise UnsupportedError(what, where="the ONNX file", hint=hint)
        self.network = OnnxNetwork(
            [_described(value) for value in graph.inputs],
            [_described(value) for value in graph.outputs],
            self.notes,
        )
        self.layers: dict[ir.Node, Layer] = {}
        for node in nodes:
            try:
                layer = layer_of(node, self.weights)
            except UnsupportedError as error:
                where = f"node {node.name} ({node.op_type})"
                raise UnsupportedError(error.what, where=where, hint=error.hint) from error
            if layer is not None:
                self.layers[node] = layer
        places = {node: layer.weight for node, layer in self.layers.items()}
        self.paths = paths_of({node: None if n is None else node.inputs[n] for node, n in places.items()})
        for node, path in self.paths.items():
            _put(self.network, path, self.layers[node].module)
        network = self.network
        network._steps = self._steps(graph, [value.name for value in graph.outputs])
        network._results = tuple(str(value.name) for value in graph.outputs)
        network._settings = {name: np.asarray(array) for name, array in self.settings.items()}
        self._constants(nodes)
        network.eval()

    def _refusal(self, node: ir.Node) -> tuple[str, str, str] | None:
        """Return name and operator of a node that nobody can compute, and a hint."""
        name = node.name or node.outputs[0].name or "without a name"
        text = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            hint = "a branch that depends on an input: give the values that hold for all samples as settings"
            return None if _of_shapes(node.inputs[0], set()) else (name, text, hint)
        hint = refused(node.op_type)
        known = _function(node) is not None
        return None if known and not hint else (name, text, hint)

    def _steps(self, graph: ir.Graph, results: Sequence[Any]) -> tuple[Step, ...]:
        """Return the steps of a graph, each with the values that are no longer needed after it."""
        needed = {*results}
        steps: list[Step] = []
        for node in reversed(list(graph)):
            step = self._step(node)
            read = {name for name in step.inputs if name}
            if node.op_type == "If":
                read |= _captured(node)
            inner = graph is not self.model.graph
            last = () if inner else tuple(sorted((read | {n for n in step.outputs if n}) - needed))
            needed |= read
            steps.append(replace(step, last=last))
        return tuple(reversed(steps))

    def _step(self, node: ir.Node) -> Step:
        outputs = tuple(str(value.name) for value in node.outputs)
        names = tuple("" if value is None else str(value.name) for value in node.inputs)
        name = node.name or outputs[0]
        if node in self.layers:
            layer = self.layers[node]
            read = tuple(names[n] for n in layer.inputs)
            return Step(name, node.op_type, layer.call, read, outputs, self.paths[node])
        if node.op_type == "If":
            then, other = (
                Branch(
                    self._steps(graph, [v.name for v in graph.outputs]),
                    tuple(str(v.name) for v in graph.outputs),
                )
                for graph in (
                    node.attributes["then_branch"].as_graph(),
                    node.attributes["else_branch"].as_graph(),
                )
            )
            return Step(name, "If", identity, names, outputs, branches=(then, other))
        function = _function(node)
        assert function is not None
        options = attributes_of(node)
        wanted = inspect.signature(function).parameters
        if "opset" in wanted:
            options["opset"] = self.opsets.get("", 0)
        if "outputs" in wanted:
            options["outputs"] = len(node.outputs)
        return Step(name, node.op_type, partial(function, **options) if options else function, names, outputs)

    def _constants(self, nodes: Sequence[ir.Node]) -> None:
        """Put constants that functions read into the network: small ones as numbers, others as tensors."""
        read: dict[str, ir.Value] = {}
        argument: set[str] = set()
        weights: set[str] = set()
        for node in nodes:
            if node.op_type in MULTIPLIED:
                weights |= {str(value.name) for value in node.inputs if value is not None}
            if node.op_type in ("Resize", "Upsample"):
                argument |= {str(value.name) for value in node.inputs[1:] if value is not None}
            places = self.layers[node].inputs if node in self.layers else range(len(node.inputs))
            for place in places:
                value = node.inputs[place]
                if value is not None and value.const_value is not None:
                    read.setdefault(str(value.name), value)
        for value in self.model.graph.outputs:
            if value.const_value is not None:
                read.setdefault(str(value.name), value)
        for name, value in read.items():
            assert value.const_value is not None
            array = value.const_value.numpy()
            if is_small(array, name in argument) or array.dtype.kind not in "fiub":
                self.network._known[name] = constant(array)
                continue
            path = _free_name(self.network, name)
            if array.dtype.kind == "f" and array.ndim > 1 and array.size >= 1024 and name in weights:
                self.network.register_parameter(path, self.weights.parameter(array))
            else:
                self.network.register_buffer(path, torch.from_numpy(np.array(array)))
            self.network._tensors[name] = path


def _function(node: ir.Node) -> Callable[..., Any] | None:
    table = (
        OPERATORS if node.domain in ("", "ai.onnx") else CONTRIBUTED if node.domain == "com.microsoft" else {}
    )
    return table.get(node.op_type)


def _captured(node: ir.Node) -> set[str]:
    """Return the values that the graphs inside a node read."""
    return {
        str(value.name)
        for attribute in node.attributes.values()
        if isinstance(attribute.value, ir.Graph)
        for inner in [*attribute.value.all_nodes()]
        for value in inner.inputs
        if value is not None
    } | {
        str(value.name)
        for attribute in node.attributes.values()
        if isinstance(attribute.value, ir.Graph)
        for value in attribute.value.outputs
    }


def _of_shapes(value: ir.Value | None, seen: set[ir.Value]) -> bool:
    """Return whether a value is computed of constants and of sizes alone."""
    if value is None or value.const_value is not None or value in seen:
        return True
    seen.add(value)
    node = value.producer()
    if node is None:
        return False
    return node.op_type in ("Shape", "Size") or all(_of_shapes(source, seen) for source in node.inputs)


def _described(value: ir.Value) -> Value:
    if value.dtype is None or int(value.dtype) not in DTYPES:
        raise UnsupportedError(
            "not a tensor of numbers", where=f"input or output {value.name}", got=value.type
        )
    shape = () if value.shape is None else tuple(_axis(n) for n in value.shape)
    return Value(str(value.name), str(DTYPES[int(value.dtype)]).removeprefix("torch."), shape)


def _axis(n: Any) -> int | str | None:
    """Return a size; what files of older writers have for a free one (0, -1, `?`) has no name."""
    if isinstance(n, int):
        return n if n > 0 else None
    return n.value if n.value not in (None, "", "?") else None


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path; what lies above it is made."""
    owner = network
    *above, last = path.split(".")
    for name in above:
        if name not in owner._modules:
            owner.add_module(name, nn.Module())
        inner = owner._modules[name]
        assert inner is not None
        owner = inner
    owner.add_module(last, module)


def _free_name(network: nn.Module, name: str) -> str:
    plain = re.sub(r"\W+", "_", name).strip("_") or "constant"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    while hasattr(network, plain):
        plain += "_"
    return plain
