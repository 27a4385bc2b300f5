"""Loops that numpy cannot walk, compiled by numba; imported only where such a loop is about to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile, and keep the result where that is possible (not beside read-only sources of no user).

    What is compiled runs without Python's lock, so that threads may share the work.
    """
    try:
        made: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = numba.njit(nogil=True)(function)
    return cast(Function, made)
