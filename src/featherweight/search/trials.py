"""Trials: allocations encoded, weighed and measured on validation, under a ladder of budgets; which one is best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from featherweight.artifact import StoredGraph, dumps
from featherweight.errors import ConfigError
from featherweight.evaluation.metrics import Evaluation, Evaluator
from featherweight.evaluation.paired_test import drop_bound
from featherweight.events import Finished, Progress, Started
from featherweight.formats import Encoded
from featherweight.packing import pack
from featherweight.search.allocation import budgets, pareto, uniform, within
from featherweight.search.sensitivity import Cell, Option, encode_step
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.work import Subject

DOUBT = 1.64  # standard errors beyond a drop that count with it (one-sided, 95 %) where it has no exact bound
ROUNDING = 1e-12
HALVINGS = 4
FITS = 6  # tries to fill a limit of bytes
RUNGS = 12

Choice = dict[str, Option]


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
        """Return whether every constraint holds."""
        return all(self.measured(c.measure) <= c.most + ROUNDING for c in constraints)

    def measured(self, name: str) -> float:
        """Return one measure."""
        if name not in self.measures:
            raise ConfigError("not a measure", got=repr(name), expected=", ".join(self.measures))
        return self.measures[name]

    @property
    def steps(self) -> list[Encode]:
        """The steps that make this allocation: a recipe of its own."""
        return [encode_step(name, option) for name, option in self.choices.items() if option.format]


class Weighed(msgspec.Struct, frozen=True):
    """A choice whose file is to be weighed.

    Attributes:
        choice: tensor to option.
        graph: key of the float graph in the store; empty where there is none.
        facts: what every file of the search says of its making; `recipe` has the steps before the choice.
    """

    choice: dict[str, Option]
    graph: str
    facts: dict[str, Any]


def weigh(subject: Subject, question: Weighed) -> tuple[int, Evaluation]:
    """Return the bytes of the file that a choice makes, and what it does on validation.

    Neighbours on the ladder share most tensors: each is encoded once under an option.
    """
    model, task, context = subject.model, subject.workspace.task, Context(subject.workspace.seed)
    graph = subject.once(question.graph, lambda: _graph(subject, question.graph))

    def encoded(name: str, option: Option) -> Encoded:
        step = encode_step(name, option)
        return subject.once((name, option), lambda: step.apply(model, task, context).weights[name])

    chosen = {name: option for name, option in question.choice.items() if option.format is not None}
    made = model.with_encoded({name: encoded(name, option) for name, option in chosen.items()})
    found = Evaluator(subject.workspace, model, graph).evaluation(made, "validation")
    before, steps = question.facts["recipe"], [encode_step(name, option) for name, option in chosen.items()]
    recipe = before | {"steps": [*before["steps"], *msgspec.to_builtins(steps)]}
    facts = question.facts | {"recipe": recipe, "validation": found.metrics}
    return len(dumps(pack(made, graph, facts))), found


def _graph(subject: Subject, key: str) -> StoredGraph | None:
    kept = subject.workspace.store.get(key) if key else None
    return None if kept is None else msgspec.msgpack.decode(kept, type=StoredGraph)


def draw(
    rows: Sequence[Sequence[Cell]], subject: Subject, ask: Callable[[Choice], Weighed], base: Evaluation,
    constraints: Sequence[Constraint],
) -> list[Trial]:  # fmt: skip
    """Return the trials of a search, each choice once, smallest file first.

    Every option is tried for all tensors at once, so that what is chosen is never worse than that; then a ladder of
    budgets, allocated exactly. These are independent, and run on the executor. Then, one after another: with a limit
    of bytes, the largest budget whose file keeps it (index and graph are a part of it); else the space between the
    smallest budget that keeps the constraints and its smaller neighbour is halved a few times.

    Args:
        rows: the cells of each tensor.
        subject: the network before anything is chosen.
        ask: makes the question that a choice is.
        base: what the float network does on validation.
        constraints: what the trial that is sought has to keep.
    """
    workspace, primary = subject.workspace, subject.workspace.task.primary
    tried = dict[tuple[tuple[str, Option], ...], Trial]()

    def trials_of(choices: Sequence[Choice]) -> Iterator[Trial]:
        keys = dict.fromkeys(tuple(choice.items()) for choice in choices)
        new = [dict(key) for key in keys if key not in tried]
        for choice, (nbytes, found) in zip(new, subject.answers(weigh, list(map(ask, new))), strict=True):
            drop, paired = base.metrics[primary] - found.metrics[primary], found.against(base)
            error, bound = 0.0, drop
            if paired and base.scores is not None and found.scores is not None:
                error, bound = paired.error, drop_bound(base.scores, found.scores)
            drops = {"drop": drop, "error": error, "likely": drop + DOUBT * error, "bound": bound}
            trial = Trial(choice, {"bytes": float(nbytes), **found.metrics, **drops})
            tried[tuple(choice.items())] = trial
            yield trial

    def attempt(budget: float) -> Trial | None:
        choice = within(rows, budget)
        if choice is None:
            return None
        list(trials_of([choice]))
        return tried[tuple(choice.items())]

    limit = min((c.most for c in constraints if c.measure == "bytes"), default=0.0)  # 0: there is none
    ladder = budgets(rows, RUNGS)
    proposed = [within(rows, budget) for budget in ladder]
    choices = [*uniform(rows), *(choice for choice in proposed if choice is not None)]
    refine = HALVINGS if constraints and not limit else 0
    workspace.events(Started("front", len(choices) + refine))
    with workspace.pinned():
        for done, _ in enumerate(trials_of(choices), start=1):
            workspace.events(Progress("front", done))
        budget = limit
        for _ in range(FITS if limit else 0):
            trial = attempt(budget)
            if trial is None or trial.nbytes <= limit:
                break
            budget -= trial.nbytes - limit
        if refine:
            kept = [c is not None and tried[tuple(c.items())].keeps(constraints) for c in proposed]
            first = kept.index(True) if True in kept else len(ladder) - 1
            low, high = ladder[max(first - 1, 0)], ladder[first]
            for _ in range(refine):
                middle = (low * high) ** 0.5
                trial = attempt(middle)
                low, high = (low, middle) if trial and trial.keeps(constraints) else (middle, high)
    workspace.events(Finished("front", 0.0))
    return sorted(tried.values(), key=lambda trial: (trial.nbytes, trial.drop))


def choose(
    trials: Sequence[Trial], objectives: Sequence[str], constraints: Sequence[Constraint]
) -> Trial | None:
    """Return the trial with the least first objective (of equal ones the next) among those that keep all constraints.

    Args:
        trials: to choose from.
        objectives: measures that are to be small, the most important one first.
        constraints: what has to hold; None is returned if no trial keeps them.
    """
    kept = [trial for trial in trials if trial.keeps(constraints)]
    return min(kept, key=lambda trial: [trial.measured(name) for name in objectives], default=None)


def front_of(trials: Sequence[Trial], objectives: Sequence[str] = ("bytes", "drop")) -> list[Trial]:
    """Return the trials that no other beats in all objectives, by the first one."""
    return [trials[i] for i in pareto([tuple(t.measured(name) for name in objectives) for t in trials])]
