"""How far the stages of a network scale: units timed here, a scheduler timed here, a thousand workers simulated."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace
from pathlib import Path
from tempfile import TemporaryDirectory

from featherweight.artifact import dumps, loads
from featherweight.events import Events, Message, silent
from featherweight.executors import Processes, executor_of
from featherweight.files import Store
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack, unpack
from featherweight.task import Restricted
from featherweight.techniques import Fold, Stages
from featherweight.techniques.base import Context
from featherweight.techniques.staged import Question, Staged, trained_stage
from featherweight.training.methods import Adaround
from featherweight.work import Subject
from featherweight.workspace import Workspace
from featherweight.zoo.tasks import resolve
from reproduce.figure import new_figure, svg
from reproduce.results import Cell, Check, Measured, Plot, Sheet

ABOUT = (
    "The stages of ResNet-20, trained alone by 1 to 1,000 workers: two processes measured, more simulated from the "
    "seconds of each stage, of a worker's start, of the store and of Dask's scheduler."
)
REMARKS = [
    (
        "Stages are layers, of 3-bit weights by AdaRound on 512 images, each taught by the float network on its own "
        "features. A stage is one unit of work. Seconds of units, starts and scheduler are of the processor, on one "
        "thread: what other processes took is not in them. One process and two are timed by the clock, from start "
        "to the last answer."
    ),
    (
        "Simulated: workers start at the same time, each reads the models from the store, whose bandwidth they share; "
        "units begin in the order of their cost, the largest first, on whichever worker is free; the scheduler and the "
        "command hand them out one after another. The bandwidth is an assumption: 125 MB a second, 1 Gbit. That the "
        "speed of a worker does not depend on how many there are is another."
    ),
    (
        "What binds is the largest of: the work divided by the workers, the longest unit, a worker's start, the "
        "store, the scheduler."
    ),
    "A hundred candidates are the same stages for a hundred recipes, seeds or formats, as a search asks for them.",
]
REFERENCE = "resnet20-cifar10"
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
BANDWIDTH = 125e6  # bytes a second of the store, shared
CANDIDATES = 100
ROUNDS = 3
CALLS = 1000  # that do nothing, by which a scheduler is timed
HALF = 0.65  # of the time of one process, in which two should be done


@dataclass(frozen=True)
class Costs:
    """What work on a cluster is made of.

    Attributes:
        units: seconds of each.
        start: seconds until a worker has imported all it needs, has made the task and the models.
        nbytes: of the models that each worker reads.
        dispatch: seconds that scheduler or command take for a unit, one after another.
        bandwidth: bytes a second of the store, shared by its readers.
    """

    units: Sequence[float]
    start: float
    nbytes: int
    dispatch: float
    bandwidth: float = BANDWIDTH

    def bounds(self, workers: int) -> dict[str, float]:
        """Return the seconds that cannot be undercut, by reason."""
        busy = min(workers, len(self.units))
        return {
            "work": sum(self.units) / workers,
            "the longest unit": max(self.units),
            "a worker's start": self.start,
            "the store": busy * self.nbytes / self.bandwidth,
            "the scheduler": len(self.units) * self.dispatch,
        }


def seconds(costs: Costs, workers: int) -> float:
    """Return when the last unit is done: list scheduling, largest first (Graham, 1969).

    >>> seconds(Costs([3, 2, 2, 1], 0, 0, 0), 2)
    4
    >>> seconds(Costs([3, 3, 3], 1, 100, 2, bandwidth=50), 3)
    10.0

    Args:
        costs: of the units and what surrounds them.
        workers: how many.
    """
    busy = min(workers, len(costs.units))
    free = [costs.start + (busy * costs.nbytes / costs.bandwidth if costs.nbytes else 0)] * busy
    heapify(free)
    for number, unit in enumerate(sorted(costs.units, reverse=True), start=1):
        heapreplace(free, max(free[0], number * costs.dispatch) + unit)
    return max(free)


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Time units, a start, a scheduler and two processes; simulate the rest."""
    events(Message("scaling: the stages of one network, one after another"))
    task = resolve(REFERENCE)
    model = Fold().apply(Model.of(task.model()), task, Context())
    step = Stages(
        by="layer", inputs="float", format=Int(bits=3, scale_by="mse"), method=Adaround(),
        samples=64 if quick else 512, epochs=1 if quick else 12, again=0,
    )  # fmt: skip
    workspace = Workspace(Restricted(task, "unlabelled"), threads=1)
    named = dict(units_of(step, model, workspace))
    content = dumps(pack(model))
    with executor_of("processes:1") as executor:
        start = executor.submit(begun, REFERENCE, content).result()
    events(Message("scaling: Dask's scheduler"))
    scheduler, command = dispatched(100 if quick else CALLS)
    costs = Costs(list(named.values()), start, 2 * len(content), max(scheduler, command))
    many = replace(costs, units=list(costs.units) * CANDIDATES)
    checks = list[Check]()
    if not quick:
        events(Message("scaling: one process and two, in turns"))
        checks.append(_two(lambda count: run(step, model, workspace, count), sum(costs.units)))
    facts: list[list[Cell]] = [
        ["units", len(costs.units)], ["seconds of all", round(sum(costs.units), 2)],
        ["seconds of the longest", round(max(costs.units), 2)],
        ["seconds of a worker's start", round(start, 2)], ["bytes of the models that a worker reads", costs.nbytes],
        ["milliseconds of the scheduler a unit", round(1e3 * scheduler, 2)],
        ["milliseconds of the command a unit", round(1e3 * command, 2)],
    ]  # fmt: skip
    sheets = [
        Sheet("Measured", ["what", "value"], facts),
        Sheet(
            "Seconds of each unit", ["stage", "seconds"], [[name, round(s, 2)] for name, s in named.items()]
        ),
        _sheet("One network, simulated", costs),
        _sheet(f"A hundred candidates, simulated: {len(many.units):,} units", many),
    ]
    return Measured([], checks, sheets, [_plot({"one network": costs, "a hundred candidates": many})])


