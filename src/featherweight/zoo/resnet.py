"""ResNets: for images of 32 x 32 pixels (option A), for digits of 8 x 8, and of four stages, as for ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them, which is a projection where the shape changes."""

    expansion = 1
    projected = "downsample"  # torchvision's name

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if self.projected:
            self.add_module(self.projected, projection(width_in, width, stride))

    def around(self, x: Tensor) -> Tensor:
        """Return what the shortcut makes of `x: [n, width_in, h, w]`."""
        shortcut: Tensor = getattr(self, self.projected)(x)
        return shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.around(x))


class PaddedBlock(Block):
    """A block whose shortcut has no parameters.

    Where it halves the image and doubles the channels, the shortcut takes every other pixel and pads with zero
    channels, half of them on each side.
    """

    projected = ""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(width_in, width, stride)
        self.stride, self.padding = stride, (width - width_in) // 2

    def around(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class DigitsBlock(Block):
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


class ResNet(nn.Module):
    """A stem, stages of residual blocks and a linear layer.

    Names are torchvision's; without a pooling those of the widely used weights of Y. Idelbayev.

    Args:
        stem: first convolution, without bias.
        pool: what follows it; None: nothing does.
        block: kind of the residual blocks.
        stages: width, number of blocks, and stride of the first block of each.
        classes: number of logits.
        relu: layers whose weights start as He et al., 2015, have it for ReLU; others as torch has it.

    References: He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, section 4.2 and table 1.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        pool: nn.Module | None,
        block: type[Block] | type[Bottleneck],
        stages: Sequence[tuple[int, int, int]],
        classes: int = 10,
        relu: tuple[type[nn.Module], ...] = (nn.Conv2d,),
    ) -> None:
        super().__init__()
        width = stem.out_channels
        self.conv1, self.bn1, self.maxpool = stem, nn.BatchNorm2d(width), pool
        self.layers = [f"layer{number}" for number in range(1, len(stages) + 1)]
        for name, (wide, count, stride) in zip(self.layers, stages, strict=True):
            first, width = block(width, wide, stride), wide * block.expansion
            self.add_module(name, nn.Sequential(first, *(block(width, wide, 1) for _ in range(count - 1))))
        self.head = "linear" if pool is None else "fc"
        self.add_module(self.head, nn.Linear(width, classes))
        for module in self.modules():
            if isinstance(module, relu):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` of images `x: [n, channels, h, w]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for name in self.layers:
            x = getattr(self, name)(x)
        logits: Tensor = getattr(self, self.head)(x.mean((2, 3)))
        return logits


def resnet_cifar(blocks: int) -> ResNet:
    """Return a ResNet of `6 * blocks + 2` layers for images of 32 x 32 pixels in ten classes."""
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    stages = (16, blocks, 1), (32, blocks, 2), (64, blocks, 2)
    return ResNet(stem, None, PaddedBlock, stages, relu=(nn.Conv2d, nn.Linear))


def resnet_digits() -> ResNet:
    """Return ResNet-18 of width 16 for grey images of 8 x 8 pixels in ten classes, 701,178 parameters.

    The first two of the four stages see 8 x 8 pixels, the others half and a quarter of that. With 2 x 2 pixels in
    the last stage every weight of its filters still meets some; with one, eight of nine would meet padding alone.
    """
    stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    return ResNet(stem, None, DigitsBlock, ((16, 2, 1), (32, 2, 1), (64, 2, 2), (128, 2, 2)), relu=())


def resnet_imagenet(block: type[Block] | type[Bottleneck], counts: tuple[int, int, int, int]) -> ResNet:
    """Return a ResNet for images of 224 x 224 pixels in 1,000 classes, shortcuts of option B."""
    stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    return ResNet(stem, nn.MaxPool2d(3, stride=2, padding=1), block, four_stages(counts), 1000)


def four_stages(counts: tuple[int, int, int, int]) -> list[tuple[int, int, int]]:
    """Return the stages of 64 to 512 channels; each but the first halves the image."""
    return list(zip((64, 128, 256, 512), counts, (1, 2, 2, 2), strict=True))


def resnet18_32() -> ResNet:
    """Return ResNet-18 for images of 32 x 32 pixels in ten classes, 11,173,962 parameters.

    The stem is a 3x3 convolution of stride 2, and nothing is pooled after it.
    """
    stem = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return ResNet(stem, nn.Identity(), Block, four_stages((2, 2, 2, 2)))


resnet20 = partial(resnet_cifar, 3)  # 269,722 parameters
resnet32 = partial(resnet_cifar, 5)  # 464,154
resnet44 = partial(resnet_cifar, 7)  # 658,586
resnet56 = partial(resnet_cifar, 9)  # 853,018
resnet18 = partial(resnet_imagenet, Block, (2, 2, 2, 2))  # 11,689,512
resnet50 = partial(resnet_imagenet, Bottleneck, (3, 4, 6, 3))  # 25,557,032
resnet152 = partial(resnet_imagenet, Bottleneck, (3, 8, 36, 3))  # 60,192,808
