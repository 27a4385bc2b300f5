"""Loading a file into a torch module; the only module of this package that imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from featherweight.artifact.artifact import Artifact, Lazy, LazyRaw
from featherweight.artifact.container import error_context
from featherweight.artifact.contents import DTYPES
from featherweight.artifact.header import Entry
from featherweight.errors import ConfigError
from featherweight.structure import copied, restructure
from featherweight.units import some

# Element types of raw tensors, as torch has them.
TYPES = {name: getattr(torch, np.dtype(code).name) for name, code in DTYPES.items()}
TYPES["bf16"] = torch.bfloat16


def fill(artifact: Artifact, module: nn.Module) -> nn.Module:
    """Return a copy of `module`, in eval mode, with the structure and the tensors of the file.

    New layers are built without memory (on the meta device) and every shape is compared before a tensor is
    decoded. Tied tensors stay one tensor. An encoded tensor takes the module's floating-point type. Raises as
    `Artifact.into` does.
    """
    shell = _copy(module, {})
    with error_context("structure"), torch.device("meta"):
        restructure(shell, artifact.structure)
    state = shell.state_dict(keep_vars=True)
    _check_names(artifact, state)
    _check_ties(artifact, state)
    for name, lazy in artifact.lazy.items():
        _check_kind(lazy.entry, name, state[name])
    replacement: dict[int, Tensor] = {}
    for name, lazy in artifact.lazy.items():
        old = state[name]
        value = tensor_of(lazy).to(old.dtype)
        own = isinstance(old, nn.Parameter)
        replacement[id(old)] = nn.Parameter(value, old.requires_grad) if own else value
    return _copy(shell, replacement).eval()


def _copy(module: nn.Module, replacement: dict[int, Tensor]) -> nn.Module:
    """Return a copy that shares every tensor of the state but the replaced ones; ties stay ties."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    return copied(module, memo | replacement)


def _check_names(artifact: Artifact, state: dict[str, Any]) -> None:
    names = {*artifact.names, *artifact.aliases}
    if missing := sorted(names - set(state)):
        raise ConfigError("the network lacks tensors of the file", got=some(missing, 6))
    if extra := sorted(set(state) - names):
        raise ConfigError("the file lacks tensors of the network", got=some(extra, 6))


def _check_ties(artifact: Artifact, state: dict[str, Any]) -> None:
    canonical = {name: name for name in artifact.names} | dict(artifact.aliases)
    owner: dict[int, str] = {}
    for name, first in canonical.items():
        if state[name] is not state[first]:
            raise ConfigError(f"tied to {first} in the file, not in the network", where=name)
        if owner.setdefault(id(state[name]), first) != first:
            raise ConfigError(f"tied to {owner[id(state[name])]} in the network, not in the file", where=name)


def _check_kind(entry: Entry, name: str, old: Any) -> None:
    if not isinstance(old, Tensor) or is_lazy(old):
        raise ConfigError("not a tensor of the network", where=name, got=type(old).__name__)
    if tuple(old.shape) != entry.shape:
        raise ConfigError("shape", where=name, got=f"{tuple(old.shape)} in the network", expected=entry.shape)
    wanted = TYPES[entry.dtype] if hasattr(entry, "dtype") else None
    if old.dtype != wanted and (wanted or not old.is_floating_point()):
        got, expected = f"{old.dtype} in the network", wanted or "floating point"
        raise ConfigError("type", where=name, got=got, expected=expected)


def tensor_of(lazy: Lazy) -> Tensor:
    """Return a tensor of a file, decoded, in memory of its own; `IntegrityError` if it is damaged."""
    if not isinstance(lazy, LazyRaw):
        return torch.from_numpy(lazy.decode())
    tensor = lazy.open()
    if not tensor.data:
        return torch.empty(tensor.shape, dtype=TYPES[tensor.dtype])
    flat = torch.from_numpy(np.frombuffer(tensor.data, np.uint8).copy())
    return flat.view(TYPES[tensor.dtype]).reshape(tensor.shape)
