"""Numba kernels. Modules that hold them are imported only where a kernel is about to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from featherweight.errors import MissingExtraError

try:
    import numba
except ImportError as error:
    raise MissingExtraError(
        "numba is not installed", where="compiled loops of coders and formats", hint="pip install numba"
    ) from error

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile without the GIL, cached on disk where the file system allows it."""
    try:
        made: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = numba.njit(nogil=True)(function)
    return cast(Function, made)
