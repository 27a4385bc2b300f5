"""Which tensors a step may touch, and their encoding. Imports torch: for use inside `apply` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.curvature.blocks import Blocks
from featherweight.errors import UnsupportedError
from featherweight.events import Note
from featherweight.formats import Encoded, Format
from featherweight.formats.floating import beyond
from featherweight.model import Model


def trainable(model: Model) -> tuple[list[str], list[Note]]:
    """Return the parameters that training may change, and a note for each of the others."""
    names, notes = [], []
    for name, tensor in model.tensors.items():
        if isinstance(tensor, nn.Parameter):
            if tensor.requires_grad:
                names.append(name)
            else:
                notes.append(Note("skipped", name, "does not require gradients: not trained"))
    return names, notes


def unfit(model: Model, formats: Mapping[str, Format]) -> dict[str, str]:
    """Return which tensors their formats cannot hold without clamping them, with the reason."""
    found = {
        name: beyond(model.tensors[name].detach().float().numpy(), format) for name, format in formats.items()
    }
    return {name: reason for name, reason in found.items() if reason}


def encode(model: Model, name: str, format: Format) -> Encoded:
    """Return a tensor in `format`; one that has this format already keeps its symbols.

    Raises:
        UnsupportedError: the format cannot take the tensor; names it.
    """
    old = model.weights.get(name)
    if old is not None and old.format == format:
        return old
    weight = array(model, name)
    try:
        return format.encode(weight, view=model.views[name])
    except UnsupportedError as error:
        raise UnsupportedError(
            error.what, where=name, got=error.got, expected=error.expected, hint=error.hint
        ) from None


def array(model: Model, name: str) -> NDArray[Any]:
    """Return the values of a tensor that is to be encoded.

    Raises:
        UnsupportedError: it is not float32.
    """
    tensor = model.tensors[name]
    if tensor.dtype != torch.float32:
        raise UnsupportedError(
            "only float32 tensors are encoded", where=name, got=str(tensor.dtype).removeprefix("torch."),
            hint="convert the network: module.float()",
        )  # fmt: skip
    return tensor.detach().numpy()


def finite(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return the values of a tensor.

    Raises:
        UnsupportedError: they hold NaN or infinity; names it.
    """
    if not np.isfinite(values).all():
        raise UnsupportedError("NaN or infinity", where=name, hint="look for a diverged training run")
    return values


def matrix(model: Model, name: str) -> NDArray[Any]:
    """Return a tensor as the matrix of its view, float32 `[rows, cols]`.

    Raises:
        UnsupportedError: it holds NaN or infinity.
    """
    values = finite(model.tensors[name].detach().float().numpy(), name)
    return model.views[name].matrix(values)


def masked(model: Model, name: str, gone: NDArray[Any]) -> Tensor:
    """Return a tensor with zeros where `gone: [rows, cols]` of its matrix is true."""
    mask = torch.from_numpy(model.views[name].tensor(gone))
    return model.tensors[name].detach().masked_fill(mask, 0.0)


def surgery(model: Model, name: str, gone: NDArray[Any], curvature: Blocks) -> Tensor:
    """Return a tensor with zeros where `gone: [rows, cols]` of its matrix is true, the other numbers moved."""
    made = curvature.without(matrix(model, name), gone)
    return torch.from_numpy(model.views[name].tensor(made)).to(model.tensors[name].dtype)
