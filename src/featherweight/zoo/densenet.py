"""DenseNet-40 for images of 32 x 32 pixels: every layer reads all earlier ones of its block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROWTH = 12  # channels that a layer adds
LAYERS = 12  # of each of the three blocks


class Layer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, whose output is appended to what it read."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width_in)
        self.conv = nn.Conv2d(width_in, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width_in + 12, h, w]` of `x: [n, width_in, h, w]`."""
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """Between blocks: batch norm, ReLU, a 1x1 convolution that keeps the width, and the mean of 2 x 2 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / 2, w / 2]` of `x: [n, width, h, w]`."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet40(nn.Module):
    """DenseNet of 40 layers and growth 12, neither bottleneck nor compression: 1,019,722 parameters.

    Without the paper's dropout, which it uses only where images are not augmented.

    References:
        Huang, Liu, van der Maaten, Weinberger, 2017: Densely connected convolutional networks, section 3 and
        table 2 (L = 40, k = 12).
    """

    def __init__(self) -> None:
        super().__init__()
        width = 16
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
        for block in range(3):
            if block:
                layers.append(Transition(width))
            layers += [Layer(width + GROWTH * number) for number in range(LAYERS)]
            width += GROWTH * LAYERS
        self.features = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 3, 32, 32]`."""
        x = F.relu(self.bn(self.features(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
