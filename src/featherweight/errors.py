"""One base error and a few kinds; every message says what, where, got, expected, and then a hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT: Any = object()


class FeatherweightError(Exception):
    """Base of every error this package raises on bad input.

    The message is one line, then an optional hint on a line of its own:

    >>> print(ConfigError("not a bit width", where="encode.format.bits", got=33, expected="1 to 16, or 32",
    ...                   hint="use Float(bits=16) for half precision"))
    encode.format.bits: not a bit width: got 33, expected 1 to 16, or 32
    hint: use Float(bits=16) for half precision
    """

    def __init__(
        self, what: str, *, where: str = "", got: Any = _ABSENT, expected: Any = _ABSENT, hint: str = ""
    ) -> None:
        self.what, self.where, self.got, self.expected, self.hint = what, where, got, expected, hint
        details = []
        if got is not _ABSENT:
            details.append(f"got {got}")
        if expected is not _ABSENT:
            details.append(f"expected {expected}")
        message = ": ".join([part for part in (where, what, ", ".join(details)) if part])
        super().__init__(message + (f"\nhint: {hint}" if hint else ""))

    def __reduce__(self) -> Any:
        """Return how another process makes it again; values are texts there."""
        said = {name: value for name, value in vars(self).items() if value is not _ABSENT}
        said |= {name: str(said[name]) for name in ("got", "expected") if name in said}
        return _again, (type(self), self.args, said)


def _again(kind: type[FeatherweightError], args: tuple[Any, ...], said: dict[str, Any]) -> FeatherweightError:
    error = kind.__new__(kind)
    error.args = args
    for name, value in {"got": _ABSENT, "expected": _ABSENT, **said}.items():
        setattr(error, name, value)
    return error


class ConfigError(FeatherweightError, ValueError):
    """A recipe, option or argument that cannot be meant."""


class UnsupportedError(FeatherweightError):
    """A layer, format or file that this cannot be done to; names the layer and why."""


class IntegrityError(FeatherweightError, ValueError):
    """A damaged, truncated or hostile file."""


class TaskError(FeatherweightError):
    """A task, its data or its network does not keep its promises."""


class MissingExtraError(FeatherweightError, ImportError):
    """An optional dependency that is not installed."""


class WriteError(FeatherweightError, OSError):
    """A file cannot be written: a full disk, a folder without permission, a path that is a folder."""

    def __init__(self, path: Any, error: OSError) -> None:
        super().__init__(f"cannot be written: {error.strerror or error}", where=str(path))
        self.errno = error.errno

    def __reduce__(self) -> Any:
        """Return how another process makes it again; `errno` is no attribute of Python's."""
        make, (kind, args, said) = super().__reduce__()
        return make, (kind, args, {**said, "errno": self.errno})


_EXTRAS = {
    "compress": "torch onnxscript onnx_ir scipy threadpoolctl safetensors PIL plotly tomli_w",
    "numba": "numba",
    "dask": "distributed dask",
    "dev": "matplotlib",
}


@contextmanager
def extras() -> Iterator[None]:
    """Turn a failed import of an optional dependency into an error that names the extra to install.

    Raises:
        MissingExtraError: such a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages.split():
                hint = f"pip install 'featherweight[{extra}]'"
                raise MissingExtraError("not installed", where=package, hint=hint) from error
        raise
