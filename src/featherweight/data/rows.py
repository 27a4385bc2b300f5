"""Samples and calls as indexed data: rows of arrays, groups of them, settings among them, image files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featherweight.data.indexed import Indexed, Indices
from featherweight.errors import ConfigError

Array = NDArray[Any]
CROP = 0.875  # share of an image that is left: scaled to 256 and cropped to 224, as is usual


class Entry(Protocol):
    """An input of a network: its name, the name of its type in numpy, its sizes; free ones are names, or None."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> str: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int | str | None, ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Rows(Indexed):
    """Samples that are rows of arrays.

    Attributes:
        arrays: `[n, ...]` each.
    """

    arrays: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the rows at `indices: [n]`."""
        return tensors([array[indices] for array in self.arrays]), None

    @cached_property
    def digest(self) -> str:
        """A hash of all numbers."""
        found = hashlib.sha256()
        for array in self.arrays:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(array.reshape(-1).view(np.uint8).data)
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Grouped(Indexed):
    """Samples as calls of a fixed number of them, what is left over at the end left out.

    Attributes:
        data: the samples.
        count: of a call.
        lead: whether samples stay along a first axis; else that of one sample is taken away.
    """

    data: Indexed
    count: int
    lead: bool = True

    def __len__(self) -> int:
        return len(self.data) // self.count

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the first of the calls at `indices`: they are not put together."""
        start = int(indices[0]) * self.count
        inputs, _ = self.data.take(np.arange(start, start + self.count))
        if self.lead:
            return inputs, None
        return (tuple(part[0] for part in inputs) if isinstance(inputs, tuple) else inputs[0]), None

    @property
    def digest(self) -> str:
        """A hash of the samples and their number in a call."""
        return hashlib.sha256(f"{self.data.digest} {self.count} {self.lead}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Settled(Indexed):
    """Inputs with settings among them.

    Attributes:
        data: the other inputs.
        places: of every input of the network its setting, or None.
    """

    data: Indexed
    places: tuple[Array | None, ...]

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the inputs at `indices`, settings at their places."""
        inputs, labels = self.data.take(indices)
        others = iter(inputs if isinstance(inputs, tuple) else (inputs,))
        return tuple(next(others) if value is None else tensors([value]) for value in self.places), labels

    @property
    def digest(self) -> str:
        """A hash of inputs and settings."""
        said = [None if value is None else value.tolist() for value in self.places]
        return hashlib.sha256(f"{self.data.digest} {said}".encode()).hexdigest()


def settled(data: Indexed, entries: Sequence[Entry], settings: Mapping[str, Array]) -> Indexed:
    """Return data with the settings put among the other inputs; as they are without any."""
    return Settled(data, tuple(settings.get(entry.name) for entry in entries)) if settings else data


def tensors(arrays: Sequence[Array]) -> Any:
    """Return arrays as a network takes them: one tensor, or a tuple in the order of its inputs."""
    import torch

    tensors = tuple(torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for array in arrays)
    return tensors[0] if len(tensors) == 1 else tensors


@dataclass(frozen=True)
class Pixels:
    """How images become inputs.

    Attributes:
        size: height and width; None: what the network takes.
        mean, std: what float inputs are scaled by, `(pixels / 255 - mean) / std`: one number, or one for each channel.
        bgr: whether the channels stand as blue, green, red.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no scale of three channels."""
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, 3):
                raise ConfigError("not one number, nor three", where=name, got=list(numbers))
        if not all(number > 0 for number in self.std):
            raise ConfigError("not positive", where="std", got=list(self.std))
        if any(number > 2 for number in (*self.mean, *self.std)):
            what, hint = "not in units of 0 to 1", "divide by 255"
            raise ConfigError(what, where="mean, std", got=[*self.mean, *self.std], hint=hint)


@dataclass(frozen=True, eq=False)
class Pictures(Indexed):
    """Image files as inputs, decoded when they are needed.

    Attributes:
        paths: the files.
        pixels: size and scale.
        dtype: of the input; bytes are not scaled.
        last: whether channels stand last.
    """

    paths: tuple[Path, ...]
    pixels: Pixels
    dtype: str
    last: bool

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return images `[n, 3, h, w]`, or `[n, h, w, 3]`."""
        from featherweight.data.folder import decode

        assert self.pixels.size is not None
        images = np.stack([decode(self.paths[i], self.pixels.size, CROP) for i in indices])
        made: Array = images[:, ::-1] if self.pixels.bgr else images
        if np.dtype(self.dtype).kind == "f":
            mean, std = (
                np.array(n, np.float32).reshape(-1, 1, 1) for n in (self.pixels.mean, self.pixels.std)
            )
            made = ((made.astype(np.float32) / np.float32(255) - mean) / std).astype(self.dtype)
        return tensors([made.transpose(0, 2, 3, 1) if self.last else made]), None

    @cached_property
    def digest(self) -> str:
        """A hash of names, lengths and preprocessing; the images themselves are not read."""
        facts = [(path.name, path.stat().st_size) for path in self.paths]
        return hashlib.sha256(repr((facts, self.pixels, self.dtype, self.last, CROP)).encode()).hexdigest()
