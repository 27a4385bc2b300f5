"""A synthetic task that trains in a second: 8x8 images of four kinds, a small convolutional network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Tiny:
    """Which quarter of the image is brightest; 2-D convolution, batch norm, dropout, linear."""

    size: int = 256
    batch: int = 32
    name: str = "tiny"
    primary: str = "accuracy"
    training: Mapping[str, Any] = field(
        default_factory=lambda: {"epochs": 2, "lr": 0.05, "weight_decay": 1e-4}
    )

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return nn.Sequential(
                nn.Conv2d(1, 8, 3, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 8, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Dropout(0.1),
                nn.Linear(8, 4),
            ).eval()

    def example(self) -> Tensor:
        return self.data("test", 2)[0]

    def data(self, split: str, count: int) -> Pair:
        generator = torch.Generator().manual_seed(["train", "calibration", "validation", "test"].index(split))
        labels = torch.randint(0, 4, (count,), generator=generator)
        images = torch.rand((count, 1, 2, 4, 2, 4), generator=generator)
        images[torch.arange(count), 0, labels // 2, :, labels % 2] += 0.4
        return images.reshape(count, 1, 8, 8), labels

    def batches(self, split: str, *, seed: int, epoch: int) -> Iterable[Pair]:
        images, labels = self.data(split, self.size)
        order = torch.arange(self.size)
        if split == "train":
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        return [(images[some], labels[some]) for some in order.split(self.batch)]

    def inputs(self, batch: Pair) -> Tensor:
        return batch[0]

    def loss(self, output: Tensor, batch: Pair) -> Tensor:
        return nn.functional.cross_entropy(output, batch[1])

    def metrics(self, predict: Any, split: str) -> Mapping[str, float]:
        with torch.no_grad():
            images, labels = self.data(split, self.size)
            return {"accuracy": float((predict(images).argmax(1) == labels).float().mean())}

    def fingerprint(self) -> str:
        return f"tiny {self.size} {self.batch}"


@dataclass(frozen=True)
class TinyOf(Tiny):
    """`Tiny` with another network, of the same weights each time."""

    network: type[nn.Module] = nn.Identity

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return self.network().eval()
