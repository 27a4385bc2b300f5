"""Units of work of a search: data in, data out, on any executor; what they have in common is in the store."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

import msgspec

from featherweight.artifact import StoredGraph, dumps, loads
from featherweight.errors import ConfigError
from featherweight.files import Store
from featherweight.model import Model
from featherweight.packing import pack, unpack
from featherweight.task import Task
from featherweight.workspace import Workspace

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Unit(msgspec.Struct, frozen=True):
    """A question and all that it takes to answer it: a store's folder, and keys of the network and its graph in it.

    The key of a graph is empty where there is none.
    """

    store: str
    model: str
    graph: str
    seed: int
    threads: int
    facts: dict[str, Any]
    question: msgspec.Raw


@dataclass(frozen=True, eq=False)
class Subject:
    """What the questions of one search are about.

    Attributes:
        model: the network before anything is chosen.
        graph: of the model; None: there is none, or no question needs it.
        workspace: of the search.
        facts: what every file of the search says of its making; `recipe` has the steps before the choice.
        known: what was worked out already in this process.
    """

    model: Model
    graph: StoredGraph | None
    workspace: Workspace
    facts: dict[str, Any] = field(default_factory=dict)
    known: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        """Return what `make` returns; it is called once for a key."""
        if key not in self.known:
            self.known[key] = make()
        found: Answer = self.known[key]
        return found

    def answers(
        self, ask: Callable[[Subject, Question], Answer], questions: Sequence[Question]
    ) -> Iterator[Answer]:
        """Yield the answers in the order of the questions, on the executor of the workspace if it has one.

        `ask` answers `question`; it is a function of a module, with annotations that msgspec reads.
        """
        workspace = self.workspace
        if workspace.executor is None:
            yield from (ask(self, question) for question in questions)
            return
        model = workspace.key("model of a search", self.model.hash)
        workspace.store.put(model, dumps(pack(self.model)))
        graph = workspace.key("graph of a search", self.model.structure) if self.graph else ""
        if self.graph:
            workspace.store.put(graph, msgspec.msgpack.encode(self.graph))
        shared = (str(workspace.store.folder), model, graph, workspace.seed, workspace.threads, self.facts)
        raws = (msgspec.Raw(msgspec.json.encode(question)) for question in questions)
        units = [msgspec.json.encode(Unit(*shared, raw)) for raw in raws]
        kind = get_type_hints(ask)["return"]
        for future in [workspace.executor.submit(work, ask, unit, workspace.task) for unit in units]:
            yield msgspec.json.decode(future.result(), type=kind)


def work(ask: Callable[[Subject, Any], Any], unit: bytes, task: Task) -> bytes:
    """Return the answer to a `Unit` of the search of a task; both are JSON. An executor runs this, in any process."""
    given = msgspec.json.decode(unit, type=Unit)
    subject = _opened(given, Workspace(task, given.seed, given.threads, Store(given.store)))
    question = msgspec.json.decode(given.question, type=get_type_hints(ask)["question"])
    with subject.workspace.pinned():
        return msgspec.json.encode(ask(subject, question))


_OPENED: dict[tuple[str, ...], Subject] = {}  # of this process: the last search that it worked for


def _opened(unit: Unit, workspace: Workspace) -> Subject:
    facts = msgspec.json.encode(unit.facts, order="deterministic").decode()
    key = (unit.store, unit.model, unit.graph, f"{unit.seed} {unit.threads}", facts)
    if key not in _OPENED:
        contents = [workspace.store.get(part) for part in (unit.model, unit.graph) if part]
        if None in contents:
            raise ConfigError("the store does not hold what a unit of work needs", where=unit.store)
        model = unpack(loads(contents[0] or b""), workspace.task)
        graph = msgspec.msgpack.decode(contents[1] or b"", type=StoredGraph) if unit.graph else None
        _OPENED.clear()
        _OPENED[key] = Subject(model, graph, workspace, unit.facts)
    return _OPENED[key]
