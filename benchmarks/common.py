"""What benchmarks share: timing, Markdown tables, signal to noise, and a tiny network for quick runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from featherweight import Classification
from featherweight.zoo.efficientnet_lite import Block, Convolution


def timed(call: Callable[[], object], repeat: int = 1, clock: Callable[[], float] = time.process_time):
    """Return the result of `call` and its least seconds, of the processor or by another clock."""
    seconds = []
    for _ in range(repeat):
        start = clock()
        result = call()
        seconds.append(clock() - start)
    return result, min(seconds)


def head(*names: str) -> None:
    """Print the head of a Markdown table."""
    row(*names)
    print(f"|{'---|' * len(names)}", flush=True)


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def decibels(signal, decoded) -> float:
    """Return the energy of a signal over that of the error, in dB; infinity for none."""
    signal, decoded = np.asarray(signal, np.float64), np.asarray(decoded, np.float64)
    noise = np.square(signal - decoded).sum()
    return float(10 * np.log10(np.square(signal).sum() / noise)) if noise else float("inf")


class Tiny(nn.Module):
    """A network with the module names of EfficientNet-Lite0, untrained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 8, kernel=3, stride=2)
        self.blocks = nn.Sequential(Block(8, 12, 3, 1, 2), Block(12, 12, 3, 1, 2))
        self.head = Convolution(12, 24)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[n, 5]` of images `x: [n, 3, h, w]`."""
        return self.fc(self.head(self.blocks(self.stem(x))).mean((2, 3)))


def tiny() -> Classification:
    """Return a task of `Tiny` on 96 random images of 16 x 16 pixels."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(96, 3, 16, 16, generator=generator), torch.arange(96) % 5
    torch.manual_seed(0)
    parts = [(images[part], labels[part]) for part in (slice(48), slice(48, 72), slice(72, 96))]
    return Classification(
        Tiny().eval(), train=parts[0], calibration=parts[0], validation=parts[1], test=parts[2],
        name="tiny", batch_size=24,
    )  # fmt: skip
