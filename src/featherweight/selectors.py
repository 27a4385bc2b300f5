"""Which tensors a step means: `where = ["weights", "!conv1.*"]`. A `where` that matches nothing is an error."""

from __future__ import annotations

from fnmatch import fnmatchcase

from featherweight.errors import ConfigError
from featherweight.model import Model

Where = str | list[str]


def select(model: Model, where: Where) -> list[str]:
    """Return the canonical names of the tensors that `where` means, in the order of the module.

    An item is `weights` (every floating-point parameter of two and more dimensions), `parameters` (every
    floating-point parameter), `type:Conv2d` (parameters of two and more dimensions of modules of that class), or a
    glob over names (`layer1.*.weight`; any name of a tied tensor will do). A leading `!` takes away.

    Raises:
        ConfigError: an item, or all of them together, matches nothing.
    """
    items = [where] if isinstance(where, str) else list(where)
    if items and all(item.startswith("!") for item in items):
        items = ["weights", *items]
    chosen: set[str] = set()
    for item in items:
        matched = _matching(model, item.removeprefix("!"))
        if not matched:
            raise ConfigError(
                "matches no tensor",
                where="where",
                got=repr(item),
                expected=f"one of {_some(list(model.tensors))}, or weights, parameters, type:Conv2d",
            )
        chosen = chosen - matched if item.startswith("!") else chosen | matched
    if not chosen:
        raise ConfigError("leaves no tensor", where="where", got=repr(where))
    return [name for name in model.tensors if name in chosen]


def _matching(model: Model, item: str) -> set[str]:
    parameters = dict(model.module.named_parameters())
    floating = {name: p for name, p in parameters.items() if p.is_floating_point()}
    if item == "parameters":
        return set(floating)
    if item == "weights":
        return {name for name, p in floating.items() if p.dim() >= 2}
    if item.startswith("type:"):
        kinds = {path: type(module).__name__ for path, module in model.module.named_modules()}
        wanted = item.removeprefix("type:")
        return {
            name for name, p in floating.items() if p.dim() >= 2 and kinds[name.rpartition(".")[0]] == wanted
        }
    names = {name: name for name in model.tensors} | model.aliases
    return {canonical for name, canonical in names.items() if fnmatchcase(name, item)}


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
