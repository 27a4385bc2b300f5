"""Numba kernels. Modules that hold them are imported only where a kernel is about to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from featherweight.errors import extras

with extras():
    import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile without the GIL, cached on disk where the file system allows it."""
    try:
        made: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = numba.njit(nogil=True)(function)
    return cast(Function, made)
