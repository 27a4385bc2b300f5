"""The front of accuracy against bytes: allocations under a ladder of budgets, each one measured on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.events import Finished, Progress, Started
from featherweight.search.allocation import allocate, pareto
from featherweight.search.candidates import Option
from featherweight.search.sensitivity import Cell, Sensitivity
from featherweight.search.trials import Constraint, Trial, Trials

HALVINGS = 4
FITS = 6  # tries to fill a limit of bytes
RUNGS = 12

Choice = Mapping[str, Option]


@dataclass(frozen=True, eq=False)
class Allocator:
    """What allocations are proposed from.

    Attributes:
        table: what each tensor costs and suffers under each option.
    """

    table: Sensitivity

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells of each tensor."""
        return list(self.table.by_tensor().values())

    def within(self, budget: float) -> dict[str, Option] | None:
        """Return the least harmful choice whose tensors take at most `budget` bytes, or None."""
        rows = self.rows
        sizes = [[cell.nbytes for cell in row] for row in rows]
        chosen = allocate([damages(row) for row in rows], sizes, budget)
        if chosen is None:
            return None
        return {row[i].tensor: row[i].option for row, i in zip(rows, chosen, strict=True)}

    def budgets(self, count: int) -> list[float]:
        """Return a geometric ladder of budgets, from the least bytes possible to the most."""
        least = sum(min(cell.nbytes for cell in row) for row in self.rows)
        most = sum(max(cell.nbytes for cell in row) for row in self.rows)
        ladder = np.geomspace(max(least, 1), max(most, 1), count)[:-1]
        return [*(float(budget) for budget in ladder), float(most)]

    def uniform(self) -> list[dict[str, Option]]:
        """Return the choices of one option for all; a tensor that cannot take it gets the one of least error."""
        made = []
        for option in dict.fromkeys(cell.option for cell in self.table.cells):
            cells = [
                next((cell for cell in row if cell.option == option), min(row, key=lambda cell: cell.error))
                for row in self.rows
            ]
            made.append({cell.tensor: cell.option for cell in cells})
        return made


@dataclass(frozen=True, eq=False)
class Front:
    """Trials of one search, each choice once.

    Attributes:
        allocator: proposes choices.
        trials: measures them.
        constraints: what the trial that is sought has to keep.
        tried: the trials so far.
    """

    allocator: Allocator
    trials: Trials
    constraints: Sequence[Constraint]
    tried: dict[tuple[tuple[str, Option], ...], Trial]

    def draw(self) -> list[Trial]:
        """Return every trial, smallest file first.

        Every option is tried for all tensors at once, so that what is chosen is never worse than that; then a ladder
        of budgets, allocated exactly. These are independent, and run on the executor. Then, one after another: with
        a limit of bytes, the largest budget whose file keeps it; else the space between the smallest budget that
        keeps the constraints and its smaller neighbour is halved a few times.
        """
        workspace, limit = self.trials.workspace, self._limit()
        ladder = self.allocator.budgets(RUNGS)
        proposed = [self.allocator.within(budget) for budget in ladder]
        choices = [*self.allocator.uniform(), *(choice for choice in proposed if choice is not None)]
        refine = HALVINGS if limit is None and self.constraints else 0
        workspace.events(Started("front", len(choices) + refine))
        with workspace.pinned():
            for done, _ in enumerate(self._measure(choices), start=1):
                workspace.events(Progress("front", done))
            if limit is not None:
                self._fit(limit)
            elif refine:
                outcomes = [choice is not None and self._keeps(choice) for choice in proposed]
                self._halve(ladder, outcomes)
        workspace.events(Finished("front", 0.0))
        return sorted(self.tried.values(), key=lambda trial: (trial.nbytes, trial.drop))

    def _measure(self, choices: Sequence[Choice]) -> Iterator[Trial]:
        """Yield the trials of choices that were not tried yet."""
        new = {_key(choice): choice for choice in choices if _key(choice) not in self.tried}
        for key, trial in zip(new, self.trials.run(list(new.values())), strict=True):
            self.tried[key] = trial
            yield trial

    def _attempt(self, budget: float) -> Trial | None:
        choice = self.allocator.within(budget)
        if choice is None:
            return None
        list(self._measure([choice]))
        return self.tried[_key(choice)]

    def _keeps(self, choice: Choice) -> bool:
        return self.tried[_key(choice)].keeps(self.constraints)

    def _limit(self) -> float | None:
        limits = [constraint.most for constraint in self.constraints if constraint.measure == "bytes"]
        return min(limits, default=None)

    def _fit(self, most: float) -> None:
        """Try the largest budget whose whole file stays within `most` bytes: index and graph are a part of it."""
        budget = most
        for _ in range(FITS):
            trial = self._attempt(budget)
            if trial is None or trial.nbytes <= most:
                return
            budget -= trial.nbytes - most

    def _halve(self, ladder: Sequence[float], keeps: Sequence[bool]) -> None:
        """Try budgets between the smallest of a ladder that keeps the constraints and the one below it."""
        first = keeps.index(True) if True in keeps else len(ladder) - 1
        low, high = ladder[max(first - 1, 0)], ladder[first]
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            trial = self._attempt(middle)
            low, high = (low, middle) if trial and trial.keeps(self.constraints) else (middle, high)


def _key(choice: Choice) -> tuple[tuple[str, Option], ...]:
    return tuple(choice.items())


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
