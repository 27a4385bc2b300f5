"""Before the work: a task is tried on its first batches, and its network exported as the graph of the file."""

from __future__ import annotations

from itertools import count

import msgspec
import onnx
import torch
from torch import Tensor, nn

from featherweight.artifact import StoredGraph
from featherweight.capture.onnx import OnnxNetwork
from featherweight.capture.pytree import flatten_inputs
from featherweight.errors import FeatherweightError, TaskError, UnsupportedError
from featherweight.evaluation.metrics import predictor, session_predictor
from featherweight.events import Message
from featherweight.export.check import arrays
from featherweight.export.onnx import export_and_why
from featherweight.model import Model, Note
from featherweight.runtime import Session
from featherweight.structure import to_call
from featherweight.task import Inputs, Output, Predict, Split, Task, call
from featherweight.task.protocol import failures, network_of
from featherweight.task.samples import leaves
from featherweight.task.sampling import drawn
from featherweight.workspace import Workspace

LOOKED_AT = 8  # batches, whose shapes say which axes are free


def check(workspace: Workspace) -> None:
    """Build the network of a task, call it once on the example, and begin to measure it.

    The metrics of validation and test are begun on their first batch: labels that are missing, or fit no metric,
    are found here and not after the search.

    Raises:
        TaskError: the user's code fails on the way; says where, and of types that differ what to do.
        UnsupportedError: the network cannot be taken over.
    """
    task = workspace.task
    with failures(f"{task.name}, model"):
        network = network_of(task)
    module = Model.of(network).module
    _ = workspace.fingerprint
    with failures(f"{task.name}, example"):
        example = task.example()
    with failures(f"{task.name}, network on its example"), torch.no_grad():
        try:
            call(to_call(module), example)
        except RuntimeError as error:
            if differ := _types(module, example):
                raise differ from error
            raise
    for split in ("validation", "test"):
        _begin(task, predictor(to_call(module)), split)


class _Enough(BaseException):
    """The first batch was measured; no `Exception`, so that no code of the user's takes it for a failure."""


def _begin(task: Task, predict: Predict, split: Split) -> None:
    """Let a task measure its first batch, and stop it at the second."""
    batch = count()

    def once(inputs: Inputs) -> Output:
        if next(batch):
            raise _Enough
        return predict(inputs)

    try:
        with failures(f"{task.name}, metrics on {split}"):
            task.metrics(once, split)
    except _Enough:
        pass


def _types(module: nn.Module, example: Inputs) -> TaskError | None:
    """Return what to say of weights of one floating-point type and inputs of another or of bytes, if that is so."""
    weights = {str(p.dtype) for p in module.parameters() if p.is_floating_point()}
    tensors = [x for x in leaves(example) if isinstance(x, Tensor)]
    inputs = {str(x.dtype) for x in tensors if x.is_floating_point() or x.dtype == torch.uint8}
    if not weights or not inputs or weights == inputs:
        return None
    hint = "network.float(); or tensors of the weights' type (arrays of float64 are read as float32)"
    if "torch.uint8" in inputs:
        hint = "images of bytes as numbers: images.float() / 255, or as the network was trained"
    got, expected = ", ".join(sorted(inputs)), ", ".join(sorted(weights))
    return TaskError("inputs are not of the type of the weights", got=got, expected=expected, hint=hint)


def graph_of(model: Model, workspace: Workspace) -> tuple[StoredGraph | None, list[Note]]:
    """Return the float graph of a model, or why it has none; it depends on structure, not on values.

    Of a network that says which of its axes are free there is a note on which are in the graph, and why others are not.
    """
    task, store = workspace.task, workspace.store
    key = workspace.key("graph and axes", model.structure, model.aliases)
    kept = store.get(key)
    if kept is not None:
        graph, why = msgspec.msgpack.decode(kept, type=tuple[StoredGraph, str])
        return graph, axes_of(graph, model.module, why)
    with failures(f"{task.name}, validation split"):
        batches = [task.inputs(batch) for batch in drawn(task, "validation", batches=LOOKED_AT)]
    said: dict[str, tuple[int, ...]] | None = None
    if hasattr(task, "dynamic_shapes"):
        with failures(f"{task.name}, dynamic_shapes"):
            said = task.dynamic_shapes()
    try:
        if said is None and not hasattr(model.module, "dynamic_shapes"):  # else the network says it
            said = free_axes(model, task, batches)
        captured = model.program(task.example()) if said is None else None
        graph, why = export_and_why(model.module, task.example(), dynamic=said, captured=captured)
        _run(graph, model, batches)
    except FeatherweightError as error:
        reason = "; ".join(part for part in (str(error).split("\n")[0], error.hint) if part)
        if model.activations:
            raise UnsupportedError(
                "activations are quantized, and no runtime can run the network", where=task.name, got=reason,
                hint="a recipe without calibrate makes a file of weights alone",
            ) from error  # fmt: skip
        workspace.events(Message(f"the file will hold weights only, and runs in no runtime: {reason}"))
        return None, [Note("skipped", "graph", f"the file holds weights only: {reason}")]
    store.put(key, msgspec.msgpack.encode((graph, why)))
    return graph, axes_of(graph, model.module, why)


def axes_of(graph: StoredGraph, module: nn.Module, why: str) -> list[Note]:
    """Return a note on which free axes of an ONNX file are free in a graph; `why`: the reason that others are not."""
    if not isinstance(module, OnnxNetwork):
        return []
    inputs = {
        v.name: v.type.tensor_type.shape.dim for v in onnx.ModelProto.FromString(graph.onnx).graph.input
    }
    free, fixed = list[str](), list[str]()
    for entry in module.inputs:
        keyword = module.identifiers[entry.name]
        for axis in module.dynamic_shapes()[keyword]:
            name, size = entry.shape[axis], inputs[keyword][axis].dim_value
            place = f"axis {axis} of {entry.name}" + (f" ({name})" if name else "")
            (fixed if size else free).append(f"{place} is {size}" if size else place)
    found = f"of any size: {', '.join(free) or 'none'}"
    found += f"; fixed: {', '.join(fixed)}, for otherwise {why}" if fixed else ""
    return [Note("chose", "axes", found)] if free or fixed else []


def free_axes(model: Model, task: Task, batches: list[Inputs]) -> dict[str, tuple[int, ...]] | None:
    """Return the axes of each input whose size differs between batches, and the first one.

    None, where only the first axes differ: `export` frees those by itself.
    """
    seen = [flatten_inputs(model.module, inputs) for inputs in (task.example(), *batches)]
    axes = {}
    for name, tensor in seen[0].items():
        shapes = [other[name].shape for other in seen if name in other]
        varies = [len({shape[axis] for shape in shapes}) > 1 for axis in range(tensor.dim())]
        axes[name] = tuple(axis for axis, free in enumerate(varies) if free or axis == 0)
    return axes if any(len(free) > 1 for free in axes.values()) else None


def _run(graph: StoredGraph, model: Model, batches: list[Inputs]) -> None:
    """Run the graph on batches of every shape."""
    run = session_predictor(Session.of(graph, arrays(model.module)))
    shapes = set()
    for inputs in batches:
        shape = tuple(tuple(t.shape) for t in flatten_inputs(model.module, inputs).values())
        if shape not in shapes:
            run(inputs)
            shapes.add(shape)
