"""What differs from the task's own network, as data: module path to stock class and arguments."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from featherweight.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn

Argument = bool | int | float | str | list[int] | None

STOCK = (
    "Identity", "Sequential", "Linear", "Bilinear", "Embedding", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d",
    "ConvTranspose2d", "ConvTranspose3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm",
    "PReLU", "ReLU", "Hardtanh", "LeakyReLU", "SiLU", "GELU", "Hardswish", "Sigmoid", "ScaledLinear",
)  # fmt: skip
_CONVOLUTION = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
)  # fmt: skip
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")

# Arguments of the layers that can be rebuilt from a module; each is an attribute of it. Bias: whether it has one.
ARGUMENTS = {
    "Linear": ("in_features", "out_features"),
    "Embedding": ("num_embeddings", "embedding_dim", "padding_idx"),
    **{f"Conv{n}d": _CONVOLUTION for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": (*_CONVOLUTION, "output_padding") for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": _BATCH_NORM for n in (1, 2, 3)},
    "PReLU": ("num_parameters",),
}
_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


class LayerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A module of `torch.nn`, or of `featherweight.layers`, by name, with the arguments that make it.

    Attributes:
        kind: one of `STOCK`.
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

        from featherweight.layers import OWN

        if self.kind not in STOCK:
            raise IntegrityError("not a stock layer", got=self.kind, expected=", ".join(STOCK))
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in self.arguments.items()}
        try:
            with torch.random.fork_rng(devices=[]):
                kind: Any = OWN.get(self.kind) or getattr(nn, self.kind)
                module: nn.Module = kind(**arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise IntegrityError(f"layer {self.kind} cannot be built: {error}") from None
        return module.eval()


Structure = Mapping[str, LayerSpec]


# What a rebuilt layer takes over from the one in its place, beside its tensors.
_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook",
)  # fmt: skip


def stock_kind(module: nn.Module) -> str:
    """Return the class of `ARGUMENTS` whose tensors, and no others, a module has; an empty string: there is none.

    A subclass outside torch counts as its stock class: it can be resized in place. A layer with a `forward` or with
    tensors that were put on it, and a subclass of torch's own, have none.

    >>> from torch import nn
    >>> stock_kind(nn.Linear(4, 2)), stock_kind(nn.ReLU())
    ('Linear', '')
    """
    kind = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch."))
    own_tensors = {*module._parameters, *module._buffers} - _TENSORS
    own_modules = module._modules and kind is type(module)
    if own_tensors or own_modules or "forward" in vars(module):
        return ""
    known = kind.__module__.startswith("torch.nn.modules") and kind.__name__ in ARGUMENTS
    return kind.__name__ if known else ""


def is_plain(module: nn.Module) -> bool:
    """Return whether a module is a layer of `torch.nn` itself, no subclass, that can be rebuilt from its arguments."""
    return type(module).__module__.startswith("torch.") and stock_kind(module) != ""


def spec_of(module: nn.Module, **changes: Argument) -> LayerSpec:
    """Return a layer of `torch.nn`, or of a subclass, as data, with some arguments changed.

    >>> from torch import nn
    >>> spec_of(nn.Linear(4, 2), out_features=1).arguments
    {'in_features': 4, 'out_features': 1, 'bias': True}

    Raises:
        UnsupportedError: it has no stock class.
    """
    kind = stock_kind(module)
    if not kind:
        raise UnsupportedError("not a plain layer of torch.nn", got=type(module).__name__)
    found = {name: getattr(module, name) for name in ARGUMENTS[kind]}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    biased = {"bias": module.bias is not None} if kind.startswith(("Linear", "Conv")) else {}
    return LayerSpec(kind, {**plain, **biased, **changes})


def resized(module: Any, shape: Sequence[int]) -> LayerSpec:
    """Return a layer as data, its weight (or running mean, without one) of this shape; what is depthwise stays so."""
    kind, rows, *rest = stock_kind(module), *shape
    if kind == "Linear":
        return spec_of(module, out_features=rows, in_features=rest[0])
    if kind == "Embedding":
        return spec_of(module, num_embeddings=rows, embedding_dim=rest[0])
    if kind.startswith("BatchNorm"):
        return spec_of(module, num_features=rows)
    if kind == "PReLU":
        return spec_of(module, num_parameters=rows)
    groups: int = module.groups
    if kind.startswith("ConvTranspose"):
        return spec_of(module, in_channels=rows, out_channels=rest[0] * groups)
    if rest[0] == 1 and 1 < groups == module.in_channels:
        groups = rows * groups // module.out_channels
    return spec_of(module, out_channels=rows, in_channels=rest[0] * groups, groups=groups)


def restructure(module: nn.Module, structure: Structure) -> nn.Module:
    """Replace modules of `module`, in place, by what `structure` says; outer paths before inner ones.

    What a layer carries beside its tensors stays: hooks, and which parameters are frozen (those of a layer inside it by
    the same name, others where all were). A subclass of the named class stays itself and takes over the new tensors.

    Raises:
        IntegrityError: the network has no such module.
    """
    trained: dict[str, dict[str, bool]] = {}
    for path in sorted(structure, key=lambda path: (path.count("."), path)):
        parent, _, child = path.rpartition(".")
        made = structure[path].build()
        try:
            owner = module.get_submodule(parent)
        except AttributeError as error:
            raise IntegrityError("the network has no such module", where=path) from error
        old = owner._modules.get(child)
        trained[path] = trained.get(parent, {})
        if old is not None:
            trained[path] = {n: p.requires_grad for n, p in old._parameters.items() if p is not None}
        for name, parameter in made.named_parameters(recurse=False):
            parameter.requires_grad_(trained[path].get(name, any(trained[path].values() or [True])))
        if old is not None and type(old) is not type(made) and stock_kind(old) == structure[path].kind:
            old._parameters.update(made._parameters)
            old._buffers.update(made._buffers)
            for name in ARGUMENTS[structure[path].kind]:
                setattr(old, name, getattr(made, name))
            continue
        kept = vars(old) if old is not None else {}
        vars(made).update({name: kept[name] for name in _HOOKS if kept.get(name)})
        try:
            owner.add_module(child, made)
        except KeyError as error:
            raise IntegrityError("the network has no such module", where=path) from error
    return module


def to_call(module: nn.Module) -> nn.Module:
    """Return a copy of a network to call, in eval mode: parameters are shared, everything else is its own.

    A network may write to its buffers and attributes whenever it runs; what it was copied from stays as it is.
    """
    return with_own_buffers(module).eval()


def with_own_buffers(module: nn.Module) -> nn.Module:
    """Return a copy of a network, in the modes of its parts: parameters are shared, everything else is its own."""
    return copied(module, {id(parameter): parameter for parameter in module.parameters()})


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
        layer = module.get_submodule(path)
        masked = [name.removesuffix("_mask") for name in layer._buffers if name.endswith("_mask")]
        norm = "torch.nn.utils.parametrizations.weight_norm in the place of torch.nn.utils.weight_norm"
        hint = f"no locks, files or computed tensors in attributes; {norm}"
        if masked and f"{masked[0]}_orig" in layer._parameters:
            hint = f"torch.nn.utils.prune.remove(module, {masked[0]!r}) makes its zeros permanent"
        what, where = f"cannot be copied: {str(reason).partition('.  ')[0]}", path or "the network"
        raise UnsupportedError(what, where=where, got=type(layer).__name__, hint=hint) from error
