"""The float graph: a stored one, parsed and checked as a whole, and then completed with the decoded tensors.

The bytes may come from a stranger. What passes refers to no file, declares no tensor larger than its data, and
has initialisers that fit the table and take memory in proportion to the tensors of the file. Running it is another
matter: a graph is a program, which may loop or ask for memory.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from featherweight.activations import Edge, ends
from featherweight.artifact import Artifact, Initialiser, StoredGraph
from featherweight.artifact.container import error_context
from featherweight.errors import FeatherweightError, IntegrityError, UnsupportedError
from featherweight.export.signature import signed
from featherweight.formats import Encoded
from featherweight.formats.basis import as_integers

Array = NDArray[Any]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOST_ONNX = (1 << 31) - (1 << 25)  # bytes of weights; protobuf stops at 2 GiB, and operators take room too
MOST_MESSAGES = 1 << 20  # of a graph; a transformer of 100 layers has about 2**16
MOST_INLINED = 1 << 20  # nodes, once functions are expanded
MOST_COPIES = 8  # bytes of all initialisers, and of their transposes, to bytes of all tensors, but for ...
MOST_BEYOND = 1 << 24  # ... so many bytes
LARGE = 1 << 20  # bytes of a tensor of which no copies are made
_UNKNOWN = "No Op registered"
_PACKED = 8  # elements to one field of data at most: of 2 and 4 bits, several share one

Shapes = Mapping[str, tuple[int, ...]]


def parse(graph: StoredGraph, shapes: Shapes) -> tuple[onnx.ModelProto, list[tuple[Initialiser, int]]]:
    """Return the model of a stored graph, without its weights, and what fills it: entries of its table and their types.

    Entries that no operator reads are left out. `shapes` are those of the tensors of the file, by canonical name.

    Raises:
        IntegrityError: the graph is damaged or hostile; one line says why.
    """
    with error_context("graph"):
        try:
            model = onnx.ModelProto.FromString(graph.onnx)
        except DecodeError as error:
            raise IntegrityError("the stored graph is not an ONNX model") from error
        stubs = _take_stubs(model)
        for message in (model, *stubs):
            _check_messages(message)
        _check_functions(model)
        used = _check_initialisers(model, stubs, graph.initialisers, shapes)
        kinds = {stub.name: stub.data_type for stub in stubs}
        types = {entry.name: kinds.get(entry.name, onnx.TensorProto.FLOAT) for entry in used}
        _check_operators(model, types)
    return model, [(entry, types[entry.name]) for entry in used]


@contextmanager
def rewriting(to: str) -> Iterator[None]:
    """Turn foreign exceptions of a pass over a graph into one error: operators may hold anything.

    Raises:
        UnsupportedError: the graph cannot be rewritten; keeps the cause.
    """
    try:
        yield
    except FeatherweightError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise UnsupportedError(f"the graph cannot be rewritten {to}: {reason}", where="graph") from error


def unknown_edges(graph: StoredGraph, edges: Iterable[Edge]) -> list[Edge]:
    """Return those of `edges` whose ends are no activations of a graph: neither inputs nor what operators write."""
    with error_context("graph"):
        stored = onnx.ModelProto.FromString(graph.onnx).graph
        known = {value.name for value in stored.input} | {
            name for node in stored.node for name in node.output
        }
        return sorted(edge for edge in edges if edge not in known and not known >= {*ends(edge)})


def _take_stubs(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Take the initialisers without data out of a model; their size is that of the tensor that fills them."""
    tensors = [(tensor, _held(tensor) > 0 or 0 in tensor.dims) for tensor in model.graph.initializer]
    stubs = [tensor for tensor, filled in tensors if not filled]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensor for tensor, filled in tensors if filled)
    for stub in stubs:
        stub.dims[:] = [0]
    return stubs


def _held(tensor: onnx.TensorProto) -> int:
    """Return the fields of data of a tensor; of raw data, its bytes."""
    return max((len(data) for field, data in tensor.ListFields() if field.name.endswith("_data")), default=0)


def _messages(top: Message) -> Iterator[Message]:
    """Yield every message within a message, itself first; refuse text that is not UTF-8."""
    stack = [top]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                stack.extend([value] if isinstance(value, Message) else value)
            elif field.type == field.TYPE_STRING:
                for text in [value] if isinstance(value, str | bytes) else value:
                    if not isinstance(text, str):
                        raise IntegrityError("text that is not UTF-8", got=ascii(text[:80]))


