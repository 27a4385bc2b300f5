"""The front of accuracy against bytes: allocations under a ladder of budgets, each one verified on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.artifact import StoredGraph, dumps
from featherweight.evaluation.metrics import metrics, scored
from featherweight.evaluation.paired_test import paired
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.formats import Encoded
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.recipe import Store
from featherweight.search.allocation import allocate, pareto
from featherweight.search.candidates import Option
from featherweight.search.sensitivity import Cell, Sensitivity, encode_step
from featherweight.task import Task
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.workspace import pinned

Array = NDArray[np.float64]
# Of many trials some keep a demand by luck: the drop counts with so many of its standard errors (one-sided, 95 %).
DOUBT = 1.64
ROUNDING = 1e-12
HALVINGS = 4


class Trial(msgspec.Struct, frozen=True):
    """One allocation, as it was measured.

    Attributes:
        choices: tensor to option.
        nbytes: bytes of the whole file.
        value: the primary metric on the validation split.
        drop: what it lost against the float network there (fraction, not percent).
        error: standard error of the drop, from the samples that changed; 0 where the task cannot tell.
        predicted: sum of the losses that the sensitivities predict.
    """

    choices: dict[str, Option]
    nbytes: int
    value: float
    drop: float
    error: float
    predicted: float

    def keeps(self, max_drop: float) -> bool:
        """Return whether the drop, and `DOUBT` standard errors beyond it, stay within `max_drop`."""
        return self.drop + DOUBT * self.error <= max_drop + ROUNDING

    @property
    def steps(self) -> list[Encode]:
        """The steps that make this allocation: a recipe of its own."""
        return [
            encode_step(name, option) for name, option in self.choices.items() if option.format is not None
        ]


@dataclass(frozen=True, eq=False)
class Allocator:
    """What is fixed while a front is drawn: the float network, its table, and how candidates are verified.

    Attributes:
        base: the primary metric of the float network on validation.
        each: that of each sample `[n]`, None if it is not known.
        encoded: what was encoded already.
    """

    model: Model
    task: Task
    table: Sensitivity
    graph: StoredGraph | None
    base: float
    each: Array | None
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
        damage = [damages(row) for row in self.rows]
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

    def uniform(self) -> list[dict[str, Cell]]:
        """Return the choices of one option for all; a tensor that cannot take it gets the one of least error."""
        made = []
        for option in dict.fromkeys(cell.option for cell in self.table.cells):
            cells = [
                next((cell for cell in row if cell.option == option), min(row, key=lambda cell: cell.error))
                for row in self.rows
            ]
            made.append({cell.tensor: cell for cell in cells})
        return made

    def verify(self, choice: Mapping[str, Cell]) -> Trial:
        """Encode a choice, weigh the file it makes, and measure it on the validation split."""
        options = {name: cell.option for name, cell in choice.items()}
        chosen = {name: option for name, option in options.items() if option.format is not None}
        model = self.model.with_encoded(
            {name: self._encoded(name, option) for name, option in chosen.items()}
        )
        value, error = self._measured(model)
        nbytes = len(dumps(pack(model, self.graph)))
        predicted = sum(cell.loss for cell in choice.values())
        return Trial(options, nbytes, value, self.base - value, error, predicted)

    def _measured(self, model: Model) -> tuple[float, float]:
        """Return the primary metric on the validation split, and the standard error of its difference."""
        if self.each is None:
            found = metrics(model, self.task, "validation", self.store, self.threads)
            return found[self.task.primary], 0.0
        each = scored(model, self.task, "validation", self.store, self.threads)
        assert each is not None, "the float network was scored by the same task"
        return float(each.mean()), paired(self.each, each).error

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

    Every option for all tensors alike is tried, so that what is chosen is never worse than that; then a ladder of
    budgets, allocated exactly; then the space between the smallest budget that keeps the demand and its smaller
    neighbour is halved a few times.

    Args:
        allocator: what is fixed.
        max_drop: most that the primary metric may lose on validation (fraction).
        max_bytes: most bytes of the whole file.
        rungs: budgets on the ladder.
        events: where progress goes.
    """
    uniform = allocator.uniform()
    halvings = HALVINGS if max_drop is not None and max_bytes is None else 0
    events(Started("front", len(uniform) + rungs + halvings))
    tried: dict[tuple[Option, ...], Trial] = {}

    def verified(choice: Mapping[str, Cell] | None) -> Trial | None:
        if choice is None:
            return None
        key = tuple(cell.option for cell in choice.values())
        if key not in tried:
            tried[key] = allocator.verify(choice)
        return tried[key]

    def attempt(budget: float) -> Trial | None:
        return verified(allocator.within(budget))

    with pinned(allocator.threads):
        for number, choice in enumerate(uniform):
            verified(choice)
            events(Progress("front", number + 1))
        ladder = allocator.budgets(rungs)
        outcomes = []
        for number, budget in enumerate(ladder):
            outcomes.append(attempt(budget))
            events(Progress("front", len(uniform) + number + 1))
        if max_bytes is not None:
            _fit(attempt, max_bytes)
        elif max_drop is not None:
            _halve(
                attempt, ladder, [trial is not None and trial.keeps(max_drop) for trial in outcomes], max_drop
            )
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


def _halve(
    attempt: Callable[[float], Trial | None], ladder: Sequence[float], keeps: Sequence[bool], max_drop: float
) -> None:
    """Try budgets between the smallest of a ladder that keeps the demand and the one below it."""
    first = keeps.index(True) if True in keeps else len(ladder) - 1
    low, high = ladder[max(first - 1, 0)], ladder[first]
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        trial = attempt(middle)
        low, high = (low, middle) if trial and trial.keeps(max_drop) else (middle, high)


def choose(trials: Sequence[Trial], *, max_drop: float | None, max_bytes: int | None) -> Trial | None:
    """Return the trial that was asked for: the smallest that keeps `max_drop`, or the best within `max_bytes`."""
    fitting = [trial for trial in trials if max_bytes is None or trial.nbytes <= max_bytes]
    if max_drop is None:
        return min(fitting, key=lambda trial: (trial.drop, trial.nbytes), default=None)
    kept = [trial for trial in fitting if trial.keeps(max_drop)]
    return min(kept, key=lambda trial: (trial.nbytes, trial.drop), default=None)


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both bytes and metric, smallest first."""
    return [trials[i] for i in pareto([(trial.nbytes, trial.drop) for trial in trials])]


def damages(row: Sequence[Cell]) -> list[float]:
    """Return the loss that each option of a tensor is expected to add: its squared error times the tensor's slope.

    The slope, loss per squared error, is fitted through the origin to all options of the tensor: single losses of
    fine options are smaller than their noise, those of coarse options are not. Of equal losses less error is
    better, and then fewer bytes.

    References:
        Dong et al., HAWQ-V2: Hessian aware trace-weighted quantization of neural networks, 2020: the mean trace of
        the Hessian times the squared error.
    """
    energy = sum(cell.error**2 for cell in row)
    slope = sum(cell.loss * cell.error for cell in row) / energy if energy else 0.0
    most = max(cell.nbytes for cell in row) or 1
    return [max(slope, 1e-9) * cell.error + 1e-15 * cell.nbytes / most for cell in row]
