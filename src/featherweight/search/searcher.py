"""`compress`, a task in and a file out; `search`, a format for every tensor by sensitivities, allocation and trials."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from featherweight.delivery.delivery import Compressed, deliver, facts_of
from featherweight.delivery.preparation import check, graph_of
from featherweight.delivery.summary import Point, Searched, Sensed
from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.evaluation.metrics import Evaluation, Evaluator
from featherweight.evaluation.paired_test import drop_bound
from featherweight.events import Events, Message, default_events
from featherweight.files import Store
from featherweight.formats import Clustered, Float, Int
from featherweight.model import Model, Note
from featherweight.processors import usable_processors
from featherweight.recipe import Recipe, read_recipe
from featherweight.recipe.runner import execute
from featherweight.search.sensitivity import Option, Sensitivity, SensitivityMethod, measure
from featherweight.search.trials import DOUBT, Constraint, Trial, Weighed, choose, draw, front_of
from featherweight.selectors import Where, select, weights
from featherweight.task import Task
from featherweight.techniques import Encode, Fold, Train
from featherweight.techniques.base import Step
from featherweight.work import Subject
from featherweight.workspace import Workspace

MAX_DROP = 0.5  # points
HALF = Float(kind="float16")
CLOSE = 1e-3


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
    method = sensitivity or "measured"
    found = explore(workspace, options, objectives, constraints, where, batches or 16, method)
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
        expected = "Recipe([...]), a name, or a TOML file"
        raise ConfigError("not a recipe", got=type(recipe).__name__, expected=expected)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        recipe: the steps that make the trial that was chosen.
        chosen: that trial.
        trials: every trial, smallest file first.
        table: the sensitivities behind them.
        objectives: what was minimised.
        primary: the metric that counts.
        notes: what was left out, or could not be promised.
    """

    recipe: Recipe
    chosen: Trial
    trials: list[Trial]
    table: Sensitivity
    objectives: Sequence[str]
    primary: str
    notes: list[Note]

    @property
    def searched(self) -> Searched:
        """What a report says of the search."""
        front = front_of(self.trials, self.objectives)
        points = [
            Point(
                nbytes=trial.nbytes, value=trial.measures[self.primary], drop=trial.drop,
                error=trial.measures["error"], on_front=trial in front, chosen=trial is self.chosen,
                formats={name: option.label for name, option in trial.choices.items()},
            )
            for trial in self.trials
        ]  # fmt: skip
        sensed = [Sensed(c.tensor, c.option.label, c.nbytes, c.loss) for c in self.table.cells]
        floats = [name for name, option in self.chosen.choices.items() if option.format is None]
        return Searched(points, sensed, [*self.table.skipped, *self.notes], floats)


def search(
    task: Task,
    options: Sequence[Option] | None = None,
    objectives: Sequence[str] = ("bytes", "drop"),
    constraints: Sequence[Constraint] = (),
    *,
    where: Where | None = None,
    batches: int = 16,
    sensitivity: SensitivityMethod = "measured",
    seed: int = 0,
    threads: int | None = None,
    store: Store | None = None,
    events: Events | None = None,
    executor: Executor | None = None,
) -> Found:
    """Choose a format for every tensor of a network; return the recipe, and every trial on the way.

    Of all trials that keep the `constraints` the one is chosen whose first objective is least, of equal ones the next;
    `objectives` are measures, see `Trial`. On `executor` (any of `concurrent.futures`) cells and trials run, by default
    here, one after another; workers in other processes share the store's folder, and get the task by pickle. What else
    is given is as for `compress`.

    Raises:
        ConfigError: no trial keeps the constraints; says what came closest.
    """
    workspace = Workspace(
        task, seed, threads or usable_processors(), store or Store(), events or default_events(), executor
    )
    return explore(workspace, options, objectives, constraints, where, batches, sensitivity)


