"""Data that is read by index, as seeded orders, splits and fingerprints need it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


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
