"""Options checked in code as they are in a file: msgspec checks a struct's fields only when it decodes one."""

from __future__ import annotations

from functools import cache
from math import isfinite

import msgspec

from featherweight.errors import ConfigError

# msgspec evaluates the annotations of a class anew each time it is asked.
_fields = cache(msgspec.structs.fields)


def check_fields(options: msgspec.Struct, where: str) -> None:
    """Check every field of `options` against its annotation.

    Raises:
        ConfigError: names the field; a number that is not finite is never meant.
    """
    for field in _fields(type(options)):
        value = getattr(options, field.name)
        place = f"{where}.{field.name}"
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError("not a finite number", where=place, got=value)
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            raise ConfigError(str(error), where=place, got=repr(value)) from None
