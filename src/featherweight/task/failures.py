"""What a user's code raises, as one error that says where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
