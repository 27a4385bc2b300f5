"""What a file holds, as plain values: encoded and raw tensors, structure, the stored graph, facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.activations import Quantizer
from featherweight.errors import ConfigError
from featherweight.formats import Encoded
from featherweight.structure import LayerSpec

Array = NDArray[Any]

# Element types of raw tensors, and the little-endian numpy type of their bytes; numpy has none for bf16.
DTYPES = {
    "bool": "|b1", "u8": "|u1", "i8": "|i1", "i16": "<i2", "i32": "<i4", "i64": "<i8",
    "f16": "<f2", "bf16": "<u2", "f32": "<f4", "f64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """A tensor left as it was.

    >>> Raw.of(np.float32([[1, 2]])).shape
    (1, 2)

    Attributes:
        dtype: one of `DTYPES`.
        shape: shape of the tensor.
        data: its elements, row-major, little-endian; bytes, or the memory of a tensor, which is not copied.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    def __post_init__(self) -> None:
        """Refuse a type that files do not have, and bytes that do not fill the shape."""
        if self.dtype not in DTYPES:
            raise _no_such_type(self.dtype)
        got, expected = len(self.data), prod(self.shape) * itemsize(self.dtype)
        if got != expected:
            what = f"raw tensor {self.dtype} of shape {self.shape}"
            raise ConfigError(what, got=f"{got} bytes", expected=f"{expected}")

    @classmethod
    def of(cls, array: Array) -> Raw:
        """Return a numpy array as a raw tensor; raises `ConfigError` if its type is none of `DTYPES`."""
        names = {np.dtype(code): name for name, code in DTYPES.items() if name != "bf16"}
        little = np.asarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        if little.dtype not in names:
            raise _no_such_type(array.dtype)
        return cls(names[little.dtype], array.shape, little.tobytes())

    def numpy(self) -> Array:
        """Return the tensor as a new array; bf16 is widened to float32 without loss."""
        array = np.frombuffer(self.data, DTYPES[self.dtype]).reshape(self.shape)
        return (array.astype("<u4") << 16).view("<f4") if self.dtype == "bf16" else array.copy()


def _no_such_type(got: Any) -> ConfigError:
    return ConfigError("not an element type of raw tensors", got=got, expected=", ".join(DTYPES))


def itemsize(dtype: str) -> int:
    """Return the bytes of one element of a raw tensor."""
    return np.dtype(DTYPES[dtype]).itemsize


class Initialiser(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where the stored graph takes an initialiser from: a tensor, transposed, then reshaped.

    Attributes:
        name: of the initialiser in the graph.
        tensor: canonical name of the tensor that fills it.
        permutation: order of the tensor's axes; `()` leaves them.
        shape: shape after the transposition; `()` leaves it.
    """

    name: str
    tensor: str
    permutation: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class StoredGraph:
    """The float graph without its weights.

    Attributes:
        onnx: serialized ONNX `ModelProto` in which the listed initialisers are stripped.
        initialisers: what fills them.
        outputs: how the flat outputs make the module's output, a nesting of their positions: `0`, or
            `{"logits": 0, "aux": [1, 2]}`.
    """

    onnx: bytes
    initialisers: tuple[Initialiser, ...]
    outputs: Any = 0


@dataclass(frozen=True, eq=False)
class Contents:
    """All that is written to a file.

    Attributes:
        tensors: every parameter and persistent buffer once, by canonical name, in the module's order.
        aliases: further names of tied tensors, to their canonical name.
        structure: what differs from the task's own network.
        graph: the float graph, if there is one.
        facts: task, recipe, metrics, versions, seed, notes: whatever JSON can hold.
        activations: quantizers by edge of the network, which is a value of the graph.
    """

    tensors: Mapping[str, Encoded | Raw]
    aliases: Mapping[str, str] = field(default_factory=dict)
    structure: Mapping[str, LayerSpec] = field(default_factory=dict)
    graph: StoredGraph | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, Quantizer] = field(default_factory=dict)
