"""Which tensors a step may touch, and their encoding. Imports torch: for use inside `apply` only."""

from __future__ import annotations

import torch
from torch import nn

from featherweight.errors import UnsupportedError
from featherweight.formats import Encoded, Format
from featherweight.graph.views import views
from featherweight.model import Model, Note


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


def encode(model: Model, name: str, format: Format) -> Encoded:
    """Return a tensor in `format`; one that has this format already keeps its symbols.

    Raises:
        UnsupportedError: the format cannot take the tensor; names it.
    """
    old = model.weights.get(name)
    if old is not None and old.format == format:
        return old
    tensor = model.tensors[name]
    if tensor.dtype != torch.float32:
        raise UnsupportedError(
            "only float32 tensors are encoded", where=name, got=str(tensor.dtype).removeprefix("torch."),
            hint="convert the network: module.float()",
        )
    try:
        return format.encode(tensor.detach().numpy(), view=views(model.module)[name])
    except UnsupportedError as error:
        raise UnsupportedError(error.what, where=name, got=error.got, expected=error.expected, hint=error.hint) from None
