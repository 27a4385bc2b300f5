"""Weights out of a file, checked against the network that they are for. Nothing is unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as tensors_in
from torch import Tensor, nn

from featherweight.artifact import Artifact, loads
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.model import Model, equal_bits
from featherweight.units import some

SAFETENSORS = ".safetensors"


def network_in(path: Path, sha256: str, module: nn.Module) -> nn.Module:
    """Return a copy of `module` with the weights of a file, and with the structure of a `.fw` file.

    Raises:
        IntegrityError: the file cannot be read, has another hash, is damaged, or is of another network.
        ConfigError: a `.fw` file of another network.
    """
    held = opened(path, sha256)
    if isinstance(held, Artifact):
        return held.into(module)
    model = Model.of(module)
    return model.with_tensors(fitting(held, model, str(path))).module


def read(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Return the tensors of a file by name, decoded.

    Raises:
        IntegrityError: it cannot be read, does not have this hash, or is damaged.
        UnsupportedError: a `.fw` file of a network of another structure.
    """
    held = opened(path, sha256)
    if not isinstance(held, Artifact):
        return held
    if held.structure:
        changed = ", ".join(held.structure)
        raise UnsupportedError("weights of a network of another structure", where=str(path), got=changed)
    return {name: torch.from_numpy(np.array(value)) for name, value in held.weights().items()}


def opened(path: Path, sha256: str) -> dict[str, Tensor] | Artifact:
    """Return the tensors of a safetensors file, or a `.fw` file as it is loaded; any hash will do if none is given.

    Raises:
        IntegrityError: it cannot be read, does not have this hash, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(error.strerror or str(error), where=str(path)) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise IntegrityError("SHA-256 of the file", where=str(path), got=found, expected=sha256)
    if path.suffix != SAFETENSORS:
        return loads(content)
    try:
        return dict(tensors_in.load(content))
    except (SafetensorError, KeyError, ValueError) as error:
        raise IntegrityError(f"not a safetensors file: {error}", where=str(path)) from error


def fitting(values: Mapping[str, Tensor], model: Model, where: str) -> dict[str, Tensor]:
    """Return `values` by the canonical names of the network's tensors, and of their types.

    Of tied tensors the file may have one or all; those have to be equal.

    Raises:
        IntegrityError: names or shapes differ, tied tensors differ, or a value is not finite in the network's type.
    """
    tensors, loaded, unknown = model.tensors, dict[str, Tensor](), []
    for name, value in values.items():
        own = model.aliases.get(name, name)
        if own not in tensors:
            unknown.append(name)
            continue
        old, place = tensors[own], f"{where}: {name}"
        if value.shape != old.shape:
            raise IntegrityError("shape", where=place, got=tuple(value.shape), expected=tuple(old.shape))
        if value.is_floating_point() != old.is_floating_point() or value.is_complex():
            raise IntegrityError("type", where=place, got=str(value.dtype), expected=str(old.dtype))
        new = value.to(old.dtype)
        if new.is_floating_point() and not bool(torch.isfinite(new).all()):
            got, expected = str(value.dtype), str(old.dtype)
            raise IntegrityError("holds NaN or infinity", where=place, got=got, expected=expected)
        if own in loaded and not equal_bits(loaded[own], new):
            raise IntegrityError(f"differs from {own}, to which the network ties it", where=place)
        loaded[own] = new
    missing = [name for name, old in tensors.items() if old.is_floating_point() and name not in loaded]
    if missing or unknown:
        raise IntegrityError(
            "not the weights of this network", where=where,
            got=f"missing: {some(sorted(missing), 3) or 'none'}; unknown: {some(sorted(unknown), 3) or 'none'}",
        )  # fmt: skip
    return loaded