def _check_messages(top: Message) -> None:
    """Refuse references to files, sparse tensors, training, and tensors that declare more than they hold."""
    for count, message in enumerate(_messages(top)):
        if count >= MOST_MESSAGES:
            raise IntegrityError("too large a graph", expected=f"at most {MOST_MESSAGES} messages")
        if isinstance(message, onnx.TensorProto):
            if message.external_data or message.data_location:
                raise IntegrityError("the stored graph refers to other files", got=ascii(message.name[:80]))
            held, elements = _held(message), prod(message.dims)
            if min(message.dims, default=0) < 0 or elements > _PACKED * held:
                raise IntegrityError(
                    "a tensor of the stored graph declares more than it holds", got=f"{elements} elements",
                    expected=f"those of its data, {held} fields or bytes",
                )  # fmt: skip
        elif isinstance(message, onnx.SparseTensorProto | onnx.TrainingInfoProto):
            raise IntegrityError("not a part of stored graphs", got=type(message).__name__)


def _check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or grow without bound where they are inlined."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int | None] = {}

    def size(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1
            key = node.domain, node.op_type
            if key in functions:
                if key not in sizes:
                    sizes[key] = None
                    sizes[key] = size(all_nodes(functions[key].node))
                inner = sizes[key]
                if inner is None:
                    raise IntegrityError("a function calls itself", got=ascii(node.op_type[:80]))
                total += inner
            if total > MOST_INLINED:
                raise IntegrityError("functions expand without bound", expected=f"{MOST_INLINED} nodes")
        return total

    size(all_nodes(model.graph.node))


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for inner in _graphs(node):
            yield from all_nodes(inner.node)


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds; an empty one for an attribute that is none."""
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs)


def reads(graph: onnx.GraphProto) -> Counter[str]:
    """Count how often each value is read: by nodes at any depth, and as an output of a graph."""
    found = Counter(value.name for value in graph.output)
    for node in all_nodes(graph.node):
        found.update(node.input)
        found.update(value.name for inner in _graphs(node) for value in inner.output)
    return found


def _check_initialisers(
    model: onnx.ModelProto, stubs: list[onnx.TensorProto], table: Iterable[Initialiser], shapes: Shapes
) -> tuple[Initialiser, ...]:
    """Return the entries of the table that are read."""
    entries = {entry.name: entry for entry in table}
    constants = {tensor.name for tensor in model.graph.initializer}
    names = constants | {stub.name for stub in stubs}
    if len(names) < len(model.graph.initializer) + len(stubs) or entries.keys() & constants:
        raise IntegrityError("an initialiser appears twice in the stored graph")
    if missing := sorted(names - constants - entries.keys()):
        raise IntegrityError("an initialiser that no tensor of the file fills", got=ascii(missing[0][:80]))
    read, nodes = reads(model.graph), all_nodes(model.graph.node)
    copies = Counter(value for node in nodes if node.op_type == "Transpose" for value in node.input[:1])
    used = tuple(entry for entry in entries.values() if read[entry.name])
    known = sum(prod(shape) for shape in shapes.values())
    total = sum((1 + copies[entry.name]) * prod(shapes.get(entry.tensor, ())) for entry in used)
    if total > MOST_COPIES * known + MOST_BEYOND:
        raise IntegrityError(
            "initialisers too large for the tensors of the file", got=f"{total} elements of {known}",
            expected=f"at most {MOST_COPIES} times as many, and {MOST_BEYOND}",
        )  # fmt: skip
    return used


def _check_operators(model: onnx.ModelProto, types: Mapping[str, int]) -> None:
    """Refuse operators that lack inputs, attributes of another type, values that nothing writes or two do."""
    for value in model.graph.input:
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind not in onnx.helper.get_all_tensor_dtypes():
            raise IntegrityError("an input of the stored graph is no tensor", got=ascii(value.name[:80]))
    shell = copy.deepcopy(model)
    shell.graph.input.extend(onnx.helper.make_tensor_value_info(*item, ()) for item in types.items())
    for value in [*shell.graph.input, *shell.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # the checker asks for one; runtimes do not
    try:
        onnx.checker.check_model(shell)
    except onnx.checker.ValidationError as error:
        reason = next(iter(str(error).splitlines()), "")
        if reason.startswith(_UNKNOWN):
            return  # of a newer ONNX: the runtime may know it, or refuses it
        raise IntegrityError(f"the stored graph has a malformed operator: {reason}") from error


def build_onnx(graph: StoredGraph, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a plain ONNX model that any runtime opens, with a copy of the decoded tensors (by canonical name).

    Raises:
        IntegrityError: the graph is damaged, refers to other files, or does not fit the tensors.
    """
    return _built(graph, tensors, None)[0]


def fed_onnx(graph: StoredGraph, tensors: Mapping[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a model as `build_onnx` does, but with large tensors as inputs, and what to feed them with.

    A runtime reads these where they are: it keeps no copies, transposed or in the order of its own kernels.

    Raises:
        IntegrityError: as `build_onnx`.
    """
    return _built(graph, tensors, LARGE)


def _built(
    graph: StoredGraph, tensors: Mapping[str, Array], large: int | None
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a model and what feeds its inputs that are tensors: floats of `large` bytes and more."""
    model, table = parse(graph, {name: np.shape(tensor) for name, tensor in tensors.items()})
    fed: dict[str, Array] = {}
    for entry, kind in table:
        if entry.tensor not in tensors:
            raise IntegrityError("the stored graph needs a tensor that is not there", where=entry.tensor)
        try:
            array = np.asarray(tensors[entry.tensor])
            array = array.transpose(entry.permutation) if entry.permutation else array
            array = array.reshape(entry.shape) if entry.shape else array
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        except (ValueError, KeyError) as error:
            raise IntegrityError(f"does not fit the stored graph: {error}", where=entry.tensor) from None
        array = array.astype(dtype, copy=False)
        if large is not None and kind == onnx.TensorProto.FLOAT and array.nbytes >= large:
            model.graph.input.append(onnx.helper.make_tensor_value_info(entry.name, kind, array.shape))
            fed[entry.name] = np.ascontiguousarray(array)
        else:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, entry.name))
    _name_layers(model.graph, {entry.name: entry.tensor for entry, _ in table})
    return model, fed


def _name_layers(graph: onnx.GraphProto, tensors: Mapping[str, str]) -> None:
    """Give layers the path of the module whose weight they multiply by: runtimes report them by it."""
    makers = {value: node for node in graph.node for value in node.output}
    taken = {node.name for node in graph.node}
    for node in graph.node:
        if node.op_type not in LAYERS or node.name or len(node.input) < 2:
            continue
        source = node.input[1]
        if source in makers and makers[source].op_type == "Transpose":
            source = makers[source].input[0]
        tensor = tensors.get(source, "")
        path = tensor.rpartition(".")[0] or tensor
        if path:  # another name for a module that is used again
            node.name = path if path not in taken else f"{path}/{node.output[0]}"
            taken.add(path)


def onnx_of(artifact: Artifact) -> onnx.ModelProto:
    """Return the complete float ONNX model of a file; raises as `opened` does."""
    graph, tensors, _ = opened(artifact)
    return signed(build_onnx(graph, tensors), graph.outputs)


def opened(artifact: Artifact) -> tuple[StoredGraph, dict[str, Array], dict[str, Encoded]]:
    """Return the graph of a file, its decoded tensors by every name, and the encoded ones by `as_integers`.

    Raises:
        UnsupportedError: the file holds no graph; says why.
        IntegrityError: the graph or a tensor is damaged.
    """
    graph = artifact.graph
    if graph is None:
        reason = artifact.facts.get("graph", "it was written without one")
        hint = "artifact.into(module) restores the weights in PyTorch"
        raise UnsupportedError(f"the file holds no graph to run: {reason}", hint=hint)
    parse(graph, {name: lazy.entry.shape for name, lazy in artifact.lazy.items()})
    tensors, encoded = artifact.opened()
    return graph, tensors, {name: as_integers(tensor) for name, tensor in encoded.items()}


def serialized(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model; the same model, the same bytes.

    Raises:
        UnsupportedError: its weights exceed what one ONNX file holds; `write_onnx` writes two.
    """
    total = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if total > MOST_ONNX:
        raise UnsupportedError(
            "the weights are too large for one ONNX file", where="graph", got=f"{total / 2**30:.2f} GiB",
            expected="under 2 GiB, as protobuf allows",
            hint="export --to onnx or onnx-int8, which write them beside it",
        )  # fmt: skip
    return bytes(model.SerializeToString(deterministic=True))


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in an ONNX file, with what it keeps in files beside it.

    Raises:
        OSError: it cannot be read.
        IntegrityError: it is no ONNX file, or a file beside it is missing or damaged.
    """
    content = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise IntegrityError("not an ONNX file", where=str(path)) from None
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise IntegrityError(
            "its weights are in another file, which cannot be read", where=str(path), got=str(error)[:200],
            hint="put that file (often FILE.onnx.data) beside it again",
        ) from None  # fmt: skip
    return model
