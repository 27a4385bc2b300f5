"""Running a recipe: each step once, its result kept under the hash of all that it depends on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from featherweight.artifact import Contents, Raw, loads, pieces
from featherweight.errors import FeatherweightError, IntegrityError, UnsupportedError
from featherweight.events import Events, Finished, Message, Started, silent
from featherweight.files import Store
from featherweight.formats.coders import tag
from featherweight.model import Model, Note
from featherweight.packing import pack_changes, unpack_changes
from featherweight.processors import usable_processors
from featherweight.recipe.recipe import Recipe
from featherweight.task import Restricted, Task
from featherweight.task.protocol import failures, network_of
from featherweight.techniques import Load, Train
from featherweight.techniques.base import Context, Step
from featherweight.workspace import Workspace

ALWAYS = 1 << 24  # bytes of a result that are kept whatever their making took
A_SECOND = 1 << 20  # and so many more for each second that it took
ASIDE = 1 << 28  # bytes of raw tensors of a step, beyond which later steps run with these on disk

UNSTEADY = Note(
    "chose", "data", "two readings differ, by random numbers that are not of the global generators of torch, numpy or"
    " Python: another run makes other bytes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Made:
    """What a step made.

    Attributes:
        step: the step; None for the network as the task gives it.
        model: the model after it.
        seconds: how long it took, now or when it was first made in this store.
        cached: whether it came out of the store.
        key: of the result: of all that decides it, from the first step on. A model itself is hashed for no key.
    """

    step: Step | None
    model: Model
    seconds: float
    cached: bool
    key: str = ""


def run(
    recipe: Recipe,
    task: Task,
    *,
    seed: int = 0,
    threads: int | None = None,
    store: Store | None = None,
    events: Events = silent,
    executor: Executor | None = None,
) -> list[Made]:
    """Run the steps of a recipe in order; return what each made, the task's own network first.

    Same recipe, task, seed, threads, instruction set and versions: the same bytes, in any process. A run that was
    killed resumes after the last finished step, and within a long one from its last checkpoint. What a step changed
    is kept where making it again would take longer than writing it is worth: see `worth`.

    Args:
        recipe: the steps.
        task: the network, its data and its measure; each step sees no more of it than it declared to need.
        seed: of everything random.
        threads: compute threads (they decide output bytes). Default: all processors that this process may use.
        store: where results are kept; default: the user's.
        events: where progress goes.
        executor: where the work of a step runs that falls into independent parts; None: here.

    Raises:
        FeatherweightError: a step cannot do what it was asked to; the message names it.
    """
    return execute(
        recipe, Workspace(task, seed, threads or usable_processors(), store or Store(), events, executor)
    )


def execute(recipe: Recipe, workspace: Workspace) -> list[Made]:
    """Run the steps of a recipe in order; as `run`, in a workspace."""
    with workspace.pinned():
        with failures(f"{workspace.task.name}, model"):
            network = network_of(workspace.task)
        made = [Made(None, given := Model.of(network), 0.0, False, given.hash)]
        for number, step in enumerate(recipe.steps):
            made.append(_step(step, number, made, workspace))
            if number + 1 < len(recipe.steps):
                made[-1] = set_aside(made[-1], made[-2].model, workspace.store.folder)
    return made


def baseline(made: Sequence[Made]) -> Model:
    """Return the float network that a result is compared with: after the `load` and `train` steps that come first."""
    trained = takewhile(lambda entry: isinstance(entry.step, Load | Train), made[1:])
    return [made[0], *trained][-1].model


def uncoded(made: Sequence[Made]) -> Model:
    """Return the network as it last was with nothing encoded: what encoded layers are compared with."""
    return next((entry.model for entry in reversed(made) if not entry.model.weights), made[0].model)


def _step(step: Step, number: int, made: Sequence[Made], workspace: Workspace) -> Made:
    name, model = tag(step), made[-1].model
    task, store, events = workspace.task, workspace.store, workspace.events
    # any of them may be a teacher
    before = [(entry.step is None or isinstance(entry.step, Load | Train), entry.key) for entry in made]
    key = workspace.key("step", step, before, workspace.seed, workspace.threads)
    if (kept := store.get(key)) is not None:
        try:
            artifact = loads(kept)
            seconds, after = float(artifact.facts.get("seconds", 0.0)), unpack_changes(artifact, model, task)
        except IntegrityError:
            store.drop(key)
            events(Message(f"{name}: its stored result was damaged; computed again"))
        else:
            events(Finished(name, seconds, cached=True))
            after = dataclasses.replace(after, notes=(*model.notes, *after.notes))
            return Made(step, after, seconds, True, result_key(key, after, task))
    events(Started(name))
    start, place = time.perf_counter(), f"steps[{number}] ({name})"
    others = [entry.model for entry in made[1:]]
    context = Context(
        workspace.seed, events, store.scratch(key), baseline(made), uncoded(made), others, workspace.threads, store,
        workspace.executor,
    )  # fmt: skip
    try:
        after = step.apply(model, Restricted(task, step.needs), context)
    except FeatherweightError as error:
        error.args = (f"{place}: {error}",)
        raise
    except Exception as error:  # of the network, the data or a step: anyone's code
        what = f"failed: {type(error).__name__}: {error}"
        raise UnsupportedError(what, where=place, hint="--debug shows where it was raised") from error
    if step.needs != "none" and not getattr(task, "steady", True) and UNSTEADY not in after.notes:
        after = after.with_notes([UNSTEADY])
    seconds = time.perf_counter() - start
    news = dataclasses.replace(after, notes=after.notes[len(model.notes) :])
    contents = pack_changes(news, model, {"seconds": seconds})
    if (nbytes := size_of(contents)) <= worth(seconds):
        store.put(key, pieces(contents))
    else:
        why = "made quickly: they are not kept, another run makes them again"
        events(Message(f"{name}: {nbytes:,} bytes were {why}"))
    events(Finished(name, seconds))
    return Made(step, after, seconds, False, result_key(key, after, task))


def set_aside(made: Made, before: Model, folder: Path) -> Made:
    """Return what a step made, as a map of a file where its own raw tensors are large: the next step has the memory."""
    tensors = made.model.tensors.items()
    own = [t for name, t in tensors if name not in made.model.weights and t is not before.tensors.get(name)]
    if sum(tensor.nbytes for tensor in own) <= ASIDE:
        return made
    return dataclasses.replace(made, model=made.model.on_disk(before, folder))


def worth(seconds: float) -> float:
    """Return how many bytes of results are kept of a step that took so long.

    A disk, with a hash and checks, takes 100 MB a second or more: keeping what was made takes a hundredth of the time
    that making it took. Small results are always kept.
    """
    return ALWAYS + A_SECOND * seconds


def size_of(contents: Contents) -> int:
    """Return about how many bytes contents take, symbols uncoded."""
    found = contents.tensors.values()
    return sum(len(t.data) if isinstance(t, Raw) else t.symbols.nbytes for t in found)


def result_key(key: str, model: Model, task: Task) -> str:
    """Return the key of a result: that of its making, or of itself where another run would make another one."""
    return key if getattr(task, "steady", True) else model.hash
