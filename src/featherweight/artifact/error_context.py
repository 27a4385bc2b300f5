"""Errors while untrusted bytes are read: one `IntegrityError` that says where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featherweight.errors import FeatherweightError, IntegrityError, MissingExtraError, UnsupportedError

MOST_QUOTED = 300  # characters


@contextmanager
def error_context(where: str, *, hint: str = "") -> Iterator[None]:
    """Turn any exception of the block into an `IntegrityError` at `where`; an inner place is kept beside it.

    Formats, coders (plug-ins too) and layer constructors may raise anything on forged options and bytes, so no
    list of exception types would be complete. What the machine lacks, a library or memory, is not damage.

    Raises:
        IntegrityError: the bytes are damaged or hostile.
        MissingExtraError: a library that reads them is not installed.
        UnsupportedError: they do not fit into memory.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed", where=where, hint=f"pip install {error.name}"
        ) from error
    except MemoryError as error:
        raise UnsupportedError("not enough memory", where=where, got=str(error) or "MemoryError") from error
    except FeatherweightError as error:
        place = ": ".join(part for part in (where, error.where) if part)
        raise IntegrityError(
            _short(error.what),
            where=place,
            got=_short(error.got),
            expected=error.expected,
            hint=error.hint or hint,
        ) from error
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise IntegrityError(_short(reason), where=where, hint=hint) from error


def _short(value: Any) -> Any:
    """Return what a message may quote of a value that a stranger chose."""
    text = str(value)
    return value if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]} ..."
