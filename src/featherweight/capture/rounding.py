"""How far from each other two computations of one network may be: another order of float32 operations errs, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from featherweight.structure import copied

T = TypeVar("T")

TOLERANCE = 1e-5  # of the largest magnitude of an output
OFF = 8.0  # times the error of float32 that another order of it may err ...
LARGE = 1 << 20  # bytes of a parameter that is in float64 only while it is read
MOST_OFF = 1e-3  # ... but never more than this share of the largest magnitude


def rounding(computed: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """Return how far right outputs may be from those that float32 computed: a share of the largest of each.

    `OFF` times how far these are from what float64 makes of the same inputs, at least `TOLERANCE`, at most `MOST_OFF`.
    """
    gaps = [TOLERANCE]
    for ours, theirs in zip(computed, exact, strict=True):
        if ours.is_floating_point() and ours.shape == theirs.shape and ours.numel():
            scale = float(theirs.abs().max()) or 1.0
            gaps.append(OFF * float((ours.double() - theirs.double()).abs().max()) / scale)
    return min(max(gap for gap in gaps if gap == gap), MOST_OFF)


class Jitter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, each float32 number that an operator computes is off by one rounding, up or down by chance.

    How far the results move is how far any two orders of the operations may be apart, also where one of them is right
    by luck.

    References: Parker, Monte Carlo arithmetic, 1997.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, then jitter what is no view."""
        made = func(*args, **(kwargs or {}))
        if any(result.alias_info is not None for result in func._schema.returns):
            return made
        return tree_map_only(Tensor, self._jittered, made)

    def _jittered(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        up = torch.randint(0, 2, tensor.shape, generator=self._generator)
        return tensor * (1 + torch.finfo(torch.float32).eps * (2 * up - 1))


def in_float64(module: nn.Module, compute: Callable[[nn.Module], T]) -> T:
    """Return what `compute` makes of a copy of a network in float64: large parameters are widened as they are read.

    Where its code keeps them elsewhere, the copy has the whole of them.
    """
    try:
        return compute(_widened(module))
    except Exception:  # its code may do anything with types
        return compute(copied(module, {}).double())


def _widened(module: nn.Module) -> nn.Module:
    kept = {id(t) for part in module.modules() if isinstance(part, nn.RNNBase) for t in part.parameters()}
    large = {id(t) for t in module.parameters() if t.is_floating_point() and t.nbytes >= LARGE} - kept
    every = (*module.parameters(), *module.buffers())
    memo: dict[int, Any] = {id(t): t if id(t) in large else _double(t) for t in every}
    wide = copied(module, memo)
    for part in wide.modules():
        if any(id(tensor) in large for tensor in part._parameters.values()):
            part._parameters = _Widening(part._parameters)
    return wide


def _double(tensor: Tensor) -> Tensor:
    wide = tensor.detach().double() if tensor.is_floating_point() else tensor.detach().clone()
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


class _Widening(dict[str, Any]):
    """The parameters of a module, each in float64 whenever it is read."""

    def __getitem__(self, name: str) -> Any:
        return _read(super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return _read(super().get(name, default))

    def items(self) -> Any:
        return ((name, self[name]) for name in self)

    def values(self) -> Any:
        return (self[name] for name in self)


def _read(value: Any) -> Any:
    return _double(value) if isinstance(value, Tensor) and value.dtype != torch.float64 else value
