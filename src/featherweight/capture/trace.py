"""From a captured module to its graph: one node for every activation, and how each tensor is a matrix."""

from __future__ import annotations

import itertools
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from featherweight.formats import View
from featherweight.graph import operators
from featherweight.graph.graph import Edge, Graph, Node, Operand
from featherweight.structure import stock_kind

# Operators by their names here, where these are not torch's.
_SHORT = {
    "_native_batch_norm_legit_no_training": "batch_norm", "_native_batch_norm_legit": "batch_norm_of_batch",
    "native_layer_norm": "layer_norm", "native_group_norm": "group_norm", "_unsafe_view": "view",
}  # fmt: skip

_Kind = Literal["edge", "stored", "computed", "constant"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# Modules, the start of their tensors' names, and how many blocks of rows share nothing.
_BLOCKS: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...], int], ...] = (
    ((nn.LSTM, nn.LSTMCell), ("weight_ih", "weight_hh"), 4),
    ((nn.GRU, nn.GRUCell), ("weight_ih", "weight_hh"), 3),
    ((nn.MultiheadAttention,), ("in_proj_weight",), 3),
)


def read(
    module: nn.Module, exported: ExportedProgram, names: tuple[str, ...]
) -> tuple[Graph, dict[str, Edge]]:
    """Return the graph of a captured `module`, and the edge of each value of the captured function by its name.

    Args:
        module: the network.
        exported: the function, without mutation.
        names: of its inputs.
    """
    reader = _Reader(module, exported, names)
    for fx_node in exported.graph.nodes:
        reader.read(fx_node)
        reader.skip(fx_node)
    outputs = tuple(reader.output(fx_node) for fx_node in exported.graph.output_node().args[0])
    parameters = tuple(dict.fromkeys(name for name, _ in module.named_parameters()))
    nodes, computed = tuple(reader.nodes), tuple(reader.computed)
    graph = Graph(nodes, outputs, views(module), computed, parameters, rigid(module))
    return graph, reader.edges


class _Reader:
    """Reads fx nodes in order: activations become `nodes`, what sees none is `computed` or stored."""

    def __init__(self, module: nn.Module, exported: ExportedProgram, names: tuple[str, ...]) -> None:
        self.nodes: list[Node] = []
        self.computed: list[Node] = []
        self.edges: dict[str, Edge] = {}
        self.taken, self.counted, self.batch = set(names), set[fx.Node](), 0
        self.known: dict[fx.Node, tuple[_Kind, str, tuple[str, ...]]] = {}
        canonical, remaining = canonical_names(module), iter(names)
        places = exported.graph.find_nodes(op="placeholder")
        for fx_node, spec in zip(places, exported.graph_signature.input_specs, strict=True):
            name = canonical.get((spec.target or "").removeprefix("module."))
            if spec.kind == InputKind.USER_INPUT:
                value = fx_node.meta["val"]
                if not self.batch and value.dim() and is_free(value.shape[0]):
                    self.batch = size(value.shape[0])
                self._add(fx_node, fx_node, next(remaining), op="input")
            elif name is None:
                self.known[fx_node] = "constant", fx_node.name, ()
            else:
                self.known[fx_node] = "stored", name, (name,)

    def read(self, fx_node: fx.Node) -> None:
        """Take in the next node."""
        if fx_node.op != "call_function" or not isinstance(fx_node.meta.get("val"), Tensor):
            return
        source = _source(fx_node)
        op, operands = operator_name(source.target), [o for _, o in named_operands(source) if o in self.known]
        kinds = [self.known[operand] for operand in operands]
        if all(kind != "edge" for kind, _, _ in kinds):
            tensors = tuple(dict.fromkeys(name for _, _, of in kinds for name in of))
            self.known[fx_node] = "computed", fx_node.name, tensors
            self.computed.append(self._node(fx_node, source, fx_node.name, op))
        elif operators.operator(op).same:
            self.known[fx_node] = kinds[0]
            self.edges[fx_node.name] = kinds[0][1]
        else:
            self._add(fx_node, source, self._name(op), op=op)

    def skip(self, fx_node: fx.Node) -> None:
        """Use up the names of the activations behind `fx_node` that were merged with others."""
        for same, op, _ in fx_node.meta.get("merged", ()):
            if same.name in self.edges and not operators.operator(op).same:
                self._name(op)

    def output(self, fx_node: fx.Node) -> Edge:
        """Return the edge of a result; a value that the network returns though it sees no activation becomes one."""
        if fx_node.name not in self.edges:
            self._add(fx_node, fx_node, self._name("constant"), op="constant")
        return self.edges[fx_node.name]

    def _name(self, op: str) -> Edge:
        """Return the operator's name, numbered from the second on."""
        names = itertools.chain([op], (f"{op}_{count}" for count in itertools.count(1)))
        name = next(name for name in names if name not in self.taken)
        self.taken.add(name)
        return name

    def _add(self, fx_node: fx.Node, source: fx.Node, name: str, *, op: str) -> None:
        self.nodes.append(self._node(fx_node, source, name, op))
        self.known[fx_node] = "edge", name, ()
        self.edges[fx_node.name] = name

    def _node(self, fx_node: fx.Node, source: fx.Node, name: str, op: str) -> Node:
        value, made = fx_node.meta["val"], op not in ("input", "constant")
        first = source.meta["val"]
        shape = _sizes(first[0] if isinstance(first, tuple | list) else first)
        read = [("", fx_node)] if op == "constant" else named_operands(source)
        operands = tuple(
            Operand(argument, kind, of, _sizes(operand.meta["val"]), tensors)
            for argument, operand in read
            if operand in self.known
            for kind, of, tensors in [self.known[operand]]
        )
        arguments = tuple(_arguments(source)) if made else ()
        macs: int | None = 0
        family = _family(source.target) if made else ""
        if made and source not in self.counted:
            self.counted.add(source)
            if min((n for sizes in (shape, *(o.shape for o in operands)) for n in sizes), default=0) >= 0:
                macs = operators.multiply_accumulates(op, family, shape, operands, dict(arguments))
        return Node(
            name, op, operands, module=path_of(source), shape=_sizes(value),
            free=tuple(axis for axis, n in enumerate(value.shape) if is_free(n)),
            dtype=str(value.dtype).removeprefix("torch."),
            macs=None if macs is None else macs // max(self.batch, 1), arguments=arguments, family=family,
            result=fx_node.args[1] if fx_node is not source else 0,  # type: ignore[arg-type]
        )  # fmt: skip


