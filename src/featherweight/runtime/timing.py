"""Time per call of several things in one run: interleaved, medians, and whether the machine was quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

LEAST_SECONDS = 0.005  # a measurement takes several calls until it is that long
STARVED = 1.15  # wall time over processor time from which on others had the processor
SPREAD = 0.1  # most that the quartiles may differ, relative to the median
FEWEST = 10


class Timing(msgspec.Struct, frozen=True):
    """How long a call takes.

    Attributes:
        name: what was called.
        milliseconds: median over the rounds.
        low, high: tenth and ninetieth percentile.
        rounds: rounds that count.
        starved: rounds that do not, for others had the processor meanwhile.
        quiet: whether the quartiles, and the medians of the first and the last half, lie within a tenth of the
            median, and rounds enough count.
    """

    name: str
    milliseconds: float
    low: float
    high: float
    rounds: int
    starved: int
    quiet: bool


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, seconds: float = 2.0, patience: float = 3.0
) -> list[Timing]:
    """Return the time of each of `calls`, measured in turns.

    Every round measures each once, in an order that rotates, so that what disturbs one disturbs all. Rounds go on
    until each has had `seconds`, and up to `patience` times as long where the machine is not quiet.

    Args:
        calls: by name; each is called with no argument.
        seconds: of measurement for each.
        patience: how many times as long it may take to find enough quiet rounds.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    walls: dict[str, list[float]] = {name: [] for name in calls}
    busy: dict[str, list[bool]] = {name: [] for name in calls}
    names, start, rounds = list(calls), time.perf_counter(), 0
    while True:
        turn = rounds % len(names)
        for name in [*names[turn:], *names[:turn]]:
            wall, processor = _measured(calls[name], repeats[name])
            walls[name].append(1000 * wall / repeats[name])
            busy[name].append(wall > STARVED * processor)
        rounds += 1
        spent = (time.perf_counter() - start) / len(names)
        if rounds < FEWEST or spent < seconds:
            continue
        timings = [timing(name, np.array(walls[name]), np.array(busy[name])) for name in names]
        if spent >= patience * seconds or all(timing.quiet for timing in timings):
            return timings


def _repeats(call: Callable[[], object]) -> int:
    """Warm up, and return how many calls take long enough to be timed."""
    call()
    count = 1
    while True:
        taken = min(_measured(call, count)[0] for _ in range(3))  # others may have the processor meanwhile
        if taken >= LEAST_SECONDS:
            return count
        count = max(2 * count, int(count * LEAST_SECONDS / max(taken, 1e-9)))


def _measured(call: Callable[[], object], count: int) -> tuple[float, float]:
    """Return the wall time and the processor time of `count` calls."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    return time.perf_counter() - wall, time.process_time() - processor


def timing(name: str, walls: NDArray[Any], busy: NDArray[Any]) -> Timing:
    """Return what was measured in rounds: `walls` in milliseconds, and in which of them others had the processor."""
    calm = int((~busy).sum())
    kept = walls[~busy] if calm >= FEWEST else walls
    low, first, median, third, high = (float(p) for p in np.percentile(kept, [10, 25, 50, 75, 90]))
    early, late = (float(np.median(half)) for half in np.array_split(kept, 2))
    quiet = calm >= FEWEST and max(third - first, abs(early - late)) <= SPREAD * median
    return Timing(name, median, low, high, len(kept), len(walls) - calm, quiet)
