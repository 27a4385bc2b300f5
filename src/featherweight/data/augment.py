"""Augmentation of whole batches: pure functions of a batch and a generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CropFlip:
    """Random crops of padded images, every other one mirrored: what CIFAR networks are trained with.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, section 4.2.

    Attributes:
        padding: pixels added on each side, of the mean colour (0 after normalisation).
        channels_last: leave the channels of a pixel side by side in memory, which convolutions on processors
            are faster with; a network that takes features apart by `view` refuses them.
    """

    padding: int = 4
    channels_last: bool = False

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return `inputs: [n, c, h, w]`, each image moved by up to `padding` pixels and maybe mirrored."""
        count, _, height, width = inputs.shape
        padded = F.pad(inputs, (self.padding,) * 4)
        top, left = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
        mirrored = torch.randint(0, 2, (count, 1), generator=generator, dtype=torch.bool)
        rows = top + torch.arange(height)
        columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
        sample = torch.arange(count)[:, None, None]
        cropped = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
        images = cropped.permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()
