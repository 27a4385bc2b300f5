"""Errors of a user's code as one error that says where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from featherweight.errors import TaskError

ENDLESS = 50_000


@contextmanager
def failures(where: str) -> Iterator[None]:
    """Raise any error of a user's code as a `TaskError` that names the place and keeps the cause."""
    try:
        yield
    except TaskError as error:
        if error.where:
            raise
        raise TaskError(
            error.what, where=where, got=error.got, expected=error.expected, hint=error.hint
        ) from error.__cause__
    except Exception as error:
        raise TaskError(f"failed: {type(error).__name__}: {error}", where=where) from error


@dataclass(frozen=True, eq=False)
class Guarded:
    """Items made by a user's code: errors raised while one is made name the place, errors of the consumer do not.

    `len` is known if that of `items` is. Each iteration starts at the beginning if `items` allows it. Endless
    items are an error: more than `ENDLESS`, and more than twice their length if they have one.
    """

    where: str
    items: Iterable[Any]
    change: Callable[[Any], Any] = lambda item: item

    def __iter__(self) -> Iterator[Any]:
        most = max(ENDLESS, 2 * (known_length(self.items) or 0))
        with failures(self.where):
            for taken, item in enumerate(self.items):
                if taken == most:
                    raise TaskError(
                        f"no end after {most} batches", where=self.where, expected="batches that end",
                        hint="stop an endless loader (itertools.islice); a very long one needs a __len__",
                    )  # fmt: skip
                yield self.change(item)

    def __len__(self) -> int:
        """Return the number of items; TypeError where it is not known."""
        return len(self.items)  # type: ignore[arg-type]


def known_length(items: Iterable[Any]) -> int | None:
    """Return how many items there are, None where only iteration would tell."""
    try:
        return len(items)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a DataLoader of an IterableDataset has `__len__` and raises
        return None