def units_of(step: Stages, model: Model, workspace: Workspace) -> Iterator[tuple[str, float]]:
    """Yield the name of each stage, and its seconds as a worker takes them that knows nothing of the others."""
    models = (model, model)
    with TemporaryDirectory() as folder:
        staged = Staged(step, models, workspace, Path(folder))
        for place, cost in enumerate(staged.costs):
            with workspace.pinned():
                begin = time.process_time()
                trained_stage(
                    Subject(models, workspace, Path(folder) / str(place)), Question(step, place, cost)
                )
                yield staged.stages[place].name, time.process_time() - begin


def begun(reference: str, content: bytes) -> float:
    """Return the seconds that this process took to start, and to make a task and two models of it."""
    task = resolve(reference)
    _ = Workspace(task).fingerprint, [unpack(loads(content), task) for _ in range(2)]
    return time.process_time()


@contextmanager
def cluster(workers: int) -> Iterator[tuple[int, str]]:
    """Start a cluster here; give its process and its address."""
    command = [sys.executable, "-m", "featherweight", "cluster", "--workers", str(workers), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().split()[1]
        finally:
            process.terminate()


def dispatched(calls: int) -> tuple[float, float]:
    """Return the seconds a call that a scheduler of Dask takes, and that the process takes that asks it."""
    with cluster(2) as (process, address), executor_of(address) as executor:
        _ = [future.result() for future in [executor.submit(os.getpid) for _ in range(10)]]
        before, begin = processor_of(process), time.process_time()
        _ = [future.result() for future in [executor.submit(os.getpid) for _ in range(calls)]]
        return (processor_of(process) - before) / calls, (time.process_time() - begin) / calls


def processor_of(process: int) -> float:
    """Return the seconds of the processor that a process took so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(step: Stages, model: Model, workspace: Workspace, count: int) -> tuple[float, str]:
    """Return the seconds that the stages take on so many processes, with all around them, and what they make."""
    begin = time.perf_counter()
    with TemporaryDirectory() as folder, Processes(count) as place:
        context = Context(
            0, silent, Path(folder) / "scratch", model, model, threads=1, store=Store(folder), executor=place
        )
        made = step.apply(model, workspace.task, context)
        return time.perf_counter() - begin, made.hash


def _two(once: Callable[[int], tuple[float, str]], work: float) -> Check:
    """Compare one process with two, in turns."""
    rounds = [[once(count) for count in (1, 2)] for _ in range(ROUNDS)]
    assert len({made for pair in rounds for _, made in pair}) == 1, "bytes depend on the executor"
    one, two = (statistics.median(pair[i][0] for pair in rounds) for i in (0, 1))
    return Check(
        f"two processes beside one, {work:.0f} s of stages and all that surrounds them",
        f"under {HALF} of the time, median of {ROUNDS}",
        f"{two:.1f} s / {one:.1f} s = {two / one:.2f} by the clock, the same bytes",
        two / one < HALF,
    )


def binds(costs: Costs, workers: int) -> str:
    """Return the reason of the largest bound."""
    bounds = costs.bounds(workers)
    return max(bounds, key=bounds.__getitem__)


def _sheet(title: str, costs: Costs) -> Sheet:
    one = seconds(costs, 1)
    rows: list[list[Cell]] = []
    for workers in WORKERS:
        taken = seconds(costs, workers)
        rows.append(
            [
                workers,
                round(taken, 1),
                round(one / taken, 1),
                f"{one / taken / workers:.0%}",
                binds(costs, workers),
            ]
        )
    return Sheet(title, ["workers", "seconds", "times as fast", "efficiency", "what binds"], rows)


def _plot(given: dict[str, Costs]) -> Plot:
    figure = new_figure()
    axes = figure.subplots()
    for (label, costs), style in zip(given.items(), ("o-", "s-"), strict=True):
        one = seconds(costs, 1)
        axes.plot(
            WORKERS, [one / seconds(costs, workers) for workers in WORKERS], style, label=label, markersize=4
        )
    axes.plot(WORKERS, WORKERS, ":", color="0.5", label="as many times as workers")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("workers")
    axes.set_ylabel("times as fast as one worker (simulated)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return Plot("scaling.svg", svg(figure))
