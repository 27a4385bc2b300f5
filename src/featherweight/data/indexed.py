"""Data that is read by index, images in memory among it; orders and splits by seeds, which never change."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor

Indices = NDArray[np.int64]
HELD_OUT_SEED = 0x5EED


class Indexed(ABC):
    """Samples `0 .. len - 1`, always the same ones.

    Attributes:
        workers: processes that make batches ahead; 0: they are made when they are asked for.
        worker_init: called with its number in each worker.
        steady: whether two readings after seeding the global generators give the same.
    """

    workers: int = 0
    worker_init: Callable[[int], None] | None = None
    steady: bool = True

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the batch `(inputs, labels)` of the samples at `indices: [n]`; labels may be None."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash of the samples; of a part of them where reading all would take long."""


@dataclass(frozen=True, eq=False)
class Subset(Indexed):
    """Some samples of other data.

    Attributes:
        data: where they come from.
        indices: `[n]`, which ones.
    """

    data: Indexed
    indices: Indices

    def __post_init__(self) -> None:
        """Have the workers of the data."""
        object.__setattr__(self, "workers", self.data.workers)
        object.__setattr__(self, "worker_init", self.data.worker_init)

    @property
    def steady(self) -> bool:  # type: ignore[override]
        """Whether two readings give the same."""
        return self.data.steady

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the batch of the samples at `indices: [n]`, counted within the subset."""
        return self.data.take(self.indices[indices])

    @property
    def digest(self) -> str:
        """A hash of the data and of the choice."""
        return hashlib.sha256(self.data.digest.encode() + self.indices.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Normalisation:
    """Pixels to network inputs: `(pixel - mean) / std`, per channel, in units of pixels (0 to 255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return `pixels: [n, c, h, w]` as float32 inputs of the same shape."""
        import torch

        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return (torch.from_numpy(pixels).float() - mean) / std


@dataclass(frozen=True, eq=False)
class Images(Indexed):
    """Images of one size, in memory.

    Attributes:
        pixels: `[n, c, h, w]`, uint8.
        labels: `[n]`, class indices.
        normalise: pixel values to network inputs.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    normalise: Normalisation

    def __post_init__(self) -> None:
        """Refuse images without a label, or labels without an image."""
        if len(self.pixels) != len(self.labels):
            raise TaskError("as many labels as images", got=len(self.labels), expected=len(self.pixels))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return inputs `[n, c, h, w]`, float32, and labels `[n]`, int64."""
        import torch

        return self.normalise(self.pixels[indices]), torch.from_numpy(self.labels[indices])

    @cached_property
    def digest(self) -> str:
        """A hash of all pixels, labels and the normalisation."""
        found = hashlib.sha256(f"{self.pixels.shape} {self.normalise}".encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        found.update(self.labels.astype("<i8").data)
        return found.hexdigest()


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """Return a permutation of `0 .. count - 1` that depends on `key` alone, in any process and numpy version.

    It is built on raw output of the generator, which numpy promises to keep.

    >>> permutation(5, 0, 1).tolist()
    [4, 1, 2, 0, 3]
    """
    return np.argsort(np.random.PCG64(_sequence(key)).random_raw(count), kind="stable").astype(np.int64)


def number(*key: int) -> int:
    """Return a 63-bit seed that depends on `key` alone."""
    return int(_sequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([part % (1 << 64) for part in key])


def held_out(data: Indexed, count: int) -> tuple[Subset, Subset]:
    """Split off `count` samples, always the same ones: return the rest, and those."""
    order = permutation(len(data), HELD_OUT_SEED)
    return Subset(data, np.sort(order[count:])), Subset(data, np.sort(order[:count]))
