"""Which tensors a step means: `where = ["weights", "!conv1.*"]`. A `where` that matches nothing is an error."""

from __future__ import annotations

from fnmatch import fnmatchcase

from featherweight.errors import ConfigError
from featherweight.model import Model
from featherweight.units import some

Where = str | list[str]


def select(model: Model, where: Where) -> list[str]:
    """Return the canonical names of the tensors that `where` means, in the order of the module.

    An item is `weights` (every floating-point parameter of two and more dimensions), `parameters` (every
    floating-point parameter), `type:Conv2d` (parameters of two and more dimensions of modules of that class), or a
    glob over the names of floating-point tensors (`layer1.*.weight`; any name of a tied tensor will do). A
    leading `!` takes away. The rest of all (`*` and what is taken away) may be nothing: a network without biases has
    no tensor beside its weights.

    Raises:
        ConfigError: an item, or all of them together, matches nothing of floating point.
    """
    items = [where] if isinstance(where, str) else list(where)
    if items and all(item.startswith("!") for item in items):
        items = ["weights", *items]
    chosen: set[str] = set()
    for item in items:
        taken = item.removeprefix("!")
        matched = _matching(model, taken)
        counters = item != taken and _globbed(model, taken)  # to take those away is no mistake
        if not matched and not counters:
            raise _nothing(model, taken)
        chosen = chosen - matched if item.startswith("!") else chosen | matched
    if not chosen and items[:1] != ["*"]:
        raise ConfigError("leaves no tensor", where="where", got=repr(where))
    return [name for name in model.tensors if name in chosen]


def weights(model: Model) -> list[str]:
    """Return the names of the floating-point parameters of two and more dimensions: what `weights` means."""
    return [name for name, p in model.module.named_parameters() if p.is_floating_point() and p.dim() >= 2]


def _matching(model: Model, item: str) -> set[str]:
    if item == "parameters":
        return {name for name, p in model.module.named_parameters() if p.is_floating_point()}
    if item == "weights":
        return set(weights(model))
    if item.startswith("type:"):
        kinds = {path: type(module).__name__ for path, module in model.module.named_modules()}
        wanted = item.removeprefix("type:")
        return {name for name in weights(model) if kinds[name.rpartition(".")[0]] == wanted}
    return set(_floating(model)).intersection(_globbed(model, item))


def _globbed(model: Model, item: str) -> list[str]:
    names = {name: name for name in model.tensors} | model.aliases
    return [canonical for name, canonical in names.items() if fnmatchcase(name, item)]


def _floating(model: Model) -> list[str]:
    return [name for name, tensor in model.tensors.items() if tensor.is_floating_point()]


def _nothing(model: Model, item: str) -> ConfigError:
    """Return why `item` matches nothing."""
    floating = _floating(model)
    if not floating:
        return ConfigError("the network has no floating-point weights", where="where", got=repr(item))
    if others := _globbed(model, item):
        found = ", ".join(f"{name} of {model.tensors[name].dtype}" for name in others[:3])
        return ConfigError("matches only tensors that are not floating point", where="where", got=found)
    expected = f"one of {some(floating, 6)}, or weights, parameters, type:Conv2d"
    return ConfigError("matches no tensor", where="where", got=repr(item), expected=expected)
