"""ResNets for images of 32 x 32 pixels, with shortcuts that have no parameters (option A)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions and a shortcut around them.

    Where the block halves the image and doubles the channels, the shortcut takes every other pixel and pads
    with zero channels, half of them on each side.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (width - width_in) // 2
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNet(nn.Module):
    """A ResNet of `6 * blocks + 2` layers; names are those of the widely used weights of Y. Idelbayev.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, section 4.2.

    Attributes:
        blocks: residual blocks in each of the three stages.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 3, 32, 32]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Return `blocks` residual blocks, of which the first changes the width."""
    return nn.Sequential(Block(width_in, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))


def resnet20() -> ResNet:
    """Return ResNet-20, 269,722 parameters."""
    return ResNet(3)


def resnet32() -> ResNet:
    """Return ResNet-32, 464,154 parameters."""
    return ResNet(5)


def resnet44() -> ResNet:
    """Return ResNet-44, 658,586 parameters."""
    return ResNet(7)


def resnet56() -> ResNet:
    """Return ResNet-56, 853,018 parameters."""
    return ResNet(9)
