"""Units of work: questions about models, answered on any executor. Both are data, and the answers lie in the store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar, get_type_hints

import msgspec

from featherweight.artifact import dumps, loads, pieces
from featherweight.errors import ConfigError, FeatherweightError, UnsupportedError
from featherweight.events import Message
from featherweight.executors import lost
from featherweight.files import Pieces, Store
from featherweight.model import Model
from featherweight.packing import pack, pack_changes, unpack, unpack_changes
from featherweight.task import Task
from featherweight.task.identity import identity_of
from featherweight.workspace import Workspace, versions

Question = TypeVar("Question")
Answer = TypeVar("Answer")
TRIES = 25  # losses of a unit, or of its way to a worker, without anything being answered meanwhile
LATE = (
    0.1,
    0.4,
    1.5,
    4.0,
    10.0,
    20.0,
    30.0,
)  # seconds between looks for what another process has put into the store


@dataclass(frozen=True, eq=False)
class Subject:
    """What questions are about.

    Attributes:
        models: the networks; the first is the one that an answer may change.
        workspace: of the run.
        scratch: folder where work on one question may leave checkpoints; None: nowhere.
        known: what was worked out already in this process.
    """

    models: Sequence[Model]
    workspace: Workspace
    scratch: Path | None = None
    known: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The first of the models."""
        return self.models[0]

    def once(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        """Return what `make` returns; it is called once for a key in each process."""
        if key not in self.known:
            self.known[key] = make()
        found: Answer = self.known[key]
        return found

    def answers(
        self, ask: Callable[[Subject, Question], Answer], questions: Sequence[Question]
    ) -> Iterator[Answer]:
        """Yield the answers in the order of the questions, on the executor of the workspace if it has one.

        Each is kept in the store: what was answered once is not asked again. Questions with the largest `cost` (an
        attribute that they may have) begin first.

        Args:
            ask: answers `question`: a function of a module, a pure one, with annotations. It returns data that msgspec
                can write, bytes included, or a `Model` made of the first one, of which the store keeps what differs.
            questions: data that msgspec can write and read.

        Raises:
            FeatherweightError: a question has no answer, and why.
        """
        workspace, kind = self.workspace, get_type_hints(ask)["return"]
        models = [workspace.key("model", model.hash, model.notes) for model in self.models]
        keys = [self._key(ask, models, question) for question in questions]
        units = self._units(models, dict(zip(keys, questions, strict=True))) if workspace.executor else {}
        with closing(Spread(workspace, ask, units)) as spread:
            for key, question in zip(keys, questions, strict=True):
                if key in units:
                    spread.wait(key)
                else:
                    self.answer(ask, question, key)
                content = found(workspace.store, key)
                if kind is Model:
                    yield unpack_changes(loads(content), self.model, workspace.task)  # type: ignore[misc]
                else:
                    yield msgspec.msgpack.decode(content, type=kind)

    def answer(self, ask: Callable[[Subject, Question], Any], question: Question, key: str) -> None:
        """Answer a question here, and keep the answer under `key`; nothing is done if it is there."""
        store = self.workspace.store
        if store.get(key) is None:
            with self.workspace.pinned():
                found = ask(dataclasses.replace(self, scratch=store.scratch(key)), question)
            store.put(key, self._content(found))

    def _content(self, answer: Any) -> Pieces:
        if isinstance(answer, Model):
            return pieces(pack_changes(answer, self.model))
        return [msgspec.msgpack.encode(answer)]

    def _key(self, ask: Callable[..., Any], models: Sequence[str], question: Any) -> str:
        """Return the key of an answer; of a function that is not of this package the code counts too."""
        own = ask.__module__.partition(".")[0] != "featherweight"
        code = f"{ask.__module__}.{ask.__qualname__} {identity_of(ask) if own else ''}"
        return self.workspace.key(
            "answer", code, models, question, self.workspace.seed, self.workspace.threads
        )

    def _units(self, models: Sequence[str], asked: dict[str, Any]) -> dict[str, bytes]:
        """Return, in MessagePack, the units that have no answer yet, largest cost first; their models are stored."""
        store, workspace = self.workspace.store, self.workspace
        left = [key for key in asked if store.get(key) is None]
        for key, model in zip(models, self.models, strict=True):
            if left and store.get(key) is None:
                store.put(key, dumps(pack(model)))
        folder, needs = str(store.folder.absolute()), getattr(workspace.task, "needs", "")
        shared = (folder, tuple(models), workspace.seed, workspace.threads, world(workspace), needs)
        order = sorted(left, key=lambda key: -getattr(asked[key], "cost", 0))
        raws = ((key, msgspec.Raw(msgspec.msgpack.encode(asked[key]))) for key in order)
        return {key: msgspec.msgpack.encode(Unit(*shared, key, raw)) for key, raw in raws}


class Unit(msgspec.Struct, frozen=True):
    """A question and all that it takes to answer it.

    Attributes:
        store: its folder.
        models: keys of the models in it.
        seed: of everything random.
        threads: compute threads.
        world: what else decides the answer, and must be the same where it is found.
        needs: what of the task may be seen; empty: all.
        key: of the answer.
        question: in MessagePack.
    """

    store: str
    models: tuple[str, ...]
    seed: int
    threads: int
    world: dict[str, str]
    needs: str
    key: str
    question: msgspec.Raw


def world(workspace: Workspace) -> dict[str, str]:
    """Return the versions, the instruction set and the fingerprint of the task, if it is always the same."""
    return versions() | ({"task": workspace.fingerprint} if getattr(workspace.task, "steady", True) else {})


class Spread:
    """Units on an executor; one whose worker or connection is lost is submitted again.

    Args:
        workspace: has the executor.
        ask: answers the questions.
        units: by the key of the answer, in the order in which they are to begin.
    """

    def __init__(
        self, workspace: Workspace, ask: Callable[[Subject, Any], Any], units: dict[str, bytes]
    ) -> None:
        self._workspace, self._ask, self._units = workspace, ask, units
        self._task = getattr(workspace.task, "again", None) or workspace.task
        self._done = SimpleQueue[tuple[str, Future[None]]]()
        # Of each unit since anything was answered: when its checkpoint had been written.
        self._losses = dict[str, list[float]]()
        self._futures = {key: self._submitted(key) for key in units}

    def wait(self, key: str) -> None:
        """Wait until a unit is done, whatever becomes of its workers.

        Raises:
            FeatherweightError: it has no answer; or it was lost again and again, and nothing was answered meanwhile.
        """
        while key in self._futures:
            done, future = self._done.get()
            try:
                future.result()
            except FeatherweightError:
                raise
            except (Exception, CancelledError) as error:
                if not lost(error):
                    raise UnsupportedError(f"a unit of work cannot be sent: {said(error)}") from error
                self._lose(done, error)
                self._futures[done] = self._submitted(done)
            else:
                del self._futures[done]
                self._losses.clear()

    def close(self) -> None:
        """Drop what has not begun."""
        for future in list(self._futures.values()):
            future.cancel()

    def _submitted(self, key: str) -> Future[None]:
        executor = self._workspace.executor
        assert executor is not None
        for left in reversed(range(TRIES)):
            try:
                future = executor.submit(work, self._ask, self._units[key], self._task)
                break
            except Exception as error:
                if not lost(error) or not left:
                    raise UnsupportedError(f"no executor takes work: {said(error)}") from error
        future.add_done_callback(lambda future: self._done.put((key, future)))
        return future

    def _lose(self, key: str, error: BaseException) -> None:
        """Count a loss; those before which the unit got further than before that do not count."""
        try:
            folder = self._workspace.store.scratch(key)
            written = max((file.stat().st_mtime for file in folder.glob("*")), default=0.0)
        except OSError:  # another worker has just cleared it
            written = 0.0
        losses = self._losses.setdefault(key, [])
        if losses and losses[-1] != written:
            losses.clear()
        losses.append(written)
        if len(losses) == TRIES:
            what = f"a unit of work was lost {TRIES} times, and got no further: {said(error)}"
            hint = "is the memory enough? The same command goes on where this one was"
            raise UnsupportedError(what, hint=hint) from error
        self._workspace.events(Message(f"a unit of work was lost, and begins again: {said(error)}"))


def said(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}".split("\n")[0].removesuffix(": ")


def found(store: Store, key: str) -> bytes:
    """Return what another process has put into the store; a folder on a network may show it late.

    Raises:
        ConfigError: it is not there.
    """
    for wait in (0, *LATE):
        if wait and store.folder.is_dir():
            time.sleep(wait)
        if (content := store.get(key)) is not None:
            return content
    hint = "all workers must see the same folder"
    raise ConfigError("the store does not hold what a unit of work needs", where=str(store.folder), hint=hint)


def work(ask: Callable[[Subject, Any], Any], unit: bytes, task: Task | Callable[[], Task]) -> None:
    """Answer a `Unit`, in MessagePack, about a task, or what makes it. An executor runs this, in any process.

    Raises:
        FeatherweightError: it has no answer, and why.
    """
    given = msgspec.msgpack.decode(unit, type=Unit)
    question = msgspec.msgpack.decode(given.question, type=get_type_hints(ask)["question"])
    try:
        with _ONE:
            opened(given, task).answer(ask, question, given.key)
    except FeatherweightError:
        raise
    except Exception as error:  # of the network or the data: anyone's code
        raise UnsupportedError(f"failed: {type(error).__name__}: {error}") from error


_ONE = Lock()  # the number of threads is that of the process: it works on one unit at a time
_OPENED = dict[tuple[Any, ...], Subject]()  # of this process: what it worked on last


def opened(unit: Unit, task: Task | Callable[[], Task]) -> Subject:
    """Return what a unit is about, read once.

    Raises:
        ConfigError: the store does not hold it, or its answer would be another one here.
    """
    key = (unit.store, unit.models, unit.seed, unit.threads, unit.needs)
    if key not in _OPENED:
        made = task if isinstance(task, Task) else task()
        workspace = Workspace(made, unit.seed, unit.threads, Store(unit.store))
        here = world(workspace)
        for name in sorted({*here, *unit.world}):
            if (got := here.get(name)) != (expected := unit.world.get(name)):
                hint = "all workers need the same packages, instruction set and data: results would differ"
                raise ConfigError(
                    "a worker has another one", where=name, got=got, expected=expected, hint=hint
                )
        models = [unpack(loads(found(workspace.store, model)), workspace.task) for model in unit.models]
        _OPENED.clear()
        _OPENED[key] = Subject(models, workspace)
    return _OPENED[key]
