"""ResNet-18 of width 16 for grey images of 8 x 8 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions and a shortcut around them; a projection where the block changes the width."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if width != width_in:
            projection = nn.Conv2d(width_in, width, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNetDigits(nn.Module):
    """Four stages of two blocks, of 16, 32, 64 and 128 channels: 701,178 parameters.

    The first two stages see 8 x 8 pixels, the others half and a quarter of that. With 2 x 2 pixels in the last
    stage every weight of its filters still meets some; with one, eight of nine would meet padding alone.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, table 1 (18 layers).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
        self.layer4 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.linear = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 1, 8, 8]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
