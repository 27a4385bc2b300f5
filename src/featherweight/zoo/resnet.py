"""ResNets: for images of 32 x 32 pixels (option A), for digits of 8 x 8, and of four stages, as for ImageNet."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them, which a subclass adds."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def around(self, x: Tensor) -> Tensor:
        """Return what the shortcut makes of `x: [n, width_in, h, w]`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.around(x))


class PaddedBlock(Block):
    """A block whose shortcut has no parameters.

    Where it halves the image and doubles the channels, the shortcut takes every other pixel and pads with zero
    channels, half of them on each side.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(width_in, width, stride)
        self.stride, self.padding = stride, (width - width_in) // 2

    def around(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(Block):
    """A block with a projection where the shape changes."""

    projected = "downsample"  # torchvision's name

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(width_in, width, stride)
        self.add_module(self.projected, projection(width_in, width, stride))

    def around(self, x: Tensor) -> Tensor:
        shortcut: Tensor = getattr(self, self.projected)(x)
        return shortcut


class DigitsBlock(BasicBlock):
    """The same under another name of the projection."""

    projected = "shortcut"


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
        self.downsample = projection(width_in, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, 4 width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x))


def projection(width_in: int, width: int, stride: int) -> nn.Module:
    """Return the identity where it fits, else a strided 1x1 convolution and batch norm."""
    if stride == 1 and width_in == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def stage(
    block: type[Block] | type[Bottleneck], width_in: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    """Return `blocks` residual blocks, of which the first has the stride."""
    rest = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(width_in, width, stride), *rest)


class SmallResNet(nn.Module):
    """A stem, stages of residual blocks and a linear layer; names are those of the widely used weights of Y. Idelbayev.

    Args:
        channels: of an image.
        block: kind of the residual blocks.
        stages: width and stride of each.
        blocks: how many each stage has.
    """

    def __init__(
        self, channels: int, block: type[Block], stages: tuple[tuple[int, int], ...], blocks: int
    ) -> None:
        super().__init__()
        width = stages[0][0]
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = [f"layer{number}" for number in range(1, len(stages) + 1)]
        for name, (wide, stride) in zip(self.layers, stages, strict=True):
            self.add_module(name, stage(block, width, wide, blocks, stride))
            width = wide
        self.linear = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, channels, h, w]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.layers:
            x = getattr(self, name)(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class ResNetCifar(SmallResNet):
    """A ResNet of `6 * blocks + 2` layers for images of 32 x 32 pixels.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, section 4.2.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__(3, PaddedBlock, ((16, 1), (32, 2), (64, 2)), blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


class ResNetDigits(SmallResNet):
    """ResNet-18 of width 16 for grey images of 8 x 8 pixels: 701,178 parameters.

    The first two of the four stages see 8 x 8 pixels, the others half and a quarter of that. With 2 x 2 pixels in
    the last stage every weight of its filters still meets some; with one, eight of nine would meet padding alone.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, table 1 (18 layers).
    """

    def __init__(self) -> None:
        super().__init__(1, DigitsBlock, ((16, 1), (32, 1), (64, 2), (128, 2)), 2)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks and a linear layer; names are torchvision's.

    Args:
        stem: convolution to 64 channels, without bias.
        pool: what follows it.
        block: kind of the residual blocks; their shortcuts are of option B.
        blocks: how many each stage has.
        classes: number of logits.

    References:
        He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, table 1.
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


def _for_imagenet(block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, int, int, int]) -> ResNet:
    """Return a ResNet for images of 224 x 224 pixels in 1,000 classes."""
    stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    return ResNet(stem, nn.MaxPool2d(3, stride=2, padding=1), block, blocks, 1000)


def resnet20() -> ResNetCifar:
    """Return ResNet-20, 269,722 parameters."""
    return ResNetCifar(3)


def resnet32() -> ResNetCifar:
    """Return ResNet-32, 464,154 parameters."""
    return ResNetCifar(5)


def resnet44() -> ResNetCifar:
    """Return ResNet-44, 658,586 parameters."""
    return ResNetCifar(7)


def resnet56() -> ResNetCifar:
    """Return ResNet-56, 853,018 parameters."""
    return ResNetCifar(9)


def resnet18() -> ResNet:
    """Return ResNet-18 for ImageNet, 11,689,512 parameters."""
    return _for_imagenet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """Return ResNet-50 for ImageNet, 25,557,032 parameters."""
    return _for_imagenet(Bottleneck, (3, 4, 6, 3))


def resnet152() -> ResNet:
    """Return ResNet-152 for ImageNet, 60,192,808 parameters."""
    return _for_imagenet(Bottleneck, (3, 8, 36, 3))


def resnet18_32() -> ResNet:
    """Return ResNet-18 for images of 32 x 32 pixels in ten classes, 11,173,962 parameters.

    The stem is a 3x3 convolution of stride 2, and nothing is pooled after it.
    """
    stem = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return ResNet(stem, nn.Identity(), BasicBlock, (2, 2, 2, 2), 10)
