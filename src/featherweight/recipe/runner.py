"""Running a recipe: each step once, its result kept under the hash of all that it depends on."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from threadpoolctl import threadpool_limits

import featherweight
from featherweight.artifact import dumps, loads
from featherweight.errors import ConfigError, FeatherweightError, IntegrityError, UnsupportedError
from featherweight.events import Events, Finished, Message, Started, silent
from featherweight.formats.coders import tag
from featherweight.model import Model
from featherweight.packing import pack, unpack
from featherweight.processors import thread_limit, usable_processors
from featherweight.recipe.recipe import Recipe
from featherweight.store import Store, key_of
from featherweight.task import Restricted, Task
from featherweight.task.failures import failures
from featherweight.task.identity import identity_of
from featherweight.techniques import Load, Train
from featherweight.techniques.base import Context, Step


@dataclass(frozen=True, eq=False)
class Made:
    """What a step made.

    Attributes:
        step: the step; None for the network as the task gives it.
        model: the model after it.
        seconds: how long it took, now or when it was first made in this store.
        cached: whether it came out of the store.
    """

    step: Step | None
    model: Model
    seconds: float
    cached: bool


def run(
    recipe: Recipe,
    task: Task,
    *,
    seed: int = 0,
    threads: int | None = None,
    store: Store | None = None,
    events: Events = silent,
) -> list[Made]:
    """Run the steps of a recipe in order; return what each made, the task's own network first.

    Same recipe, task, seed, threads, instruction set and versions: the same bytes, in any process. A run that was
    killed goes on from the last finished step, and within a long one from its last checkpoint.

    Args:
        recipe: the steps.
        task: the network, its data and its measure; each step sees no more of it than it declared to need.
        seed: of everything random.
        threads: of the arithmetic; it decides bytes. Default: all processors that this process may use.
        store: where results are kept; default: the user's.
        events: where progress goes.

    Raises:
        FeatherweightError: a step cannot do what it was asked to; the message names it.
    """
    threads = threads or usable_processors()
    store = store or Store()
    with pinned(threads):
        with failures(f"{task.name}, model"):
            network = task.model()
        made = [Made(None, Model.of(network), 0.0, False)]
        for number, step in enumerate(recipe.steps):
            made.append(_step(step, number, made, task, seed, threads, store, events))
    return made


def baseline(made: Sequence[Made]) -> Model:
    """Return the float network that a result is compared with: after the `load` and `train` steps that come first."""
    base = made[0].model
    for entry in made[1:]:
        if not isinstance(entry.step, Load | Train):
            break
        base = entry.model
    return base


def uncoded(made: Sequence[Made]) -> Model:
    """Return the network as it last was with nothing encoded: what encoded layers are compared with."""
    return next((entry.model for entry in reversed(made) if not entry.model.weights), made[0].model)


def _step(
    step: Step,
    number: int,
    made: Sequence[Made],
    task: Task,
    seed: int,
    threads: int,
    store: Store,
    events: Events,
) -> Made:
    name, model, base, floats = tag(step), made[-1].model, baseline(made), uncoded(made)
    training = identity_of(
        getattr(task, "training", None)
    )  # what a step takes where its own options are open
    before = base.hash, [entry.model.hash for entry in made]  # any of them may be a teacher
    key = key_of("step", step, before, task.fingerprint(), training, seed, threads, versions())
    kept = store.get(key)
    if kept is not None:
        try:
            artifact = loads(kept)
            seconds = float(artifact.facts.get("seconds", 0.0))
            after = unpack(artifact, task)
            done = Made(step, dataclasses.replace(after, notes=(*model.notes, *after.notes)), seconds, True)
        except IntegrityError:
            store.drop(key)
            events(Message(f"{name}: its stored result was damaged; made again"))
        else:
            events(Finished(name, seconds, cached=True))
            return done
    events(Started(name))
    start = time.perf_counter()
    context = Context(seed, events, store.scratch(key), base, floats, [entry.model for entry in made[1:]])
    place = f"steps[{number}] ({name})"
    try:
        after = step.apply(model, Restricted(task, step.needs), context)
    except FeatherweightError as error:
        error.args = (f"{place}: {error}",)
        raise
    except Exception as error:  # of the network, the data or a step: anyone's code
        what = f"failed: {type(error).__name__}: {error}"
        raise UnsupportedError(what, where=place, hint="--debug shows where it was raised") from error
    seconds = time.perf_counter() - start
    news = dataclasses.replace(after, notes=after.notes[len(model.notes) :])
    store.put(key, dumps(pack(news, facts={"seconds": seconds})))
    events(Finished(name, seconds))
    return Made(step, after, seconds, False)


def versions() -> dict[str, str]:
    """Return what, beside recipe, task, seed and threads, decides the bytes of a result."""
    return {
        "featherweight": featherweight.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "msgspec": msgspec.__version__,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Pin the number of threads of torch's arithmetic and of our encoders, and restore it after.

    numpy's products take one: threads of their own and torch's wait for each other, turning (measured: a fifth
    more time for GPTQ of EfficientNet-Lite0).
    """
    if threads < 1:
        raise ConfigError("threads", got=threads, expected="1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with thread_limit(threads), threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
