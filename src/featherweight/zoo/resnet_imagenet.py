"""ResNets of four stages: 18, 50 and 152 layers for ImageNet, and 18 layers for images of 32 x 32 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, the last four times as wide, and a shortcut around them.

    The stride is in the 3x3 one, as in torchvision; the paper has it in the first 1x1.
    """

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * self.expansion
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = shortcut(width_in, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, 4 width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """A stem, four stages of residual blocks and a linear layer; names are torchvision's.

    Args:
        stem: convolution to 64 channels, without bias.
        pool: what follows it.
        block: kind of the residual blocks.
        blocks: how many each stage has.
        classes: number of logits.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, table 1; shortcuts are of
        option B.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        pool: nn.Module,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.maxpool = pool
        wide = [width * block.expansion for width in WIDTHS]
        self.layer1 = stage(block, stem.out_channels, WIDTHS[0], blocks[0], stride=1)
        self.layer2 = stage(block, wide[0], WIDTHS[1], blocks[1], stride=2)
        self.layer3 = stage(block, wide[1], WIDTHS[2], blocks[2], stride=2)
        self.layer4 = stage(block, wide[2], WIDTHS[3], blocks[3], stride=2)
        self.fc = nn.Linear(wide[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` of images `x: [n, 3, h, w]`."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def shortcut(width_in: int, width: int, stride: int) -> nn.Module:
    """Return the identity where it fits, else a strided 1x1 convolution and batch norm."""
    if stride == 1 and width_in == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def stage(
    block: type[BasicBlock] | type[Bottleneck], width_in: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    """Return `blocks` residual blocks, of which the first has the stride."""
    rest = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(width_in, width, stride), *rest)


def for_imagenet(block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, int, int, int]) -> ResNet:
    """Return a ResNet for images of 224 x 224 pixels in 1,000 classes."""
    stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    return ResNet(stem, nn.MaxPool2d(3, stride=2, padding=1), block, blocks, 1000)


def resnet18() -> ResNet:
    """Return ResNet-18 for ImageNet, 11,689,512 parameters."""
    return for_imagenet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """Return ResNet-50 for ImageNet, 25,557,032 parameters."""
    return for_imagenet(Bottleneck, (3, 4, 6, 3))


def resnet152() -> ResNet:
    """Return ResNet-152 for ImageNet, 60,192,808 parameters."""
    return for_imagenet(Bottleneck, (3, 8, 36, 3))


def resnet18_32() -> ResNet:
    """Return ResNet-18 for images of 32 x 32 pixels in ten classes, 11,173,962 parameters.

    The stem is a 3x3 convolution of stride 2, and nothing is pooled after it.
    """
    stem = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return ResNet(stem, nn.Identity(), BasicBlock, (2, 2, 2, 2), 10)
