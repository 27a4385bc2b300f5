"""MobileNetV2: inverted residuals with linear bottlenecks, for ImageNet and for images of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# (expansion, width, blocks, stride) of each stage.
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
STAGES_32 = (STAGES[0], (6, 24, 2, 1), *STAGES[2:])


class Block(nn.Module):
    """Inverted residual: expand by a 1x1, filter each channel, project by a 1x1; a shortcut where it fits."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = width_in * expansion
        self.residual = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            *([convolution(width_in, wide)] if expansion != 1 else []),
            convolution(wide, wide, kernel=3, stride=stride, groups=wide),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Stem, inverted residuals, a 1x1 convolution and a linear layer; names are torchvision's.

    Args:
        stride: of the stem.
        stages: expansion, width, blocks and stride of each stage.
        classes: number of logits.

    References:
        Sandler, Howard, Zhu, Zhmoginov, Chen, 2018: MobileNetV2, inverted residuals and linear bottlenecks,
        table 2.
    """

    def __init__(self, stride: int, stages: Sequence[tuple[int, int, int, int]], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(3, 32, kernel=3, stride=stride)]
        width_in = 32
        for expansion, width, blocks, first in stages:
            for number in range(blocks):
                layers.append(Block(width_in, width, 1 if number else first, expansion))
                width_in = width
        layers.append(convolution(width_in, 1280))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` of images `x: [n, 3, h, w]`."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def convolution(
    width_in: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution without bias, batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    )


def mobilenet_v2() -> MobileNetV2:
    """Return MobileNetV2 for images of 224 x 224 pixels in 1,000 classes, 3,504,872 parameters."""
    return MobileNetV2(2, STAGES, 1000)


def mobilenet_v2_32() -> MobileNetV2:
    """Return MobileNetV2 for images of 32 x 32 pixels in ten classes, 2,236,682 parameters.

    The first strided stage keeps the size of its input; the network ends at 2 x 2.
    """
    return MobileNetV2(2, STAGES_32, 10)
