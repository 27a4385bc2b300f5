"""Which initialiser of an exported graph is which tensor of the network: found by content, never by name.

Before the export every tensor is filled with random numbers of its own, its mark. An initialiser that holds a
mark, or a mark transposed and reshaped, is that tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.artifact.contents import Initialiser

Array = NDArray[Any]
Marks = dict[str, Array]


def marked(state: Mapping[str, Tensor], canonical: Mapping[str, str]) -> tuple[dict[str, Tensor], Marks]:
    """Return a state of the same names, shapes, types and ties, every tensor random, and the marks by name.

    Args:
        state: tensors by name.
        canonical: name to the canonical name of its tensor; what is not in it is left as it is.
    """
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in canonical and canonical[name] not in tensors:
            tensors[canonical[name]] = _random(tensor, generator)
    marks = {name: bits(tensor.contiguous()) for name, tensor in tensors.items()}
    replaced = {
        name: tensors[canonical[name]] if name in canonical else tensor for name, tensor in state.items()
    }
    return replaced, marks


def _random(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of the tensor's shape and type: positive, so that a variance stays one."""
    if tensor.dtype.is_floating_point:
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
        mark = values.to(tensor.dtype)
    else:
        top = 2 if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max
        mark = torch.randint(0, top, tensor.shape, generator=generator).to(tensor.dtype)
    return torch.nn.Parameter(mark, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else mark


def bits(tensor: Tensor) -> Array:
    """Return a tensor as an array; bfloat16, which numpy lacks, as its 16 bits."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()


def match(graph: ir.Graph, marks: Marks) -> tuple[Initialiser, ...]:
    """Return the initialisers of `graph` that are tensors of the network; the others are constants."""
    found = []
    for name, value in graph.initializers.items():
        if value.const_value is None:
            continue
        array = value.const_value.numpy()
        if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
            array = array.view(np.int16)
        found += [entry for entry in [_matched(name, array, marks)] if entry is not None]
    return tuple(found)


def _matched(name: str, array: Array, marks: Marks) -> Initialiser | None:
    for tensor, mark in marks.items():
        if mark.size != array.size or mark.dtype != array.dtype or not array.size:
            continue
        if (
            mark.size * mark.dtype.itemsize < 4 or mark.dtype == bool
        ):  # too few bits to be sure of by content alone
            if not name.endswith(tensor):
                continue
        elif mark.flat[0] != array.flat[0]:  # the first element stays the first under every permutation
            continue
        for permutation in _orders(mark.ndim):
            moved = mark.transpose(permutation)
            if np.array_equal(moved.reshape(-1), array.reshape(-1)):
                order = () if permutation == tuple(range(mark.ndim)) else permutation
                return Initialiser(name, tensor, order, () if moved.shape == array.shape else array.shape)
    return None


def _orders(axes: int) -> Iterator[tuple[int, ...]]:
    """Every order of the axes, the given one first; only that one for tensors of more than six axes."""
    return permutations(range(axes)) if axes <= 6 else iter([tuple(range(axes))])
