"""The graph that goes into a file: exported once for a structure, with the axes free that differ between batches."""

from __future__ import annotations

from itertools import islice

import msgspec

from featherweight.artifact import StoredGraph
from featherweight.errors import FeatherweightError
from featherweight.evaluation.metrics import session_predictor
from featherweight.events import Message
from featherweight.export import export
from featherweight.export.check import arrays
from featherweight.graph.pytree import flatten_inputs
from featherweight.model import Model, Note
from featherweight.runtime import Session
from featherweight.task import Inputs, Task
from featherweight.task.failures import failures
from featherweight.workspace import Workspace

LOOKED_AT = 8


def graph_of(model: Model, workspace: Workspace) -> tuple[StoredGraph | None, list[Note]]:
    """Return the float graph of a model, or why it has none; it depends on structure, not on values."""
    task, store = workspace.task, workspace.store
    key = workspace.key("graph", model.structure, model.aliases)
    kept = store.get(key)
    if kept is not None:
        return msgspec.msgpack.decode(kept, type=StoredGraph), []
    with failures(f"{task.name}, validation split"):
        looked_at = islice(task.batches("validation", seed=0, epoch=0), LOOKED_AT)
        batches = [task.inputs(batch) for batch in looked_at]
    try:
        axes = free_axes(model, task, batches)
        captured = model.program(task.example()) if axes is None else None
        graph = export(model.module, task.example(), dynamic=axes, captured=captured)
        _takes(graph, model, batches)
    except FeatherweightError as error:
        reason = str(error).split("\n")[0]
        workspace.events(Message(f"the file will hold weights only, and runs in no runtime: {reason}"))
        return None, [Note("skipped", "graph", f"the file holds weights only: {reason}")]
    store.put(key, msgspec.msgpack.encode(graph))
    return graph, []


def free_axes(model: Model, task: Task, batches: list[Inputs]) -> dict[str, tuple[int, ...]] | None:
    """Return the axes of each input whose size is free: what the task says, else those that differ between batches.

    None, where only the first axes differ: `export` frees those by itself.
    """
    if hasattr(task, "dynamic_shapes"):
        with failures(f"{task.name}, dynamic_shapes"):
            said: dict[str, tuple[int, ...]] = task.dynamic_shapes()
        return said
    seen = [flatten_inputs(model.module, inputs) for inputs in (task.example(), *batches)]
    axes = {
        name: tuple(
            axis
            for axis in range(tensor.dim())
            if axis == 0 or len({other[name].shape[axis] for other in seen if name in other}) > 1
        )
        for name, tensor in seen[0].items()
    }
    return axes if any(len(free) > 1 for free in axes.values()) else None


def _takes(graph: StoredGraph, model: Model, batches: list[Inputs]) -> None:
    """Run the graph on batches of every shape.

    Raises:
        ConfigError: it does not take one.
    """
    session = Session.of(graph, arrays(model.module))
    shapes = set()
    for inputs in batches:
        shape = tuple(tuple(t.shape) for t in flatten_inputs(model.module, inputs).values())
        if shape not in shapes:
            session_predictor(session)(inputs)
            shapes.add(shape)
