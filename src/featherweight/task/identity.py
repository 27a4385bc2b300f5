"""The identity of values and code: what a result depends on, as a text that is the same in every process."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(...), np.generic, np.dtype, torch.dtype,
    torch.device, torch.layout, torch.memory_format,
)  # fmt: skip
_FUNCTIONS = (types.FunctionType, types.MethodType)
# Code that is not looked into: its versions are part of every key, or it does not change.
_LIBRARIES = {"torch", "numpy", "abc", "builtins", "functools", "typing"}
_EVERY_MODULE_HAS = set(vars(nn.Module())) - {"training"}


def hashed(*values: Any) -> str:
    """Return the SHA-256 of the identity of values."""
    return hashlib.sha256(identity_of(values).encode()).hexdigest()


def identity_of(value: Any) -> str:
    """Return a text that changes with a value and what it computes, and is the same in every process.

    Counted are: numbers, texts and containers of them; every byte of tensors and arrays; of functions, the code,
    the defaults, what they close over, and the functions, classes and constants of their own module that they
    name; of networks, weights, attributes and the code of their classes; of dataclasses and callable objects,
    class and attributes. Of any other object only the class's name is. Comments and line numbers do not
    count, nor does the code of torch.

    >>> identity_of([1, {"a": 0.5}])
    "list(1, dict(('a', 0.5)))"
    >>> identity_of(lambda x: x + 1) == identity_of(lambda x: x + 2)
    False
    """
    return _identity(value, {})


def _identity(value: Any, seen: dict[int, tuple[int, Any]]) -> str:
    """Describe a value; `seen` numbers what was described before, and keeps it alive so that ids stay its own."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    kind = type(value).__qualname__
    if isinstance(value, set | frozenset):
        return f"{kind}({', '.join(sorted(_identity(part, {}) for part in value))})"
    if isinstance(value, tuple):  # whether equal ones are one object is up to the interpreter
        return f"{kind}({', '.join(_identity(part, seen) for part in value)})"
    if id(value) in seen:
        return f"again {seen[id(value)][0]}"
    seen[id(value)] = (len(seen), value)
    if isinstance(value, np.ndarray):
        return f"{kind} {_array(value) if value.dtype != object else _identity(value.tolist(), seen)}"
    if isinstance(value, (*_FUNCTIONS, type)):
        return " ".join(_identity_of_code(value, seen))
    return f"{kind}({', '.join(_parts(value, seen))})"


def _parts(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """Yield the identities of what a container or an object is made of."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield f"({_identity(name, seen)}, {_identity(part, seen)})"
        return
    if isinstance(value, list):
        parts = value
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, msgspec.Struct):
        parts = [type(value), [getattr(value, name) for name in value.__struct_fields__]]
    elif isinstance(value, nn.Module):
        own = {name: part for name, part in vars(value).items() if name not in _EVERY_MODULE_HAS}
        tensors = [dict(value.named_parameters(recurse=False)), dict(value.named_buffers(recurse=False))]
        parts = [type(value), own, *tensors, dict(value._modules)]
    elif callable(value) and hasattr(value, "__name__"):
        parts = [value.__name__, getattr(value, "__wrapped__", None)]
    elif (is_dataclass(value) or callable(value)) and not _of_library(type(value)):
        parts = [type(value), dict(getattr(value, "__dict__", {}))]
    else:
        parts = []
    for part in parts:
        yield _identity(part, seen)


def _identity_of_code(code: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """Yield the name of a function or class and what it does."""
    if _of_library(code):
        yield f"{code.__module__}.{code.__qualname__}"
        return
    yield code.__qualname__
    if isinstance(code, type):
        for base in code.__bases__:
            yield _identity(base, seen)
        for name, part in sorted(vars(code).items()):
            part = _unwrapped(part)
            if isinstance(part, _FUNCTIONS) or not name.startswith("__"):
                yield f"{name}={_identity(part, seen)}"
        return
    yield hashlib.sha256(_text(code.__code__).encode()).hexdigest()
    yield _identity([code.__defaults__, code.__kwdefaults__, getattr(code, "__self__", None)], seen)
    for cell in code.__closure__ or ():
        yield _identity(cell.cell_contents, seen) if cell != types.CellType() else "empty"
    for name in sorted(_names(code.__code__)):
        found = code.__globals__.get(name)
        own = isinstance(found, types.FunctionType | type) and found.__module__ == code.__module__
        constant = isinstance(found, (*_PLAIN, tuple, Tensor)) and not name.startswith("__")
        if own or (constant and name in code.__globals__):
            yield f"{name}={_identity(found, seen)}"


def _unwrapped(member: Any) -> Any:
    """Return the function in a member of a class that is not a plain one."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, functools.cached_property) else member


def _of_library(code: Any) -> bool:
    return str(code.__module__).partition(".")[0] in _LIBRARIES


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(value) for value in code.co_consts if isinstance(value, types.CodeType))
    return set(code.co_names).union(*inner)


def _text(code: types.CodeType) -> str:
    constants = [_text(v) if isinstance(v, types.CodeType) else identity_of(v) for v in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    trained = "trained" if tensor.requires_grad else ""
    digest = hashlib.sha256(flat.numpy().data).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {trained} {digest}"


def _array(array: np.ndarray[Any, Any]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    return f"{array.dtype} {array.shape} {digest}"
