"""Trials: an allocation encoded, weighed and measured on validation; a unit of work is data, for any executor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from featherweight.artifact import StoredGraph, dumps, loads
from featherweight.errors import ConfigError
from featherweight.evaluation.metrics import Evaluation, evaluate
from featherweight.evaluation.paired_test import drop_bound, paired
from featherweight.formats import Encoded
from featherweight.model import Model
from featherweight.packing import pack, unpack
from featherweight.search.candidates import Option
from featherweight.search.sensitivity import encode_step
from featherweight.store import Store
from featherweight.task import Task
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.workspace import Workspace

DOUBT = 1.64  # standard errors beyond a drop that count with it (one-sided, 95 %) where it has no exact bound
ROUNDING = 1e-12


class Constraint(msgspec.Struct, frozen=True):
    """A demand on a trial.

    Attributes:
        measure: one of its measures, for instance `bytes` or `bound`.
        most: the largest value that keeps it.
    """

    measure: str
    most: float


class Trial(msgspec.Struct, frozen=True):
    """One allocation, as it was measured.

    Attributes:
        choices: tensor to option.
        measures: `bytes` of the whole file; every metric of the task on validation, by its name; and of the primary
            metric: `drop`, what it lost against the float network (fraction); `error`, the standard error of that,
            0 where the task cannot tell; `likely`, the drop and 1.64 of these; `bound`, most that it lost with 95 %
            confidence (exact for a metric of 0 and 1).
    """

    choices: dict[str, Option]
    measures: dict[str, float]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return int(self.measures["bytes"])

    @property
    def drop(self) -> float:
        """What the primary metric lost on validation (fraction)."""
        return self.measures["drop"]

    def keeps(self, constraints: Sequence[Constraint]) -> bool:
        """Return whether every constraint holds.

        Raises:
            ConfigError: a constraint on something that was not measured.
        """
        return all(self.measured(c.measure) <= c.most + ROUNDING for c in constraints)

    def measured(self, name: str) -> float:
        """Return one measure.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.measures:
            raise ConfigError("not a measure", got=repr(name), expected=", ".join(self.measures))
        return self.measures[name]

    @property
    def steps(self) -> list[Encode]:
        """The steps that make this allocation: a recipe of its own."""
        return [
            encode_step(name, option) for name, option in self.choices.items() if option.format is not None
        ]


class Unit(msgspec.Struct, frozen=True):
    """What a worker needs to make a trial, beside the task: everything else is in the store, under keys.

    Attributes:
        store: folder of the store.
        model: key of the packed float network.
        base: key of its evaluation on validation.
        graph: key of its graph; empty: there is none.
        seed: of the run.
        threads: of the arithmetic.
        choices: tensor to option.
    """

    store: str
    model: str
    base: str
    graph: str
    seed: int
    threads: int
    choices: dict[str, Option]


@dataclass(frozen=True, eq=False)
class Trials:
    """What the trials of a search have in common.

    Attributes:
        model: the network before anything is chosen.
        base: what the float network does on validation.
        graph: of the model; None: there is none.
        workspace: of the search.
        encoded: tensors that were encoded already.
    """

    model: Model
    base: Evaluation
    graph: StoredGraph | None
    workspace: Workspace
    encoded: dict[tuple[str, Option], Encoded] = field(default_factory=dict)

    def run(self, choices: Sequence[Mapping[str, Option]]) -> Iterator[Trial]:
        """Yield the trial of each choice, in their order; on the executor of the workspace if it has one."""
        executor, task = self.workspace.executor, self.workspace.task
        if executor is None:
            yield from (self.trial(choice) for choice in choices)
            return
        shared = self._shared()
        units = [msgspec.structs.replace(shared, choices=dict(choice)) for choice in choices]
        for future in [executor.submit(work, msgspec.json.encode(unit), task) for unit in units]:
            yield msgspec.json.decode(future.result(), type=Trial)

    def trial(self, choices: Mapping[str, Option]) -> Trial:
        """Encode a choice, weigh the file it makes, and measure it on validation."""
        chosen = {name: option for name, option in choices.items() if option.format is not None}
        encoded = {name: self._encoded(name, option) for name, option in chosen.items()}
        model = self.model.with_encoded(encoded)
        found = evaluate(model, "validation", self.workspace, self.graph)
        nbytes = len(dumps(pack(model, self.graph)))
        return Trial(dict(choices), {"bytes": float(nbytes), **found.metrics, **self._drop(found)})

    def _drop(self, found: Evaluation) -> dict[str, float]:
        primary = self.workspace.task.primary
        before, after = self.base.scores, found.scores
        drop = self.base.metrics[primary] - found.metrics[primary]
        if before is None or after is None or before.shape != after.shape:
            return {"drop": drop, "error": 0.0, "likely": drop, "bound": drop}
        error = paired(before, after).error
        likely = drop + DOUBT * error
        return {"drop": drop, "error": error, "likely": likely, "bound": drop_bound(before, after)}

    def _encoded(self, name: str, option: Option) -> Encoded:
        """Return a tensor under an option; neighbours on the ladder share most of them."""
        if (name, option) not in self.encoded:
            seed = self.workspace.seed
            made = encode_step(name, option).apply(self.model, self.workspace.task, Context(seed))
            self.encoded[name, option] = made.weights[name]
        return self.encoded[name, option]

    def _shared(self) -> Unit:
        """Put what all units share into the store, and remember it for workers of this process."""
        store, seed, threads = self.workspace.store, self.workspace.seed, self.workspace.threads
        model = self.workspace.key("trial model", self.model.hash)
        base = self.workspace.key("trial base", self.model.hash, self.base)
        graph = self.workspace.key("trial graph", self.model.structure) if self.graph else ""
        store.put(model, dumps(pack(self.model)))
        store.put(base, msgspec.json.encode(self.base))
        if self.graph:
            store.put(graph, msgspec.msgpack.encode(self.graph))
        return Unit(str(store.folder), model, base, graph, seed, threads, {})


def work(unit: bytes, task: Task) -> bytes:
    """Return the trial of a unit of work; both are JSON. This is what an executor runs, in any process.

    Args:
        unit: a `Unit`.
        task: the task of the search.
    """
    given = msgspec.json.decode(unit, type=Unit)
    workspace = Workspace(task, given.seed, given.threads, Store(given.store))
    found = _opened(given, workspace)
    with workspace.pinned():
        return msgspec.json.encode(found.trial(given.choices))


_OPENED: dict[tuple[str, ...], Trials] = {}  # of this process: the last search that it worked for


def _opened(unit: Unit, workspace: Workspace) -> Trials:
    key = (unit.store, unit.model, unit.base, unit.graph, f"{unit.seed} {unit.threads}")
    if key not in _OPENED:
        contents = [workspace.store.get(part) for part in (unit.model, unit.base, unit.graph) if part]
        if None in contents:
            raise ConfigError("the store does not hold what a unit of work needs", where=unit.store)
        model = unpack(loads(contents[0] or b""), workspace.task)
        graph = msgspec.msgpack.decode(contents[2] or b"", type=StoredGraph) if unit.graph else None
        base = msgspec.json.decode(contents[1] or b"", type=Evaluation)
        _OPENED.clear()
        _OPENED[key] = Trials(model, base, graph, workspace)
    return _OPENED[key]
