"""Units of work: questions about models, answered on any executor. Both are data, and the answers lie in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from featherweight.artifact import dumps, loads, pieces
from featherweight.errors import ConfigError, FeatherweightError, UnsupportedError
from featherweight.files import Pieces, Store
from featherweight.model import Model
from featherweight.packing import pack, pack_changes, unpack, unpack_changes
from featherweight.task import Task
from featherweight.task.identity import identity_of
from featherweight.workspace import Workspace

Question = TypeVar("Question")
Answer = TypeVar("Answer")


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
        futures = dict[str, Future[None]]()
        try:
            if workspace.executor is not None:
                futures = self._submitted(ask, models, dict(zip(keys, questions, strict=True)))
            for key, question in zip(keys, questions, strict=True):
                if key in futures:
                    futures[key].result()
                else:
                    self.answer(ask, question, key)
                content = workspace.store.get(key)
                if content is None:
                    raise _not_there(workspace.store, "an answer")
                if kind is Model:
                    yield unpack_changes(loads(content), self.model, workspace.task)  # type: ignore[misc]
                else:
                    yield msgspec.msgpack.decode(content, type=kind)
        finally:
            for future in futures.values():
                future.cancel()

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

    def _submitted(
        self, ask: Callable[[Subject, Any], Any], models: Sequence[str], asked: dict[str, Any]
    ) -> dict[str, Future[None]]:
        """Submit what has no answer yet, largest cost first."""
        workspace, store = self.workspace, self.workspace.store
        assert workspace.executor is not None
        left = [key for key in asked if store.get(key) is None]
        for key, model in zip(models, self.models, strict=True):
            if left and store.get(key) is None:
                store.put(key, dumps(pack(model)))
        shared = (str(store.folder.absolute()), tuple(models), workspace.seed, workspace.threads)
        futures = {}
        for key in sorted(left, key=lambda key: -getattr(asked[key], "cost", 0)):
            unit = Unit(*shared, key, msgspec.Raw(msgspec.msgpack.encode(asked[key])))
            futures[key] = workspace.executor.submit(work, ask, msgspec.msgpack.encode(unit), workspace.task)
        return futures


class Unit(msgspec.Struct, frozen=True):
    """A question and all that it takes to answer it: a store's folder, keys of the models in it, and of the answer."""

    store: str
    models: tuple[str, ...]
    seed: int
    threads: int
    key: str
    question: msgspec.Raw


def work(ask: Callable[[Subject, Any], Any], unit: bytes, task: Task) -> None:
    """Answer a `Unit`, in MessagePack, and keep the answer in the store. An executor runs this, in any process.

    Raises:
        FeatherweightError: it has no answer, and why.
    """
    given = msgspec.msgpack.decode(unit, type=Unit)
    workspace = Workspace(task, given.seed, given.threads, Store(given.store))
    question = msgspec.msgpack.decode(given.question, type=get_type_hints(ask)["question"])
    try:
        _opened(given, workspace).answer(ask, question, given.key)
    except FeatherweightError:
        raise
    except Exception as error:  # of the network or the data: anyone's code
        raise UnsupportedError(f"failed: {type(error).__name__}: {error}") from error


_OPENED: dict[tuple[Any, ...], tuple[list[Model], dict[Hashable, Any]]] = {}  # here: what was worked on last


def _opened(unit: Unit, workspace: Workspace) -> Subject:
    key = (unit.store, unit.models, unit.seed, unit.threads)
    if key not in _OPENED:
        contents = [workspace.store.get(model) for model in unit.models]
        if None in contents:
            raise _not_there(workspace.store, "a model")
        models = [unpack(loads(content or b""), workspace.task) for content in contents]
        _OPENED.clear()
        _OPENED[key] = models, {}
    models, known = _OPENED[key]
    return Subject(models, workspace, known=known)


def _not_there(store: Store, what: str) -> ConfigError:
    hint = "all workers must see the same folder"
    return ConfigError(
        f"the store does not hold {what} of a unit of work", where=str(store.folder), hint=hint
    )
