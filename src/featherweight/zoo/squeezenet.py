"""SqueezeNet: 1.0 and 1.1 for ImageNet, and a form for images of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Widths = tuple[int, int]  # of the squeeze, of each of the two expansions
FIRES: tuple[Widths, ...] = tuple((k, 4 * k) for k in (16, 16, 32, 32, 48, 48, 64, 64))


class Fire(nn.Module):
    """A 1x1 convolution that squeezes the channels, and a 1x1 and a 3x3 one that expand them, side by side.

    References: Iandola et al., 2016: SqueezeNet, AlexNet-level accuracy with 50x fewer parameters, section 3.2.
    """

    def __init__(self, width_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, 2 expand, h, w]` of `x: [n, width_in, h, w]`."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class NormalisedFire(nn.Module):
    """A `Fire` with batch norm after the squeeze and after the expansions."""

    def __init__(self, width_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width_in, squeeze, 1, bias=False)
        self.squeeze_bn = nn.BatchNorm2d(squeeze)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1, bias=False)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1, bias=False)
        self.expand_bn = nn.BatchNorm2d(2 * expand)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, 2 expand, h, w]` of `x: [n, width_in, h, w]`."""
        x = F.relu(self.squeeze_bn(self.squeeze(x)))
        return F.relu(self.expand_bn(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1)))


def features(
    stem: nn.Conv2d, after: Sequence[nn.Module], fire: type[Fire] | type[NormalisedFire], pools: tuple[int, int],
    pool: Callable[[], nn.MaxPool2d],
) -> nn.Sequential:  # fmt: skip
    """Return the layers that see pixels.

    Args:
        stem: first convolution.
        after: layers between that and the first pooling.
        fire: kind of the eight fire modules.
        pools: numbers of those, from 1, after which the image is pooled.
        pool: makes a pooling.
    """
    layers, width = [stem, *after, pool()], stem.out_channels
    for number, (squeeze, expand) in enumerate(FIRES, 1):
        layers += [fire(width, squeeze, expand), *([pool()] if number in pools else [])]
        width = 2 * expand
    return nn.Sequential(*layers)


class SqueezeNet(nn.Module):
    """SqueezeNet for ImageNet; names are torchvision's. `stem` and `pools` are as in `features`."""

    def __init__(self, stem: nn.Conv2d, pools: tuple[int, int]) -> None:
        super().__init__()
        self.features = features(stem, [nn.ReLU()], Fire, pools, lambda: nn.MaxPool2d(3, 2, ceil_mode=True))
        last = nn.Conv2d(2 * FIRES[-1][1], 1000, 1)
        self.classifier = nn.Sequential(nn.Dropout(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 1000]` of images `x: [n, 3, 224, 224]`."""
        logits: Tensor = self.classifier(self.features(x)).flatten(1)
        return logits


def squeezenet1_0() -> SqueezeNet:
    """Return SqueezeNet 1.0, 1,248,424 parameters."""
    return SqueezeNet(nn.Conv2d(3, 96, 7, stride=2), (3, 7))


def squeezenet1_1() -> SqueezeNet:
    """Return SqueezeNet 1.1, 1,235,496 parameters and 2.3 times fewer operations than 1.0."""
    return SqueezeNet(nn.Conv2d(3, 64, 3, stride=2), (2, 4))


class SqueezeNet32(nn.Module):
    """SqueezeNet 1.1 for images of 32 x 32 pixels: stride 1 in the first layer, and batch norm, 730,570 parameters."""

    def __init__(self) -> None:
        super().__init__()
        stem, after = nn.Conv2d(3, 64, 3, padding=1, bias=False), [nn.BatchNorm2d(64), nn.ReLU()]
        self.features = features(stem, after, NormalisedFire, (2, 4), lambda: nn.MaxPool2d(2))
        self.classifier = nn.Conv2d(2 * FIRES[-1][1], 10, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 3, 32, 32]`."""
        logits: Tensor = self.classifier(self.features(x)).mean((2, 3))
        return logits
