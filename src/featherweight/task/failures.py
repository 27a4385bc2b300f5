"""What a user's code raises, as one error that says where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from featherweight.errors import TaskError


@contextmanager
def failures(where: str) -> Iterator[None]:
    """Report whatever a user's code raises as one error that names the place; the cause stays attached."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"failed: {type(error).__name__}: {error}", where=where) from error


def guarded(where: str, items: Iterable[Any]) -> Iterator[Any]:
    """Yield items; what fails while one is made is reported, not what is done with it."""
    with failures(where):
        yield from items
