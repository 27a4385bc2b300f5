"""How many processors there are, and how many of them a run takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_taken: ContextVar[int | None] = ContextVar("taken", default=None)


def usable_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def taken_processors() -> int:
    """Return how many threads may share a piece of work: those of `thread_limit`, else all usable ones."""
    return _taken.get() or usable_processors()


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Let what runs within share its work among so many threads.

    >>> with thread_limit(3):
    ...     taken_processors()
    3
    """
    token = _taken.set(threads)
    try:
        yield
    finally:
        _taken.reset(token)
