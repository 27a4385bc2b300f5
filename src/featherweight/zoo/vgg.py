"""VGG-16 for images of 32 x 32 pixels, with batch norm and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions with batch norm, a pooling after each of the five stages, 14,724,042 parameters.

    The three linear layers of the form for 224 x 224 pixels are one of 512 to 10 here, as is usual on CIFAR.

    References:
        Simonyan, Zisserman, 2015: Very deep convolutional networks for large-scale image recognition, table 1 D.
    """

    def __init__(self) -> None:
        super().__init__()
        layers, width_in = list[nn.Module](), 3
        for stage in STAGES:
            for width in stage:
                convolution = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                width_in = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width_in, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 3, 32, 32]`."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