def _family(target: Any) -> str:
    tags = getattr(target, "tags", ())
    if torch.Tag.pointwise in tags:
        return "pointwise"
    return "reduction" if torch.Tag.reduction in tags else "view" if getattr(target, "is_view", False) else ""


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(size(n) for n in value.shape) if isinstance(value, Tensor) else ()


def operator_name(target: Any) -> str:
    """Return the short name of an aten operator: `conv2d` of `aten::conv2d.default`."""
    schema = getattr(target, "_schema", None)
    name = schema.name.rpartition("::")[2] if schema else getattr(target, "__name__", str(target))
    return _SHORT.get(name, name)


def _source(fx_node: fx.Node) -> fx.Node:
    """Return the operator itself, where `fx_node` is one of its several results."""
    while fx_node.target is operator.getitem:
        fx_node = fx_node.args[0]  # type: ignore[assignment]
    return fx_node


def path_of(fx_node: fx.Node) -> str:
    """Return the path of the innermost module that a captured node is part of."""
    stack = [path for path, _ in (fx_node.meta.get("nn_module_stack") or {}).values()]
    return re.sub(r"@\d+", "", stack[-1].removeprefix("module").removeprefix(".")) if stack else ""


def named_arguments(fx_node: fx.Node) -> list[tuple[str, Any]]:
    """Return the arguments of a captured node by the names of its operator's schema."""
    schema = getattr(fx_node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    return [*zip(names, fx_node.args, strict=False), *fx_node.kwargs.items()]


def named_operands(fx_node: fx.Node) -> Iterator[tuple[str, fx.Node]]:
    """Yield the nodes among the arguments, in order; one that is read twice twice."""
    for name, value in named_arguments(fx_node):
        if isinstance(value, fx.Node):
            yield name, value
        elif isinstance(value, list | tuple):
            yield from ((f"{name}.{n}", part) for n, part in enumerate(value) if isinstance(part, fx.Node))


def _arguments(fx_node: fx.Node) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that are neither tensors nor symbolic sizes."""
    for name, value in named_arguments(fx_node):
        if isinstance(value, int | float | str):
            yield name, value
        elif isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
            yield name, tuple(value)


def size(number: int | torch.SymInt) -> int:
    """Return a size on the example; -1 where it depends on values."""
    if isinstance(number, int):
        return number
    hint = number.node.hint
    return -1 if hint is None else int(hint)


def type_of(node: fx.Node) -> str:
    """Return the data type and the sizes of a value; nothing of what is no tensor."""
    value = node.meta.get("val")
    return f"{value.dtype}{[size(n) for n in value.shape]}" if isinstance(value, Tensor) else ""


def is_free(size: int | torch.SymInt) -> bool:
    """Return whether a size of a captured network may change; torch keeps symbols for some that it has fixed."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def canonical_names(module: nn.Module) -> dict[str, str]:
    """Return every name of a parameter or persistent buffer to the first name of that tensor."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first.setdefault(id(t), name) for name, t in state.items() if isinstance(t, Tensor)}


def views(module: nn.Module) -> dict[str, View]:
    """Return how each tensor of `module` is a matrix, by canonical name.

    Linear, convolution, bilinear and embedding weights keep axis 0. A transposed convolution `[in, out,
    k...]` keeps axis 1; a grouped one `[in, out / groups, k...]` has no axis of output channels and keeps
    axis 0, whose rows never mix two groups. The gates of an LSTM (4), GRU (3) and the query, key and value of
    attention (3) are groups of rows. Everything else, the tensors of parametrizations included, keeps axis 0.
    """
    state, owners = module.state_dict(keep_vars=True), dict(module.named_modules())
    names = dict.fromkeys(canonical_names(module).values())
    return {n: _view(owners.get(n.rpartition(".")[0]), n, tuple(state[n].shape)) for n in names}


def _view(owner: nn.Module | None, name: str, shape: tuple[int, ...]) -> View:
    if len(shape) < 2:
        return View.of(shape)
    local = name.rpartition(".")[2]
    if isinstance(owner, _TRANSPOSED) and local == "weight" and owner.groups == 1:
        return View(shape, permutation=(1, 0, *range(2, len(shape))))
    counts = (n for kinds, start, n in _BLOCKS if isinstance(owner, kinds) and local.startswith(start))
    return View(shape, groups=next(counts, 1))


def rigid(module: nn.Module) -> dict[str, str]:
    """Return the tensors that must keep their shape, with the reason: those of no plain layer in one place."""
    places = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    uses = Counter(id(tensor) for tensor in module.state_dict(keep_vars=True).values())
    found = {}
    for path, owner in module.named_modules():
        own = {n: t for n, t in (*owner._parameters.items(), *owner._buffers.items()) if t is not None}
        if not path or not stock_kind(owner):
            reason = f"{path or 'the network'} ({type(owner).__name__}) is no plain layer of torch.nn"
        elif places[id(owner)] > 1 or any(uses[id(tensor)] > 1 for tensor in own.values()):
            reason = f"{path} has a weight that is tied"
        elif any(t.is_floating_point() and t.dtype != torch.float32 for t in own.values()):
            reason = f"{path} is not float32"
        else:
            continue
        found.update(dict.fromkeys((f"{path}.{name}" if path else name for name in own), reason))
    return found


@dataclass(frozen=True)
class Step:
    """An operator as torch traced it, which may write to its arguments.

    Attributes:
        name: of the traced node.
        op: of the operator, `add` for one that writes to its argument (`add_`) too.
        module, type: path of the module whose code it is part of; data type and sizes of the result.
        edge: the activation that it writes, where it is one of the graph.
    """

    name: str
    op: str
    module: str
    type: str
    edge: Edge | None = None


def steps_of(graph: fx.Graph) -> list[Step]:
    """Return the operators of a traced function."""
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    return [Step(n.name, operator_name(n.target).rstrip("_"), path_of(n), type_of(n)) for n in nodes]


def with_edges(
    steps: Iterable[Step], traced: fx.Graph, exported: ExportedProgram, edges: Mapping[str, Edge]
) -> list[Step]:
    """Return the steps of `traced` with the edges that they write, after `exported` was made of it."""
    results = {n.args: n.name for n in traced.nodes if n.target is operator.getitem}
    found = {node.name: node for node in traced.nodes}
    written: dict[tuple[str, str], Edge] = {}
    for node in exported.graph.nodes:
        equal = [(other, same) for same, _, other in node.meta.get("merged", ())]
        for value, known in ((node, node), *equal):
            if known.name in edges:
                name = origin(value, traced)
                if value.target is operator.getitem:
                    name = results.get((found.get(name), value.args[1]), name)
                written[name, type_of(value)] = edges[known.name]
    return [replace(step, edge=written.get((step.name, step.type))) for step in steps]


def aligned(steps: Sequence[Step], others: Sequence[Step]) -> list[Step]:
    """Return steps with the edges of others, a like sequence: of the same operators of the same modules in order."""
    mine, theirs = ([(step.op, step.module) for step in side] for side in (steps, others))
    found = list(steps)
    for old, new, count in SequenceMatcher(None, theirs, mine, autojunk=False).get_matching_blocks():
        for i in range(count):
            found[new + i] = replace(steps[new + i], edge=others[old + i].edge)
    return found


def origin(node: fx.Node, graph: fx.Graph) -> str:
    """Return the name of the node of `graph`, an earlier form of the function, that `node` came from."""
    source = node.meta.get("from_node")
    while source and source[-1].graph_id != id(graph):
        source = source[-1].from_node
    return source[-1].name if source else node.name if node.graph is graph else ""
