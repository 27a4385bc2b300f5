"""`compress`: a task and a demand in, a file and its report out; by a recipe, or by one that is searched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.delivery.delivery import Compressed, deliver
from featherweight.delivery.preflight import check
from featherweight.delivery.runtime_graph import graph_of
from featherweight.delivery.summary import Point, Searched, Sensed
from featherweight.errors import ConfigError, TaskError
from featherweight.evaluation.metrics import comparable, metrics, scored
from featherweight.events import Events
from featherweight.formats import Clustered, Int
from featherweight.processors import usable_processors
from featherweight.progress import default_events
from featherweight.recipe import Made, Recipe, Store, read_recipe, run
from featherweight.search.candidates import Option
from featherweight.search.front import DOUBT, Allocator, Trial, choose, front_of, frontier
from featherweight.search.sensitivity import Sensitivity, SensitivityMethod, measure
from featherweight.selectors import Where
from featherweight.task import Task
from featherweight.techniques import Train
from featherweight.workspace import pinned


def default_options() -> list[Option]:
    """Return what a tensor may become unless the caller says otherwise; float as it is comes last."""
    channels = [Int(bits=bits, per="channel", scale_by="mse") for bits in (8, 6, 5, 4, 3, 2)]
    tensors = [Int(bits=bits, per="tensor", scale_by="mse") for bits in (4, 3, 2)]
    shared = [Clustered(bits=bits) for bits in (4, 3, 2)]
    return [*(Option(format_) for format_ in (*channels, *tensors, *shared)), Option()]


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
) -> Compressed:
    """Compress the network of a task into one file.

    Args:
        task: the network, its data and its measure, for instance `featherweight.Classification`.
        recipe: steps, the name of a recipe, a TOML file, or `auto`: formats are chosen for each tensor.
        max_drop: `auto`: points (hundredths) that the primary metric may lose on validation, 1.64 standard
            errors of the loss included where the task knows the metric of each sample; the smallest file is
            sought. Default 0.5 if no `max_bytes` is given.
        max_bytes: `auto`: bytes of the whole file; the best metric is sought.
        options: `auto`: what a tensor may become; by default `default_options`.
        where: `auto`: which tensors are chosen for; by default `weights`, if there are any.
        batches: `auto`: validation batches for the sensitivities, by default 16; what is chosen is verified on all.
        sensitivity: `auto`: `measured` (by default), or predicted: by `fisher`, `empirical` or `hawq`.
        seed: of everything random.
        threads: of the arithmetic; they decide bytes.
        store: where results are kept, so that a killed run goes on.
        events: where progress goes; default: bars on a terminal or in a notebook, else nothing.

    Raises:
        FeatherweightError: bad input; or no choice meets the demand, and then what came closest.
    """
    _check_kinds(task, recipe)
    check(task)
    threads, store, events = threads or usable_processors(), store or Store(), events or default_events()
    start = time.perf_counter()
    demands = {
        "max_drop": max_drop, "max_bytes": max_bytes, "options": options, "where": where, "batches": batches,
        "sensitivity": sensitivity,
    }  # fmt: skip
    if recipe == "auto":
        if max_drop is None and max_bytes is None:
            max_drop = 0.5
        by = sensitivity or "measured"
        search = _Search(task, options_of(options), by, where, batches or 16, seed, threads, store, events)
        made, searched = search.made(max_drop, max_bytes)
        about = f"chosen for {task.name}"
    else:
        if given := [name for name, value in demands.items() if value is not None]:
            hint = "a recipe says what it does by its steps"
            raise ConfigError("belongs to auto", where=", ".join(given), hint=hint)
        steps = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        made = run(steps, task, seed=seed, threads=threads, store=store, events=events)
        searched = Searched()
        about = steps.about
    return deliver(task, made, searched, about, seed, threads, store, events, start)


def _check_kinds(task: object, recipe: object) -> None:
    if not isinstance(task, Task):
        hint = "featherweight.Classification(network, train=..., test=...)"
        raise TaskError("not a task", got=type(task).__name__, hint=hint)
    if not isinstance(recipe, (Recipe, str, Path)):
        raise ConfigError(
            "not a recipe", got=type(recipe).__name__, expected="Recipe([...]), a name, or a TOML file"
        )


def options_of(given: Sequence[Option] | None) -> list[Option]:
    """Return the options of a search, each once.

    Raises:
        ConfigError: there are none, or something else is among them.
    """
    options = default_options() if given is None else list(dict.fromkeys(given))
    wrong = [option for option in options if not isinstance(option, Option)]
    if wrong or not options:
        got = type(wrong[0]).__name__ if wrong else "none"
        raise ConfigError(
            "not options", where="options", got=got, expected="Option(format, coder), one or more"
        )
    return options


@dataclass(frozen=True, eq=False)
class _Search:
    task: Task
    options: list[Option]
    by: SensitivityMethod
    where: Where | None
    batches: int
    seed: int
    threads: int
    store: Store
    events: Events

    def made(self, max_drop: float | None, max_bytes: int | None) -> tuple[list[Made], Searched]:
        """Train if the task says how, measure, allocate, verify, and run the recipe that was chosen."""
        task, seed, threads, store = self.task, self.seed, self.threads, self.store
        before = training_steps(task)
        model = run(before, task, seed=seed, threads=threads, store=store, events=self.events)[-1].model
        table = measure(
            model,
            task,
            self.options,
            by=self.by,
            where=self.where,
            batches=self.batches,
            seed=seed,
            threads=threads,
            store=store,
            events=self.events,
        )
        graph, _ = graph_of(model, task, store, self.events)
        with pinned(threads):
            base = metrics(model, task, "validation", store, threads)
            each = comparable(scored(model, task, "validation", store, threads), base, task)
        allocator = Allocator(model, task, table, graph, base[task.primary], each, seed, threads, store)
        drop = None if max_drop is None else max_drop / 100
        trials = frontier(allocator, max_drop=drop, max_bytes=max_bytes, events=self.events)
        chosen = choose(trials, max_drop=drop, max_bytes=max_bytes)
        if chosen is None:
            raise _none_found(trials, max_drop, max_bytes)
        steps = Recipe([*before.steps, *chosen.steps], about=f"chosen for {task.name}")
        made = run(steps, task, seed=seed, threads=threads, store=store, events=self.events)
        return made, _searched(table, trials, chosen)


def _searched(table: Sensitivity, trials: Sequence[Trial], chosen: Trial) -> Searched:
    front = front_of(trials)
    points = [
        Point(
            nbytes=trial.nbytes,
            value=trial.value,
            drop=trial.drop,
            error=trial.error,
            on_front=trial in front,
            chosen=trial is chosen,
            formats={name: option.label for name, option in trial.choices.items()},
        )
        for trial in trials
    ]
    sensed = [Sensed(cell.tensor, cell.option.label, cell.nbytes, cell.loss) for cell in table.cells]
    floats = [name for name, option in chosen.choices.items() if option.format is None]
    return Searched(points, sensed, table.skipped, floats)


def training_steps(task: Task) -> Recipe:
    """Return the recipe that trains the task's network, empty where it comes trained."""
    trains = getattr(task, "training", None) is not None
    return Recipe([Train()] if trains else [])


def _none_found(trials: Sequence[Trial], max_drop: float | None, max_bytes: int | None) -> ConfigError:
    smallest, best = trials[0], min(trials, key=lambda trial: trial.drop + DOUBT * trial.error)
    demand = f"max_drop {max_drop} points" if max_bytes is None else f"max_bytes {max_bytes}"
    return ConfigError(
        "no allocation meets the demand",
        where=demand,
        got=f"smallest file {smallest.nbytes} bytes ({_drop(smallest)}), least {_drop(best)} ({best.nbytes} bytes)",
        hint="relax the demand, or train through the format (step finetune)",
    )


def _drop(trial: Trial) -> str:
    return f"drop {100 * trial.drop:.2f} points, standard error {100 * trial.error:.2f}"
