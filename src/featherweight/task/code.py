"""The identity of Python code: what a result depends on besides values."""

from __future__ import annotations

import hashlib
from inspect import isfunction
from types import CodeType
from typing import Any


def code_of(function: Any) -> str:
    """Return a text that changes with the code of a function or method, and is the same in every process.

    Comments and line numbers do not count; neither do other functions that it calls, nor what it closes over.
    An instance is identified by its `repr` (a frozen dataclass has a good one) and the code of its
    `__call__`.
    """
    if hasattr(function, "__code__"):
        return f"{function.__qualname__} {hashlib.sha256(_text(function.__code__).encode()).hexdigest()}"
    kind = type(function)
    options = "" if "object at 0x" in repr(function) else repr(function)
    return f"{kind.__qualname__} {options} {code_of(kind.__call__) if isfunction(kind.__call__) else ''}"


def _text(code: CodeType) -> str:
    constants = [
        _text(value) if isinstance(value, CodeType) else _constant(value) for value in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _constant(value: Any) -> str:
    return repr(sorted(value, key=repr)) if isinstance(value, frozenset) else repr(value)