def explore(
    workspace: Workspace,
    options: Sequence[Option] | None,
    objectives: Sequence[str],
    constraints: Sequence[Constraint],
    where: Where | None,
    batches: int,
    sensitivity: SensitivityMethod,
) -> Found:
    """Choose a format for every tensor; as `search`, in a workspace.

    Before that, the network is trained if the task says how, batch norm is folded, and what is not chosen for
    (biases, scales, statistics) is stored as float16 where that is safe.
    """
    candidates = default_options() if options is None else list(dict.fromkeys(options))
    wrong = [type(option).__name__ for option in candidates if not isinstance(option, Option)]
    if wrong or not candidates:
        got, expected = (wrong or ["none"])[0], "Option(format, coder), one or more"
        raise ConfigError("not options", where="options", got=got, expected=expected)
    before, float_model, model, notes = prepare(where, workspace)
    table = measure(model, workspace, candidates, by=sensitivity, where=where, batches=batches)
    graph, reasons = graph_of(model, workspace)
    with workspace.pinned():
        base = Evaluator(workspace, model, graph).evaluation(float_model, "validation")
    constraints, doubts = _provable(constraints, base, workspace)
    kept = workspace.key("graph of a search", model.structure, model.aliases) if graph else ""
    if graph:
        workspace.store.put(kept, msgspec.msgpack.encode(graph))
    ask = partial(Weighed, graph=kept, facts=facts_of(before, workspace, base, reasons))
    trials = draw(table.rows, Subject([model.with_notes(reasons)], workspace), ask, base, constraints)
    chosen = choose(trials, objectives, constraints)
    if chosen is None:
        raise _none_found(trials, constraints)
    recipe = Recipe([*before.steps, *chosen.steps], before.about)
    return Found(recipe, chosen, trials, table, objectives, workspace.task.primary, [*notes, *doubts])


def training_steps(task: Task) -> Recipe:
    """Return the recipe that trains the task's network, empty where it comes trained."""
    return Recipe([Train()] if getattr(task, "training", None) is not None else [])


def prepare(where: Where | None, workspace: Workspace) -> tuple[Recipe, Model, Model, list[Note]]:
    """Return the steps before the choice, the float network, what the steps make of it, and what could not be done."""
    steps: list[Step] = [*training_steps(workspace.task).steps]
    notes: list[Note] = []
    float_model = model = execute(Recipe(steps), workspace)[-1].model
    if any(name.endswith("running_var") for name in model.tensors):
        try:
            model = execute(Recipe([*steps, Fold()]), workspace)[-1].model
            steps.append(Fold())
        except UnsupportedError as error:
            notes.append(Note("skipped", "batch norm", f"not folded: {error.what}"))
    chosen_for = {*weights(model), *([] if where is None else select(model, where))}
    others = {name: tensor.detach() for name, tensor in model.tensors.items() if name not in chosen_for}
    if rest := [name for name, tensor in others.items() if _safe_in_half(tensor)]:
        steps.append(Encode(where=rest, format=HALF))
    before = Recipe(steps, f"chosen for {workspace.task.name}")
    return before, float_model, execute(before, workspace)[-1].model, notes


def _safe_in_half(tensor: Tensor) -> bool:
    """Return whether float16 holds every float32 number to a thousandth, or to a millionth of the largest one."""
    if tensor.dtype != torch.float32 or not tensor.numel():
        return False
    error, size = (tensor.half().float() - tensor).abs(), tensor.abs()
    return bool(((error <= CLOSE * size) | (error <= CLOSE**2 * size.max())).all())


def _provable(
    constraints: Sequence[Constraint], base: Evaluation, workspace: Workspace
) -> tuple[list[Constraint], list[Note]]:
    """Return the constraints, a bound that so few samples cannot prove replaced by the likely drop, with a note."""
    known = base.scores
    found, notes = [], []
    for constraint in constraints:
        if constraint.measure == "bound" and known is not None and drop_bound(known, known) > constraint.most:
            few = (
                f"{known.size} samples are too few to prove a drop of at most {100 * constraint.most:g} points: even"
                f" without a change it may be {100 * drop_bound(known, known):.2g}; the drop that was seen, and"
                f" {DOUBT} standard errors, keep it"
            )
            notes.append(Note("chose", "validation", few))
            workspace.events(Message(f"validation: {few}"))
            constraint = Constraint("likely", constraint.most)
        found.append(constraint)
    return found, notes


def _none_found(trials: Sequence[Trial], constraints: Sequence[Constraint]) -> ConfigError:
    smallest, best = trials[0], min(trials, key=lambda trial: trial.measures["likely"])
    demand = ", ".join(f"{constraint.measure} at most {constraint.most:g}" for constraint in constraints)
    got = f"smallest file {smallest.nbytes} bytes ({_drop(smallest)}), least {_drop(best)} ({best.nbytes} bytes)"
    hint = "relax the demand, or train through the format (step finetune)"
    return ConfigError("no allocation meets the demand", where=demand, got=got, hint=hint)


def _drop(trial: Trial) -> str:
    error, bound = (100 * trial.measures[name] for name in ("error", "bound"))
    return f"drop {100 * trial.drop:.2f} points, standard error {error:.2f}, at most {bound:.2f}"
