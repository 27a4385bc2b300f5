"""Per-layer sensitivity: each tensor, each option, alone: what it costs in bytes and what it does to the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from typing import Literal, get_args

import msgspec
import torch

from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.evaluation.metrics import predictor
from featherweight.events import Finished, Progress, Started
from featherweight.model import Model, Note, equal_bits
from featherweight.search.candidates import Option
from featherweight.search.predicted_sensitivity import predict_damage
from featherweight.selectors import Where, select, weights
from featherweight.structure import to_call
from featherweight.task import Task
from featherweight.task.failures import failures
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.workspace import Workspace

SensitivityMethod = Literal["measured", "fisher", "empirical", "hawq"]
# From a model, of which the tensor of that name alone was encoded, to the loss that this adds.
Damage = Callable[[Model, str], float]


class Cell(msgspec.Struct, frozen=True):
    """One tensor under one option, all others float.

    Attributes:
        tensor: canonical name.
        option: what it was encoded as.
        nbytes: bytes of the tensor in a file.
        loss: mean loss on the validation split minus that of the float network, measured or predicted.
        error: squared error of the tensor, relative to its energy.
    """

    tensor: str
    option: Option
    nbytes: int
    loss: float
    error: float


class Sensitivity(msgspec.Struct, frozen=True):
    """The table: what each tensor costs and suffers under each option.

    Attributes:
        base: mean loss of the float network on the validation split.
        cells: every tensor under every option that can take it.
        skipped: the pairs that cannot be, and why.
    """

    base: float
    cells: list[Cell]
    skipped: list[Note] = []

    def by_tensor(self) -> dict[str, list[Cell]]:
        """Return the cells of each tensor, in the order of the module."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.tensor, []).append(cell)
        return rows


def measure(
    model: Model,
    workspace: Workspace,
    options: Sequence[Option],
    *,
    by: SensitivityMethod = "measured",
    where: Where | None = None,
    batches: int = 16,
) -> Sensitivity:
    """Measure, or predict, what every selected tensor does under every option, alone, on the validation split.

    Each cell is kept in the store, so that a killed measurement resumes.

    Args:
        model: the float network.
        workspace: its task gives the validation split and the loss.
        options: what a tensor may become.
        by: `measured`: the loss, once a cell; else predicted from one curvature for all cells, see
            `featherweight.search.predicted_sensitivity`.
        where: which tensors; without it `weights`, if the network has any.
        batches: how many validation batches; fewer if there are no more.

    Raises:
        ConfigError: there is no such method.
        TaskError: the loss of the float network is not finite.
    """
    if by not in get_args(SensitivityMethod):
        expected = ", ".join(get_args(SensitivityMethod))
        raise ConfigError("not a method of sensitivities", where="by", got=repr(by), expected=expected)
    task, events = workspace.task, workspace.events
    names = weights(model) if where is None else select(model, where)
    common = ("sensitivity", by, model.hash, batches, workspace.seed, workspace.threads)
    cells: list[Cell] = []
    skipped = [] if names else [Note("skipped", "weights", "there are none of two or more dimensions")]
    events(Started("sensitivity", len(names) * len(options)))
    with workspace.pinned():
        base = _mean_loss(model, task, batches)
        if not math.isfinite(base):
            raise TaskError(
                "the loss of the float network is not finite", where=f"{task.name}, validation split"
            )
        damage = _damage(by, model, workspace, names, base, batches)
        for done, (name, option) in enumerate(product(names, options), start=1):
            make = partial(_cell, model, workspace, name, option, damage)
            cell: Cell | str = workspace.recall(workspace.key(*common, name, option), Cell | str, make)  # type: ignore[arg-type]
            if isinstance(cell, Cell):
                cells.append(cell)
            else:
                skipped.append(Note("skipped", name, f"{option.label}: {cell}"))
            events(Progress("sensitivity", done))
    events(Finished("sensitivity", 0.0))
    return Sensitivity(base, cells, skipped)


def _damage(
    by: SensitivityMethod,
    model: Model,
    workspace: Workspace,
    names: Sequence[str],
    base: float,
    batches: int,
) -> Damage:
    """Return the function from a model, of which the tensor of that name alone was encoded, to the loss this adds."""
    task, seed = workspace.task, workspace.seed
    if by == "measured":
        return lambda after, name: _mean_loss(after, task, batches) - base
    known = cache(lambda: predict_damage(by, model, task, names, batches=batches, seed=seed))
    return lambda after, name: known()(name, after.tensors[name].detach() - model.tensors[name].detach())


def _cell(model: Model, workspace: Workspace, name: str, option: Option, damage: Damage) -> Cell | str:
    before = model.tensors[name].detach()
    if option.format is None:
        return Cell(name, option, before.numel() * before.element_size(), 0.0, 0.0)
    try:
        after = encode_step(name, option).apply(model, workspace.task, Context(workspace.seed))
    except UnsupportedError as error:
        return error.what
    value = after.tensors[name].detach()
    energy = float(before.double().square().sum()) or 1.0
    distance = float((value - before).double().square().sum()) / energy
    loss = 0.0 if equal_bits(before, value) else damage(after, name)
    if not math.isfinite(loss):
        return "its loss is NaN or infinite"
    return Cell(name, option, after.weights[name].nbytes, loss, distance)


def encode_step(name: str, option: Option) -> Encode:
    """Return the step that gives one tensor its option."""
    assert option.format is not None
    return Encode(where=name, format=option.format, coder=option.coder)


def _mean_loss(model: Model, task: Task, batches: int) -> float:
    losses: list[float] = []
    predict = predictor(to_call(model.module))
    with failures(f"{task.name}, loss on validation"), torch.inference_mode():
        for number, batch in enumerate(task.batches("validation", seed=0, epoch=0)):
            if number == batches:
                break
            losses.append(float(task.loss(predict(task.inputs(batch)), batch)))
    if not losses:
        raise TaskError("the validation split has no batches", where=task.name)
    return sum(losses) / len(losses)
