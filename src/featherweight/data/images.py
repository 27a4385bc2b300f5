"""Images as bytes, normalised when a batch is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherweight.data.indexed import Indexed, Indices
from featherweight.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor


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
