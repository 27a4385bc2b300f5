"""What a user's code raises, as one error that says where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from featherweight.errors import TaskError

ENDLESS = 50_000


@contextmanager
def failures(where: str) -> Iterator[None]:
    """Report whatever a user's code raises as one error that names the place; the cause stays attached."""
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
    """Items out of a user's code: what fails while one is made is reported, not what is done with it.

    `len` is known where that of `items` is. Each iteration starts afresh if `items` can. Items without end are
    an error: many more than their length says, or more than `ENDLESS` if they have none.
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
