"""`compress`: a task and a demand in, a file and its report out; by a recipe, or by one that is searched."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from featherweight.delivery import Compressed, deliver
from featherweight.delivery.preparation import check
from featherweight.errors import ConfigError, TaskError
from featherweight.events import Events, default_events
from featherweight.files import Store
from featherweight.processors import usable_processors
from featherweight.recipe import Recipe, read_recipe
from featherweight.search.searcher import explore
from featherweight.search.sensitivity import Option, SensitivityMethod
from featherweight.search.trials import Constraint
from featherweight.selectors import Where
from featherweight.task import Task
from featherweight.workspace import Workspace

MAX_DROP = 0.5  # points


def compress(
    task: Task,
    recipe: Recipe | str | Path = "auto",
    *,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    options: Sequence[Option] | None = None,
    where: Where | None = None,
    batches: int | None = None,
    sensitivity: SensitivityMethod | None = None,
    seed: int = 0,
    threads: int | None = None,
    store: Store | None = None,
    events: Events | None = None,
    executor: Executor | None = None,
) -> Compressed:
    """Compress the network of a task into one file.

    Args:
        task: the network, its data and its measure, for instance `featherweight.Classification`.
        recipe: steps, the name of a recipe, a TOML file, or `auto`: formats are chosen for each tensor by `search`.
        max_drop: `auto`: points (hundredths) that the primary metric may lose on validation, with 95 % confidence
            where the task knows the metric of each sample and these are enough; the smallest file is sought.
            Default 0.5 if no `max_bytes` is given.
        max_bytes: `auto`: bytes of the whole file; the best metric is sought.
        options: `auto`: what a tensor may become; by default `default_options`.
        where: `auto`: which tensors are chosen for; by default `weights`, if there are any.
        batches: `auto`: validation batches for the sensitivities, by default 16; what is chosen is verified on all.
        sensitivity: `auto`: `measured` (by default), or predicted: by `fisher`, `empirical` or `hawq`.
        seed: of everything random.
        threads: compute threads (they decide output bytes).
        store: where results are kept, so that a killed run resumes.
        events: where progress goes; default: bars on a terminal or in a notebook, else nothing.
        executor: `auto`: where cells and trials run; see `search`.

    Raises:
        FeatherweightError: bad input; or no choice meets the demand, and then what came closest.
    """
    _check_kinds(task, recipe)
    workspace = Workspace(
        task, seed, threads or usable_processors(), store or Store(), events or default_events(), executor
    )
    demands = {
        "max_drop": max_drop, "max_bytes": max_bytes, "options": options, "where": where, "batches": batches,
        "sensitivity": sensitivity,
    }  # fmt: skip
    if recipe != "auto" and (given := [name for name, value in demands.items() if value is not None]):
        hint = "a recipe says what it does by its steps"
        raise ConfigError("belongs to auto", where=", ".join(given), hint=hint)
    check(workspace)
    if recipe != "auto":
        return deliver(recipe if isinstance(recipe, Recipe) else read_recipe(recipe), workspace)
    objectives, constraints = demand(max_drop, max_bytes)
    found = explore(
        workspace, options, objectives, constraints,
        where=where, batches=batches or 16, sensitivity=sensitivity or "measured",
    )  # fmt: skip
    return deliver(found.recipe, workspace, found.searched)


def demand(max_drop: float | None, max_bytes: int | None) -> tuple[tuple[str, str], list[Constraint]]:
    """Return the objectives and constraints of a largest drop (points) and a largest file (bytes).

    >>> demand(0.5, None)
    (('bytes', 'drop'), [Constraint(measure='bound', most=0.005)])
    """
    if max_drop is None and max_bytes is None:
        max_drop = MAX_DROP
    constraints = [] if max_drop is None else [Constraint("bound", max_drop / 100)]
    constraints += [] if max_bytes is None else [Constraint("bytes", max_bytes)]
    return (("drop", "bytes") if max_drop is None else ("bytes", "drop")), constraints


def _check_kinds(task: object, recipe: object) -> None:
    if not isinstance(task, Task):
        hint = "featherweight.Classification(network, train=..., test=...)"
        raise TaskError("not a task", got=type(task).__name__, hint=hint)
    if not isinstance(recipe, (Recipe, str, Path)):
        raise ConfigError(
            "not a recipe", got=type(recipe).__name__, expected="Recipe([...]), a name, or a TOML file"
        )
