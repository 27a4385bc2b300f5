"""Options checked in code as they are in a file, with errors that list what is accepted; classes out of plug-ins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from math import isfinite
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from featherweight.errors import ConfigError

T = TypeVar("T")

# msgspec evaluates the annotations of a class each time it is asked.
_fields = cache(msgspec.structs.fields)


def check_fields(options: msgspec.Struct, where: str) -> None:
    """Check every field of `options` against its annotation: msgspec does so only when it decodes.

    Raises:
        ConfigError: names the field; no option is infinite or NaN.
    """
    for field in _fields(type(options)):
        value = getattr(options, field.name)
        if value is msgspec.UNSET is field.default:
            continue
        place = f"{where}.{field.name}"
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError("not a finite number", where=place, got=value)
        convert(value, field.type, place)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen options that are checked when they are made, so that code and recipes are refused the same things."""

    def __post_init__(self) -> None:
        """Check every field against its annotation.

        Raises:
            ConfigError: names the field; a number that is not finite is never meant.
        """
        check_fields(self, str(self.__struct_config__.tag))


def convert(value: Any, kind: type[T] | Any, where: str, *, separator: str = "") -> T:
    """Return plain data as a typed value.

    Args:
        value: what to convert.
        kind: a type as in annotations.
        where: names the value in an error.
        separator: between that name and the path to the mistake.

    Raises:
        ConfigError: names the place within `value`, and the values and tags that are accepted there.
    """
    try:
        made: T = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`")
        known: dict[str, Any] = {}
        at, inner = _follow(value, [inspect.type_info(kind)], re.findall(r"[^.\[\]]+", path))
        if accepted := list(dict.fromkeys(_accepted(inner))):
            known["expected"] = ", ".join(accepted)
        if isinstance(at, str | int | float) or not path:
            known["got"] = repr(at)[:200]
        place = path.lstrip(".") if separator or not where else path
        raise ConfigError(what, where=separator.join(p for p in (where, place) if p), **known) from error
    return made


def _follow(value: Any, kinds: list[Any], path: list[str]) -> tuple[Any, list[Any]]:
    """Return the value at the end of a path, and the types accepted there; `None, []` if unknown."""
    for step in path:
        kinds = [part for kind in kinds for part in getattr(kind, "types", (kind,))]
        structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
        if isinstance(value, dict) and step in value:
            if any(kind.tag_field == step for kind in structs):
                return value[step], structs
            chosen = [k for k in structs if k.tag_field is None or value.get(k.tag_field) == k.tag]
            kinds = [field.type for kind in chosen for field in kind.fields if field.encode_name == step]
            value = value[step]
        elif isinstance(value, list | tuple) and step.isdigit():
            kinds = [kind.item_type for kind in kinds if hasattr(kind, "item_type")]
            value = value[int(step)]
        else:
            return None, []
    return value, kinds


def _accepted(kinds: list[Any]) -> Iterator[str]:
    """Yield the values of literals, and the tags of structs as they are written in a recipe."""
    for kind in kinds:
        if isinstance(kind, inspect.UnionType):
            yield from _accepted(list(kind.types))
        elif isinstance(kind, inspect.LiteralType):
            yield from map(repr, kind.values)
        elif isinstance(kind, inspect.StructType) and kind.tag_field is not None:
            yield f"{{{kind.tag_field} = {str(kind.tag)!r}}}".replace("'", '"')


def with_plugins(group: str, built_in: tuple[type[Any], ...]) -> tuple[type[Any], ...]:
    """Return the built-in classes and those that installed packages declare under `group`, by entry points."""
    return built_in + tuple(point.load() for point in entry_points(group=group))
