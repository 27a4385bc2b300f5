"""Per-layer sensitivity: each tensor, each option, alone: what it costs in bytes and what it does to the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, get_args

import msgspec
import torch

from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.model import Model, Note, equal_bits
from featherweight.processors import usable_processors
from featherweight.recipe import Store
from featherweight.search.candidates import Option
from featherweight.search.predicted_sensitivity import predict_damage
from featherweight.selectors import Where, select, weights
from featherweight.store import key_of
from featherweight.structure import to_call
from featherweight.task import Task, call
from featherweight.task.failures import failures
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.workspace import pinned, versions

SensitivityMethod = Literal["measured", "fisher", "empirical", "hawq"]


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
    task: Task,
    options: Sequence[Option],
    *,
    by: SensitivityMethod = "measured",
    where: Where | None = None,
    batches: int = 16,
    seed: int = 0,
    threads: int | None = None,
    store: Store | None = None,
    events: Events = silent,
) -> Sensitivity:
    """Measure, or predict, what every selected tensor does under every option, alone, on the validation split.

    Each cell is kept in the store, so that a killed measurement goes on where it was.

    Args:
        model: the float network.
        task: gives the validation split and the loss.
        options: what a tensor may become.
        by: `measured`: the loss, once a cell; else predicted from one curvature for all cells, see
            `featherweight.search.predicted_sensitivity`.
        where: which tensors; without it `weights`, if the network has any.
        batches: how many validation batches; fewer if there are no more.
        seed: for what draws.
        threads: of the arithmetic; it decides bits.
        store: where cells are kept.
        events: where progress goes.

    Raises:
        ConfigError: there is no such way to know.
    """
    if by not in get_args(SensitivityMethod):
        expected = ", ".join(get_args(SensitivityMethod))
        raise ConfigError("not a way to know sensitivities", where="by", got=repr(by), expected=expected)
    threads, store = threads or usable_processors(), store or Store()
    names = weights(model) if where is None else select(model, where)
    base_key = ("sensitivity", by, model.hash, task.fingerprint(), batches, seed, threads, versions())
    cells: list[Cell] = []
    skipped = [] if names else [Note("skipped", "weights", "there are none of two or more dimensions")]
    done, total = 0, len(names) * len(options)
    events(Started("sensitivity", total))
    with pinned(threads):
        base = _mean_loss(model, task, batches)
        if not math.isfinite(base):
            raise TaskError(
                "the loss of the float network is not finite", where=f"{task.name}, validation split"
            )
        damage = _damage(by, model, task, names, base, batches, seed)
        for name in names:
            for option in options:
                cell = _cached(
                    store,
                    key_of(*base_key, name, option),
                    Cell | str,
                    lambda name=name, option=option: _cell(model, task, name, option, damage, seed),
                )
                if isinstance(cell, Cell):
                    cells.append(cell)
                else:
                    skipped.append(Note("skipped", name, f"{option.label}: {cell}"))
                done += 1
                events(Progress("sensitivity", done))
    events(Finished("sensitivity", 0.0))
    return Sensitivity(base, cells, skipped)


def _damage(
    by: SensitivityMethod,
    model: Model,
    task: Task,
    names: Sequence[str],
    base: float,
    batches: int,
    seed: int,
) -> Callable[[Model, str], float]:
    """Return the function from a model, of which the tensor of that name alone was encoded, to the loss this adds."""
    if by == "measured":
        return lambda after, name: _mean_loss(after, task, batches) - base
    known = cache(lambda: predict_damage(by, model, task, names, batches=batches, seed=seed))
    return lambda after, name: known()(name, after.tensors[name].detach() - model.tensors[name].detach())


def _cell(
    model: Model, task: Task, name: str, option: Option, damage: Callable[[Model, str], float], seed: int
) -> Cell | str:
    before = model.tensors[name].detach()
    if option.format is None:
        return Cell(name, option, before.numel() * before.element_size(), 0.0, 0.0)
    try:
        after = encode_step(name, option).apply(model, task, Context(seed))
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
    module = to_call(model.module)
    with failures(f"{task.name}, loss on validation"), torch.inference_mode():
        for number, batch in enumerate(task.batches("validation", seed=0, epoch=0)):
            if number == batches:
                break
            losses.append(float(task.loss(call(module, task.inputs(batch)), batch)))
    if not losses:
        raise TaskError("the validation split has no batches", where=task.name)
    return sum(losses) / len(losses)


def _cached(store: Store, key: str, kind: Any, make: Any) -> Any:
    kept = store.get(key)
    if kept is not None:
        return msgspec.json.decode(kept, type=kind)
    made = make()
    store.put(key, msgspec.json.encode(made))
    return made
