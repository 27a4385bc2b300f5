"""What differs from the task's own network, as data: module path to stock class and arguments."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from featherweight.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn

Argument = bool | int | float | str | list[int] | None

STOCK = (
    "Identity",
    "Sequential",
    "Linear",
    "Bilinear",
    "Embedding",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LayerNorm",
    "GroupNorm",
)


class LayerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A module of `torch.nn` by name, with the arguments that make it.

    Attributes:
        kind: one of `STOCK`, a class of `torch.nn`.
        arguments: keyword arguments of its constructor.
    """

    kind: str
    arguments: dict[str, Argument] = {}

    def build(self) -> nn.Module:
        """Return the module, in eval mode, its weights not yet meaningful.

        Raises:
            IntegrityError: the class is not one a file may name.
        """
        import torch
        from torch import nn

        if self.kind not in STOCK:
            raise IntegrityError("not a stock layer", got=self.kind, expected=", ".join(STOCK))
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in self.arguments.items()}
        try:
            with torch.random.fork_rng(devices=[]):
                module: nn.Module = getattr(nn, self.kind)(**arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise IntegrityError(f"layer {self.kind} cannot be built: {error}") from None
        return module.eval()


Structure = Mapping[str, LayerSpec]


def restructure(module: nn.Module, structure: Structure) -> nn.Module:
    """Replace modules of `module`, in place, by what `structure` says; outer paths before inner ones."""
    for path in sorted(structure, key=lambda path: (path.count("."), path)):
        parent, _, child = path.rpartition(".")
        try:
            module.get_submodule(parent).add_module(child, structure[path].build())
        except AttributeError:
            raise IntegrityError("the network has no such module", where=path) from None
    return module


def copied(module: nn.Module, memo: Mapping[int, Any]) -> nn.Module:
    """Return a deep copy of `module`, `memo` (by `id`) in the place of what it names.

    Raises:
        UnsupportedError: it cannot be copied; names the innermost module that cannot.
    """
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception as error:  # a module may hold anything, and what it holds may raise anything
        path, reason = "", error
        for inner, submodule in module.named_modules():  # outer before inner
            try:
                copy.deepcopy(submodule, dict(memo))
            except Exception as found:
                path, reason = inner, found
        raise UnsupportedError(
            f"cannot be copied: {str(reason).partition('.  ')[0]}",
            where=path or "the network",
            got=type(module.get_submodule(path)).__name__,
            hint="no locks, files or computed tensors in attributes; torch.nn.utils.parametrizations.weight_norm "
            "in the place of torch.nn.utils.weight_norm",
        ) from error
