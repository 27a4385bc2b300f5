"""The front of accuracy against bytes: allocations under a ladder of budgets, each one verified on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from featherweight.artifact import StoredGraph, dumps
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.formats import Encoded
from featherweight.model import Model
from featherweight.recipe import Store
from featherweight.recipe.packing import pack
from featherweight.recipe.runner import pinned
from featherweight.search.allocation import allocate, pareto
from featherweight.search.evaluate import metrics
from featherweight.search.options import Option
from featherweight.search.sensitivity import Cell, Sensitivity, encode_step
from featherweight.task import Task
from featherweight.techniques import Encode
from featherweight.techniques.base import Context


class Trial(msgspec.Struct, frozen=True):
    """One allocation, as it was measured.

    Attributes:
        choices: tensor to option.
        nbytes: bytes of the whole file.
        metrics: on the validation split.
        drop: what the primary metric lost against the float network there (fraction, not percent).
        predicted: sum of the losses that the sensitivities foretold.
    """

    choices: dict[str, Option]
    nbytes: int
    metrics: dict[str, float]
    drop: float
    predicted: float

    @property
    def steps(self) -> list[Encode]:
        """The steps that make this allocation: a recipe of its own."""
        return [
            encode_step(name, option) for name, option in self.choices.items() if option.format is not None
        ]


@dataclass(frozen=True, eq=False)
class Allocator:
    """What is fixed while a front is drawn: the float network, its table, and how candidates are verified.

    `encoded` holds what was encoded already.
    """

    model: Model
    task: Task
    table: Sensitivity
    graph: StoredGraph | None
    base: Mapping[str, float]
    seed: int
    threads: int
    store: Store
    encoded: dict[tuple[str, Option], Encoded] = field(default_factory=dict)

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells of each tensor."""
        return list(self.table.by_tensor().values())

    def within(self, budget: float) -> dict[str, Cell] | None:
        """Return the least harmful choice whose tensors take at most `budget` bytes, or None."""
        damage = [[_damage(cell) for cell in row] for row in self.rows]
        sizes = [[cell.nbytes for cell in row] for row in self.rows]
        chosen = allocate(damage, sizes, budget)
        if chosen is None:
            return None
        return {row[i].tensor: row[i] for row, i in zip(self.rows, chosen, strict=True)}

    def budgets(self, count: int) -> list[float]:
        """Return a geometric ladder of budgets, from the least bytes possible to the most."""
        least = sum(min(cell.nbytes for cell in row) for row in self.rows)
        most = sum(max(cell.nbytes for cell in row) for row in self.rows)
        ladder = np.geomspace(max(least, 1), max(most, 1), count)[:-1]
        return [*(float(budget) for budget in ladder), float(most)]

    def verify(self, choice: Mapping[str, Cell]) -> Trial:
        """Encode a choice, weigh the file it makes, and measure it on the validation split."""
        options = {name: cell.option for name, cell in choice.items()}
        trial = Trial(options, 0, {}, 0.0, sum(cell.loss for cell in choice.values()))
        chosen = {name: option for name, option in options.items() if option.format is not None}
        model = self.model.with_encoded(
            {name: self._encoded(name, option) for name, option in chosen.items()}
        )
        measured = metrics(model, self.task, "validation", self.store, self.threads)
        nbytes = len(dumps(pack(model, self.graph)))
        drop = self.base[self.task.primary] - measured[self.task.primary]
        return msgspec.structs.replace(trial, nbytes=nbytes, metrics=measured, drop=drop)

    def _encoded(self, name: str, option: Option) -> Encoded:
        """Return a tensor under an option; neighbours on the ladder share most of them."""
        if (name, option) not in self.encoded:
            made = encode_step(name, option).apply(self.model, self.task, Context(self.seed))
            self.encoded[name, option] = made.weights[name]
        return self.encoded[name, option]


def frontier(
    allocator: Allocator,
    *,
    max_drop: float | None,
    max_bytes: int | None,
    rungs: int = 12,
    events: Events = silent,
) -> list[Trial]:
    """Return every trial that was verified, smallest file first.

    A ladder of budgets is allocated exactly and verified; then the space between the smallest file that keeps
    the demand and its smaller neighbour is halved a few times.

    Args:
        allocator: what is fixed.
        max_drop: most that the primary metric may lose on validation (fraction).
        max_bytes: most bytes of the whole file.
        rungs: budgets on the ladder.
        events: where progress goes.
    """
    halvings = 4 if max_drop is not None and max_bytes is None else 0
    events(Started("front", rungs + halvings))
    tried: dict[tuple[Option, ...], Trial] = {}

    def attempt(budget: float) -> Trial | None:
        choice = allocator.within(budget)
        if choice is None:
            return None
        key = tuple(cell.option for cell in choice.values())
        if key not in tried:
            tried[key] = allocator.verify(choice)
        return tried[key]

    with pinned(allocator.threads):
        ladder = allocator.budgets(rungs)
        outcomes = []
        for number, budget in enumerate(ladder):
            outcomes.append(attempt(budget))
            events(Progress("front", number + 1))
        if max_bytes is not None:
            _fit(attempt, max_bytes)
        elif max_drop is not None:
            keeps = [trial is not None and trial.drop <= max_drop for trial in outcomes]
            first = keeps.index(True) if True in keeps else len(ladder) - 1
            low, high = ladder[max(first - 1, 0)], ladder[first]
            for number in range(halvings):
                middle = (low * high) ** 0.5
                trial = attempt(middle)
                low, high = (low, middle) if trial and trial.drop <= max_drop else (middle, high)
                events(Progress("front", rungs + number + 1))
    events(Finished("front", 0.0))
    return sorted(tried.values(), key=lambda trial: (trial.nbytes, trial.drop))


def _fit(attempt: Callable[[float], Trial | None], max_bytes: int) -> None:
    """Try the largest budget whose whole file stays within `max_bytes`: the index and graph weigh too."""
    budget = float(max_bytes)
    for _ in range(6):
        trial = attempt(budget)
        if trial is None or trial.nbytes <= max_bytes:
            return
        budget -= trial.nbytes - max_bytes


def choose(trials: Sequence[Trial], *, max_drop: float | None, max_bytes: int | None) -> Trial | None:
    """Return the trial that was asked for: the smallest within `max_drop`, or the best within `max_bytes`.

    Of many trials one keeps `max_drop` by luck; so the next larger one has to keep it too (the largest has none).
    """
    if max_drop is None:
        fitting = [trial for trial in trials if max_bytes is None or trial.nbytes <= max_bytes]
        return min(fitting, key=lambda trial: (trial.drop, trial.nbytes), default=None)
    ladder = sorted(trials, key=lambda trial: (trial.nbytes, trial.drop))
    for trial, larger in zip(ladder, [*ladder[1:], ladder[-1]], strict=True):
        within = max_bytes is None or trial.nbytes <= max_bytes
        if within and trial.drop <= max_drop and larger.drop <= max_drop:
            return trial
    return None


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both bytes and metric, smallest first."""
    return [trials[i] for i in pareto([(trial.nbytes, trial.drop) for trial in trials])]


def _damage(cell: Cell) -> float:
    """Return the loss a cell adds, never below 0; of equal ones, less error is better, and then fewer bytes."""
    return max(cell.loss, 0.0) + 1e-9 * cell.error + 1e-15 * cell.nbytes
