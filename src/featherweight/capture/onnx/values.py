"""What an ONNX value is while a network runs: a tensor, or numbers that are known without one, such as sizes.

A graph computes shapes from shapes. These stay numbers of Python (or symbols of torch), so that an axis whose size
is free stays free when the network is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.errors import UnsupportedError

Array = NDArray[Any]

# Element types of ONNX by their number, as torch has them.
DTYPES: dict[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 12: torch.uint16, 13: torch.uint32, 14: torch.uint64, 16: torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Known:
    """Numbers that are known without a tensor.

    >>> Known.of([2, 3], torch.int64).ints()
    [2, 3]

    Attributes:
        numbers: an array of Python's numbers, or of torch's symbols for them.
        dtype: the type of the ONNX value.
    """

    numbers: Array
    dtype: torch.dtype

    @classmethod
    def of(cls, numbers: Any, dtype: torch.dtype) -> Known:
        """Return numbers, or nested lists of them, as known ones."""
        return cls(np.array(numbers, dtype=object), dtype)

    def ints(self) -> list[Any]:
        """Return all numbers in order."""
        return list(self.numbers.reshape(-1))

    @property
    def fixed(self) -> bool:
        """Whether no number is a symbol."""
        return all(isinstance(n, int | float) for n in self.ints())

    def tensor(self) -> Tensor:
        """Return the numbers as a tensor."""
        if self.fixed:
            return torch.tensor(self.numbers.tolist(), dtype=self.dtype)
        parts = [torch.scalar_tensor(n, dtype=self.dtype) for n in self.ints()]
        return torch.stack(parts).reshape(self.numbers.shape)


# Of symbols; torch leaves these without types.
sym_int: Callable[[Any], Any] = torch.sym_int
sym_float: Callable[[Any], Any] = torch.sym_float
sym_max: Callable[[Any, Any], Any] = torch.sym_max
sym_min: Callable[[Any, Any], Any] = torch.sym_min

Value = Any  # Tensor | Known | tuple of them, for an operator of several results


def tensor(value: Value) -> Tensor:
    """Return a value as a tensor."""
    return value.tensor() if isinstance(value, Known) else value


def from_start(places: Tensor, n: Any) -> Tensor:
    """Return indices of `n` things, where ONNX counts negative ones from the end, for torch, which refuses them.

    A network that is exported to ONNX again keeps its own; `capture.execution` counts them where they are run.
    """
    return places if torch.compiler.is_exporting() else torch.where(places < 0, places + n, places)


def numbers(value: Value) -> list[Any]:
    """Return a value that an operator takes as numbers: axes, sizes, amounts.

    Raises:
        UnsupportedError: it is computed of the network's data.
    """
    if isinstance(value, Known):
        return value.ints()
    if isinstance(value, Tensor):
        if type(value) is not Tensor and not isinstance(value, torch.nn.Parameter):
            raise UnsupportedError("a size or an axis is computed of the network's data")
        return list(value.reshape(-1).tolist())
    return list(value)


def number(value: Value) -> Any:
    """Return a value of one number; raises as `numbers` does."""
    return numbers(value)[0]


def operand(value: Value, other: Tensor) -> Any:
    """Return a value as an operand beside `other`: a plain number where it is one and adds no axes, else a tensor."""
    if not isinstance(value, Known):
        return value
    single = value.numbers.size == 1 and value.numbers.ndim <= other.dim()
    return value.ints()[0] if single else value.tensor()


def known(function: Callable[..., Any], values: Sequence[Known], dtype: torch.dtype) -> Known:
    """Return what `function` makes of known numbers, element by element."""
    made = np.frompyfunc(function, len(values), 1)(*[value.numbers for value in values])
    return Known(np.asarray(made, dtype=object), dtype)


def constant(array: Array) -> Known:
    """Return an array as known numbers."""
    return Known(array.astype(object), torch.from_numpy(np.zeros(0, array.dtype)).dtype)


def is_small(array: Array, argument: bool = False) -> bool:
    """Return whether an array may be sizes, axes or amounts, or is one number; `argument`: it is read as such."""
    vector = array.ndim <= 1 and array.size <= 64
    return array.size == 1 or (vector and (argument or array.dtype.kind in "iub"))


def size_of(shape: Sequence[Any]) -> Any:
    """Return the number of elements of a shape."""
    return prod(shape)
